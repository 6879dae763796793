"""Documents from token shards: nothing is encoded, nothing is held in memory but ids and lengths."""

from __future__ import annotations

from pathlib import Path

from chexmix_cli.core.data.shards import ShardSet, verify_set
from chexmix_cli.core.errors import TrainingError
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.train.examples.documents import require_room
from chexmix_cli.core.weights import WeightsDir
from chexmix_cli.core.weights.fingerprint import known_tokenizer_hash


class ShardDocuments:
    """Examples of one split of a shard set.

    Args:
        shards: the set.
        split: its rows with this split.
        model: in training; its decoder must have room for every report.

    Raises:
        TrainingError: if the split is empty, or a row has no report or one that does not fit.
    """

    num_variants = 1

    def __init__(self, shards: ShardSet, split: str, model: ModelSettings) -> None:
        self._shards, self._row_N = shards, shards.rows_of(split)
        if not len(self._row_N):
            raise TrainingError(
                f"no row with split {split!r}", where=str(shards.folder), expected="shards of train and val images"
            )
        entries = (entry for entry in shards.index() if entry["status"] == "ok")
        self.ids = [entry["id"] for entry in entries if entry.get("split") == split]
        self._lengths = [len(shards.text(int(row))) for row in self._row_N]
        for name, length in zip(self.ids, self._lengths, strict=True):
            if not length:
                raise TrainingError("has no report", where=name, expected="a report for every image")
            require_room(length, model, name)

    def __len__(self) -> int:
        return len(self._row_N)

    def codes(self, index: int, variant: int) -> list[int]:
        """Return the codes of an image; shards hold one encoding of each."""
        assert variant == 0, variant
        found: list[int] = self._shards.codes(int(self._row_N[index])).tolist()
        return found

    def report(self, index: int) -> list[int]:
        """Return the token ids of a report."""
        found: list[int] = self._shards.text(int(self._row_N[index])).tolist()
        return found

    def report_lengths(self) -> list[int]:
        """Return the number of tokens of every report."""
        return self._lengths


def open_shards(folder: Path, start: WeightsDir, tokenizer_file: Path) -> ShardSet:
    """Return a shard set, read through, whose tokens mean to these weights what they meant when they were made.

    Args:
        folder: of the set.
        start: whose image tokenizer the model in training keeps.
        tokenizer_file: the first file of the text tokenizer in use.

    Raises:
        DataError: naming both values, if another codebook, vocabulary or text tokenizer made the tokens; or if
            anything in the set is damaged.
    """
    shards = ShardSet.open(folder)
    vocabulary = start.settings.vocabulary
    shards.require(
        num_codes=vocabulary.num_codes,
        tokens_per_image=vocabulary.tokens_per_image,
        num_text=vocabulary.num_text,
        codebook_hash=start.codebook_hash,
        text_tokenizer_hash=known_tokenizer_hash(shards.identity.text_tokenizer_hash, tokenizer_file.parent),
    )
    verify_set(shards)
    return shards
