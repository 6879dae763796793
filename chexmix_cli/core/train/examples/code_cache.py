"""Codes of a manifest's images, made once, on the run's device, into token shards that every rank and process reads.

A split has a shard set for each variant of its images; a set is like one of ``chexmix tokenize``, without reports.
N examples, V variants of an image, P image positions, C Y X channels, rows, columns.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.data.shards import ShardIdentity, ShardSet, ShardWriter, merge_sets
from chexmix_cli.core.data.shards.journal import ShardTokens
from chexmix_cli.core.data.shards.merge import new_list_hash, update_list_hash
from chexmix_cli.core.infer.image_tokenizer import READ_AHEAD, ImageTokenizer
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.finetuning import FilmSettings
from chexmix_cli.core.settings.load import to_dict
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.settings.training import DocumentSettings, LoopSettings
from chexmix_cli.core.train.distributed import barrier, from_main, is_main, rank, world_size
from chexmix_cli.core.train.examples.films import Films, draw_change, exact_pixels, manifest_films
from chexmix_cli.core.train.examples.prefetch import made_ahead
from chexmix_cli.core.train.examples.run_folder import RunFolder
from chexmix_cli.core.train.order import step_generator
from chexmix_cli.core.weights import WeightsDir

Progress = Callable[[str, int, int], None]
#: What says how many changed encodings of an image there are, and how large the changes.
Changes = DocumentSettings | FilmSettings

#: Keeps the randomness of encoding apart from that of training steps, which count from 0.
_STREAM = 1_000_003
#: Images of a shard: what is encoded again after an interruption, at most.
_ROWS = 1024


class Codes(Protocol):
    """Codes of images, (N, V, P) uint16, variant 0 the image as it is: an array, or what reads them from files."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: tuple[Any, Any], /) -> Any:
        """Return the codes of images (a number, numbers, a slice), each in a variant (a number, numbers), as numpy."""


@dataclass(frozen=True, slots=True)
class ShardCodes:
    """Codes in token shards, read when they are asked for.

    Attributes:
        sets: of each variant.
        row_N: of each image, in every set.
    """

    sets: tuple[ShardSet, ...]
    row_N: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return N, V and P."""
        return len(self.row_N), len(self.sets), self.sets[0].identity.tokens_per_image

    def __getitem__(self, key: tuple[Any, Any]) -> NDArray[np.uint16]:
        chosen, variants = key
        if isinstance(chosen, int):
            codes_P: NDArray[np.uint16] = self.sets[variants].codes(int(self.row_N[chosen]))
            return codes_P
        row_B, variant_B = np.broadcast_arrays(self.row_N[chosen], variants)
        found = np.empty((len(row_B), self.shape[2]), np.uint16)
        for place, (row, variant) in enumerate(zip(row_B.tolist(), variant_B.tolist(), strict=True)):
            found[place] = self.sets[variant].codes(row)
        return found


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the images of a run are encoded, and where to.

    Attributes:
        model: settings of the model.
        codebook_hash: of its image tokenizer.
        changes: number and size of the changes that make variants.
        seed: of the changes.
        device: that encodes.
        workers: processes that read and change films ahead; 0 for none.
        folder: for codes of these films, made so, and no others.
    """

    model: ModelSettings
    codebook_hash: str
    changes: Changes
    seed: int
    device: torch.device
    workers: int
    folder: Path

    @classmethod
    def in_run(
        cls,
        run: RunFolder,
        learnt: Mapping[str, Any],
        start: WeightsDir,
        changes: Changes,
        train: LoopSettings,
        device: torch.device,
    ) -> Self:
        """Return how a run encodes the images of its start weights, into its cache. Every rank calls it.

        Args:
            run: the run folder.
            learnt: digests of what it learns from.
            start: the start weights, whose image tokenizer encodes.
            changes: number and size of the changes.
            train: seed and workers.
            device: that encodes.
        """
        facts = {
            "data": learnt,
            "codebook": start.codebook_hash,
            "image": to_dict(start.settings.image),
            "changes": to_dict(changes),
            "seed": train.seed,
            "device": device.type,
        }
        folder = run.open_cache(facts)
        return cls(start.settings, start.codebook_hash, changes, train.seed, device, train.workers, folder)

    def variants_of(self, split: str) -> int:
        """Return the number of encodings of each image of a split."""
        return self.changes.variants if split == "train" else 1

    def identity(self, part: int = 0, num_parts: int = 1) -> ShardIdentity:
        """Return what the shard sets say of themselves."""
        preset = resolve_preset("model", self.model.image, self.model.vqgan.image_channels)
        return ShardIdentity(
            codebook_hash=self.codebook_hash,
            preset=preset.intensity,
            preset_hash=preset.hash,
            dtype="float32",
            device=self.device.type,
            views="all",
            frame=0,
            num_codes=self.model.vocabulary.num_codes,
            tokens_per_image=self.model.vocabulary.tokens_per_image,
            num_text=self.model.vocabulary.num_text,
            text_tokenizer_hash=None,
            rows=_ROWS,
            part=part,
            num_parts=num_parts,
        )


def training_tokenizer(vqgan: Vqgan, model: ModelSettings) -> ImageTokenizer:
    """Return the image tokenizer that encodes examples; how many it takes together is not a setting of training."""
    return ImageTokenizer(vqgan, model, memory_hint=None)


def encode_splits(
    rows: Mapping[str, Sequence[ManifestRow]], vqgan: Vqgan, encoding: Encoding, progress: Progress
) -> dict[str, ShardCodes]:
    """Return the codes of every split: all variants of train images, of every other split the images alone.

    What is in the folder already is taken, what is missing is made: each rank makes a part, and all read all of it.

    Args:
        rows: of each split.
        vqgan: trained image tokenizer; on the run's device meanwhile.
        encoding: how, and where to.
        progress: called with (what, done, in all).

    Raises:
        DataError: naming the row, if an image cannot be read; or if shards are damaged or of another identity.
        MachineError: if memory runs out.
    """
    was_on = vqgan.quant_conv.weight.device
    tokenizer = training_tokenizer(vqgan.to(encoding.device), encoding.model)
    codes: dict[str, ShardCodes] = {}
    for split, found in rows.items():
        folders = [encoding.folder / f"{split}-{variant}" for variant in range(encoding.variants_of(split))]
        if not from_main(all(_is_whole(folder) for folder in folders)):
            _encode_split(split, found, tokenizer, encoding, folders, progress)
        sets = tuple(ShardSet.open(folder) for folder in folders)
        for one in sets:
            one.require(**encoding.identity().to_dict())
        codes[split] = ShardCodes(sets, np.arange(len(found)))
    vqgan.to(was_on)
    return codes


def _is_whole(folder: Path) -> bool:
    return (folder / "shards.json").exists() and bool(ShardSet.open(folder, allow_partial=True).totals)


def _encode_split(
    split: str,
    rows: Sequence[ManifestRow],
    tokenizer: ImageTokenizer,
    encoding: Encoding,
    folders: Sequence[Path],
    progress: Progress,
) -> None:
    size, number = world_size(), rank()
    mine = range(len(rows) * number // size, len(rows) * (number + 1) // size)
    parts = [folder.with_name(f"{folder.name}-parts") for folder in folders]
    own = folders if size == 1 else [part / f"part-{number}-of-{size}" for part in parts]
    _encode_rows(split, rows, mine, tokenizer, encoding, own, progress)
    barrier()
    for folder, part in zip(folders, parts, strict=True) if size > 1 and is_main() else ():
        sets = [ShardSet.open(part / f"part-{other}-of-{size}") for other in range(size)]
        merge_sets(sets, folder, lambda done, total: None)
        shutil.rmtree(part)
    barrier()


def _encode_rows(
    split: str,
    rows: Sequence[ManifestRow],
    mine: range,
    tokenizer: ImageTokenizer,
    encoding: Encoding,
    folders: Sequence[Path],
    progress: Progress,
) -> None:
    """Write the shard sets of one rank's rows, going on where an earlier start stopped."""
    ids = [row.id for row in rows]
    list_hash = new_list_hash()
    for name in ids:
        update_list_hash(list_hash, name)
    identity = encoding.identity(rank(), world_size())
    views = FilmViews(manifest_films(rows, encoding.model), encoding, len(folders))
    with ExitStack() as stack:
        writers = [ShardWriter(folder, identity) for folder in folders]
        for writer in writers:
            stack.callback(writer.close)
        # Shards are whole or not there: variants that are a shard ahead of another are encoded again, and passed over.
        begin = min(writer.num_finished for writer in writers)
        left = mine[begin:]
        made = stack.enter_context(made_ahead(views, left, encoding.workers)) if left else iter(())
        for order in mine[:begin]:
            for writer in writers:
                writer.skip(order, ids[order])
        for group in _groups(left, begin, max(1, READ_AHEAD // len(folders))):
            films = torch.stack(list(islice(made, len(group))), dim=1)
            for writer, film_NCYX in zip(writers, films, strict=True):
                for order, code_P in zip(group, tokenizer.encode(film_NCYX).numpy(), strict=True):
                    if writer.skip(order, ids[order]) is None:
                        fields = {"id": ids[order], "status": "ok", "split": split}
                        writer.add(order, fields, ShardTokens(code_P))
            progress(f"encode {split}", group[-1] - mine[0] + 1, len(mine))
        for writer in writers:
            writer.finish(num_listed=len(rows), list_hash=list_hash.hexdigest())


def _groups(numbers: range, begin: int, size: int) -> Iterator[range]:
    """Yield images that are encoded together: none reaches over a shard's end, where an interrupted run goes on.

    Args:
        numbers: of the images.
        begin: how many stand before them; a shard's end, unless nothing is left.
        size: of a group, at most.
    """
    assert begin % _ROWS == 0 or not numbers, begin
    for start in range(0, len(numbers), _ROWS):
        shard = numbers[start : start + _ROWS]
        for first in range(0, len(shard), size):
            yield shard[first : first + size]


class FilmViews:
    """An image and its changed variants as pixels; a function of the image's number, and picklable.

    Args:
        films: of one split.
        encoding: number and size of the changes, and their seed.
        variants: how many, the image as it is among them.
    """

    def __init__(self, films: Films, encoding: Encoding, variants: int) -> None:
        self._films, self._changes, self._seed, self._variants = films, encoding.changes, encoding.seed, variants

    def __call__(self, index: int) -> Tensor:
        """Return an image in all its variants, (V, C, Y, X) float32 in [-1, 1]."""
        crop, intensity = self._changes.crop_jitter, self._changes.intensity_jitter
        picture = self._films.picture(index)
        found = [exact_pixels(picture)]
        for variant in range(1, self._variants):
            draw = draw_change(step_generator(self._seed, _STREAM + index * self._variants + variant))
            found.append(self._films.change(picture, draw, crop=crop, intensity=intensity, flip=False))
        return torch.from_numpy(np.stack(found))
