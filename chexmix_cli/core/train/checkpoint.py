"""Checkpoints: a folder each, with safetensors by torch's distributed checkpointing and a header that seals them.

Every rank writes its own shards; any number of ranks, and either ``train.parallel``, reads them again. A checkpoint
takes its name only when all of it is on the disk, and the header's checksums find what changes later. Nothing is
pickled, and no random state is kept: it is a function of the seed and the step.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from chexmix_cli.core.errors import MachineError, TrainingError
from chexmix_cli.core.files import flush_folder, write_json
from chexmix_cli.core.settings.load import flat
from chexmix_cli.core.train.distributed import barrier, from_all, from_main, is_main, rank, world_size
from chexmix_cli.core.train.ema import WeightAverage
from chexmix_cli.core.weights.formats.header import write_in_order

_NAME = re.compile(r"checkpoint-(\d{8})")
_HEADER = "checkpoint.json"
_SCHEMA = 1
#: Settings that say how a run is computed or kept, not what it learns: a resumed run may have others.
_FREE_SETTINGS = (
    *("parallel", "compile", "checkpoint_activations", "deterministic", "timeout_minutes", "workers"),
    *("checkpoint_every", "keep_checkpoints", "loggers"),
)
#: A resumed run may be longer than it was begun.
_STEPS = "train.steps"
#: What checkpoints of 0.1.0 do not say, and what they mean where a setting is missing.
_SINCE = {"data", "init"}
_DEFAULTS_SINCE = {"model.decoder.attention": "causal"}
#: A file is put together in memory, with a copy, before it is written; so many bytes at most, but a tensor is whole.
FILE_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands.

    Attributes:
        step: steps done.
        best: best value of the task's metric so far, and the step it was measured after.
        stale: validations since then.
        order: hash of all batches so far, in order.
        window: sums since the last report (see ``metrics.Window``).
    """

    step: int = 0
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    order: str = ""
    window: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainState:
    """What a checkpoint holds: the module, the optimiser's state of its parameters, the average of its weights."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name; they are the ones in use, so that writing to them restores the state."""
        found: dict[str, Tensor] = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            found |= {f"optimizer.{key}.{name}": value for key, value in state.items()}
        if self.average is not None:
            found |= {f"average.{name}": value for name, value in self.average.tensors.items()}
        return found

    def num_bytes(self) -> int:
        """Return the size of a checkpoint, all ranks together: with Adam's two means, before the first step too."""
        trainable = [value for value in self.module.parameters() if value.requires_grad]
        copies = 2 if self.average is None else 3
        return _num_bytes(self.module.state_dict().values()) + copies * _num_bytes(trainable)

    def make_room(self, names: list[str]) -> None:
        """Make the optimiser's tensors that a checkpoint has (a fresh optimiser has none), for loading into."""
        parameters = dict(self.module.named_parameters())
        for name in names:
            part, _, rest = name.partition(".")
            if part == "optimizer":
                key, _, owner = rest.partition(".")
                parameter = parameters[owner]
                empty = torch.zeros(()) if key == "step" else torch.zeros_like(parameter.detach())
                self.optimizer.state[parameter][key] = empty


def save_checkpoint(
    folder: Path, state: TrainState, position: Position, settings: dict[str, Any], made_by: dict[str, Any], *, keep: int
) -> Path:
    """Write ``checkpoint-<step>``; then remove all but the newest ``keep`` and the one of the best validation.

    Every rank calls it, with a ``folder`` that all of them reach.

    Raises:
        MachineError: if it cannot be written. The checkpoints before it stay whole.
    """
    target = folder / f"checkpoint-{position.step:08d}"
    partial = folder / f".{target.name}.partial"
    with _write_errors(folder, position.step):
        if is_main():
            for left_over in folder.glob(".checkpoint-*.partial"):
                shutil.rmtree(left_over)
            partial.mkdir(parents=True)
        barrier()
        # By name: the optimiser of a resumed run has them in another order than that of a new one.
        tensors = {name: value.contiguous() for name, value in sorted(state.tensors().items())}
        writer = HuggingFaceStorageWriter(str(partial), fqn_to_index_mapping=_files(tensors), save_distributed=True)
        with _unheard_warnings():
            save(tensors, storage_writer=writer, no_dist=world_size() == 1)
        own = sorted(partial.glob(f"shard-{rank() + 1:05d}-*.safetensors"))
        for file in own:
            write_in_order(file)
        checksums = {
            name: value
            for part in from_all({file.name: _checksum(file) for file in own})
            for name, value in part.items()
        }
        if is_main():
            header = {
                "schema": _SCHEMA,
                "position": asdict(position),
                "randomness": "a pure function of train.seed and the step",
                "made_by": made_by,
                "settings": settings,
                "files": dict(checksums),
            }
            write_json(partial / _HEADER, header)
            if target.exists():  # of the same step, damaged or of an earlier try
                shutil.rmtree(target)
            partial.rename(target)
            flush_folder(folder)
            _remove_old(folder, position, keep)
        barrier()
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    return sorted(path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name))


def load_newest(folder: Path, state: TrainState, settings: dict[str, Any]) -> tuple[Position, list[str]]:
    """Restore the newest checkpoint that is whole into ``state``. Every rank calls it.

    Returns:
        The position, and one remark for each damaged checkpoint that was passed over, or where a checkpoint of an
        earlier version does not say what data it learnt from.

    Raises:
        TrainingError: if there is none, none is whole, or it belongs to other settings, start weights or data.
    """
    remarks: list[str] = []
    for path in reversed(from_main(list_checkpoints(folder))):
        header, problem = _verified(path)
        if problem is not None:
            remarks.append(f"{path.name} is damaged ({problem}); the one before it is used")
            continue
        remarks += _check_settings(header["settings"], settings, path)
        _restore(path, state)
        return Position(**header["position"]), remarks
    raise TrainingError(
        "no checkpoint to resume from" if not remarks else "; ".join(remarks),
        where=str(folder),
        hint="leave --resume out to start from the beginning in a new folder",
    )


def saved_settings(folder: Path) -> dict[str, Any]:
    """Return the settings that the newest readable checkpoint was written under; none where there is none."""
    for path in reversed(list_checkpoints(folder)):
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            return dict(json.loads((path / _HEADER).read_text(encoding="utf-8"))["settings"])
    return {}


def require_space(folder: Path, state: TrainState, *, keep: int) -> None:
    """Raise MachineError if the disk has no room for the checkpoints a run will keep, with one more in writing."""
    one = state.num_bytes()
    # The newest ones, that of the best validation, the one in writing; and the exported weights, twice while replaced.
    need = (keep + 2) * one + 2 * one // 3
    kept = sum(file.stat().st_size for path in list_checkpoints(folder) for file in path.iterdir())
    have = from_main(shutil.disk_usage(folder.parent).free + kept)
    if have < need:
        raise MachineError(
            f"no space left on disk: {have / 1e9:.2f} GB free, {need / 1e9:.2f} GB needed ({keep} + 2 checkpoints of "
            f"{one / 1e9:.2f} GB and the exported weights)",
            where=str(folder.parent),
            hint="free space, choose another --out, or lower train.keep_checkpoints",
        )


def _verified(path: Path) -> tuple[dict[str, Any], str | None]:
    """Return a checkpoint's header and what is wrong with the checkpoint; ranks share the reading of its files."""
    try:
        header = json.loads((path / _HEADER).read_text(encoding="utf-8"))
        if header["schema"] != _SCHEMA:
            return {}, f"its form is {header['schema']!r}, this version reads {_SCHEMA}"
        files = sorted(header["files"].items())
        _check_position(Position(**header["position"]), path)
        if not isinstance(header["settings"], dict):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return {}, f"{_HEADER}: {type(error).__name__}"
    found: list[str] = []
    for name, checksum in files[rank() :: world_size()]:
        try:
            if _checksum(path / name) != checksum:
                found.append(f"{name} is not what was written")
        except OSError as error:
            found.append(f"{name}: {error.strerror}")
    problems = [problem for part in from_all(found) for problem in part]
    if not problems and {name for name, _ in files} != {file.name for file in path.glob("*.safetensors")}:
        problems = [f"{_HEADER} lists other files than there are"]
    return header, problems[0] if problems else None


def _check_position(position: Position, path: Path) -> None:
    """Raise ValueError or TypeError unless a position is one of this checkpoint's step."""
    counts = (position.step, position.best_step, position.stale)
    if any(type(count) is not int for count in counts) or not isinstance(position.window, dict):
        raise TypeError
    if not isinstance(position.order, str) or not (position.best is None or type(position.best) in (int, float)):
        raise TypeError
    if min(counts) < 0 or path.name != f"checkpoint-{position.step:08d}":
        raise ValueError


def _restore(path: Path, state: TrainState) -> None:
    saved = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    state.make_room(list(saved))
    tensors = state.tensors()
    if tensors.keys() != saved.keys():
        other = sorted(tensors.keys() ^ saved.keys())
        raise TrainingError(
            f"holds other tensors than this version trains ({len(other)}, such as {other[0]})",
            where=path.name,
            hint="resume with the version that wrote it (made_by in checkpoint.json)",
        )
    with _unheard_warnings():
        load(tensors, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=world_size() == 1)


def _check_settings(saved: dict[str, Any], current: dict[str, Any], path: Path) -> list[str]:
    """Refuse other settings, start weights and data than a checkpoint's; return what is to be remarked.

    A run may have become longer: order, masks and dropout are functions of seed and step, so what was done stands.
    """
    # Lists come back from JSON where tuples went in: compare what JSON makes of both.
    before, now = (flat(json.loads(json.dumps(settings))) for settings in (saved, current))
    unsaid = sorted({key.split(".")[0] for key in now if key.split(".")[0] in _SINCE - saved.keys()})
    before = {**{key: value for key, value in now.items() if key.split(".")[0] in unsaid}, **_DEFAULTS_SINCE, **before}
    now = {**_DEFAULTS_SINCE, **now}
    free = {f"train.{name}" for name in _FREE_SETTINGS}
    steps, more = before.get(_STEPS), now.get(_STEPS)
    is_longer = isinstance(steps, int) and isinstance(more, int) and more > steps
    free |= {_STEPS} if is_longer else set()
    changed = sorted(key for key in (before.keys() | now.keys()) - free if before.get(key) != now.get(key))
    learnt = [key.removeprefix("data.") for key in changed if key.startswith("data.")]
    if len(changed) > len(learnt):
        others = ", ".join(key for key in changed if not key.startswith("data."))
        raise TrainingError(
            f"settings differ from the checkpoint's in {others}",
            where=path.name,
            hint="resume with the settings the run was started with (settings.json in its folder)",
        )
    if learnt:
        raise TrainingError(
            f"the data differ from the checkpoint's in {', '.join(learnt)}",
            where=path.name,
            hint="resume with the data the run was started with, or train on these in a new folder with --init RUN",
        )
    longer = [f"lengthened from {steps} to {more} steps: from here on the learning rate is that of the new length"]
    return [f"{path.name} does not say its {name}: not compared" for name in unsaid] + (longer if is_longer else [])


def _remove_old(folder: Path, position: Position, keep: int) -> None:
    best = f"checkpoint-{position.best_step:08d}"
    for old in list_checkpoints(folder)[:-keep]:
        if old.name != best:
            shutil.rmtree(old)


def _files(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Return the number of the file, from 1, that each tensor goes into."""
    numbers: dict[str, int] = {}
    number, size = 1, 0
    for name, tensor in tensors.items():
        size += tensor.numel() * tensor.element_size()
        if numbers and size > FILE_BYTES * world_size():
            number, size = number + 1, tensor.numel() * tensor.element_size()
        numbers[name] = number
    return numbers


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _write_errors(folder: Path, step: int) -> Iterator[None]:
    try:
        yield
    except (OSError, CheckpointException) as error:
        cause = error if isinstance(error, OSError) else _first_failure(error)
        if not isinstance(cause, OSError):
            raise cause from None
        if is_main():
            with suppress(OSError):
                shutil.rmtree(folder / f".checkpoint-{step:08d}.partial")
        whole = list_checkpoints(folder)
        before = f"{whole[-1].name} before it is whole" if whole else "there is none before it"
        raise MachineError(
            f"the checkpoint of step {step} could not be written ({os.strerror(cause.errno or 0)}); {before}",
            where=str(folder),
            hint="free space on the disk, then go on with --resume" if whole else "free space on the disk",
        ) from error


def _first_failure(error: CheckpointException) -> BaseException:
    return next(iter(error.failures.values()))[0]


@contextmanager
def _unheard_warnings() -> Iterator[None]:
    """Keep torch from saying that one process checkpoints as one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
