"""What a plan knows of the data: of a manifest, or assumed without one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.train.examples.films import ManifestFilms
from chexmix_cli.core.train.examples.splits import read_splits

#: Films that are read to see how long that takes.
_FILMS = 8
#: Letters of English text that make one token, about: what the embedded model's tokenizer and GPT-2's both come to.
_LETTERS_PER_TOKEN = 4
#: Report length where no manifest says one.
_ASSUMED_TOKENS = 64


@dataclass(frozen=True, slots=True)
class DataFacts:
    """Counts, and what reading costs.

    Attributes:
        num_train, num_val: rows of the two splits; 0 where no manifest is given.
        report_tokens: about how many tokens each of some reports has.
        film_bytes: what training keeps of the films of both splits, together.
        read_s: seconds to read all of them.
    """

    num_train: int
    num_val: int
    report_tokens: tuple[int, ...]
    film_bytes: int
    read_s: float


def data_facts(data: Path | None, model: ModelSettings) -> DataFacts:
    """Return the facts of a manifest, a few of its films read, or what is assumed without one.

    Raises:
        DataError: if the manifest or one of the few films cannot be read.
        TrainingError: if the manifest lacks a split.
    """
    if data is None:
        return DataFacts(0, 0, (_ASSUMED_TOKENS,), 0, 0.0)
    rows = read_splits(data)
    few = _spread(rows["train"])
    started = time.perf_counter()
    films = ManifestFilms(few, model)
    film_bytes = sum(films[place].num_bytes for place in range(len(few)))
    read_s = (time.perf_counter() - started) / len(few)
    total = len(rows["train"]) + len(rows["val"])
    room = model.decoder.max_positions - model.vocabulary.prompt_length
    tokens = tuple(
        min(room, max(1, len(row.report) // _LETTERS_PER_TOKEN)) for row in rows["train"] if row.report is not None
    )
    return DataFacts(
        num_train=len(rows["train"]),
        num_val=len(rows["val"]),
        report_tokens=tokens or (_ASSUMED_TOKENS,),
        film_bytes=round(film_bytes / len(few) * total),
        read_s=read_s * total,
    )


def _spread(rows: list[ManifestRow]) -> list[ManifestRow]:
    count = min(_FILMS, len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]
