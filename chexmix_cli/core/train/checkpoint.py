"""Checkpoints: one safetensors file with module, optimiser state and position; written atomically, never pickled."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from chexmix_cli.core.errors import TrainingError

_NAME = re.compile(r"checkpoint-(\d{8})\.safetensors")


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands: ``step`` steps are done; ``best`` is the best value of the task's metric so far."""

    step: int
    best: float | None


def save_checkpoint(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    position: Position,
    settings: dict[str, Any],
    *,
    keep: int,
) -> Path:
    """Write ``checkpoint-<step>.safetensors`` and remove all but the newest ``keep``; return the file."""
    tensors = {f"module.{name}": tensor.contiguous() for name, tensor in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value.contiguous() for name, value in state.items()}
    header = {"step": position.step, "best": position.best, "settings": settings}
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"checkpoint-{position.step:08d}.safetensors"
    partial = target.with_suffix(".partial")
    save_file(tensors, partial, metadata={"chexmix-checkpoint": json.dumps(header)})
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(target)
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    return sorted(path for path in folder.glob("checkpoint-*.safetensors") if _NAME.fullmatch(path.name))


def load_newest(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]
) -> tuple[Position, list[str]]:
    """Restore the newest readable checkpoint into ``module`` and ``optimizer``.

    Returns:
        The position, and one remark for each damaged file that was passed over.

    Raises:
        TrainingError: if there is none, none is readable, or it belongs to other settings.
    """
    remarks: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            tensors, header = _read(path)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            remarks.append(f"{path.name} is damaged ({error}); the one before it is used")
            continue
        _check_settings(header["settings"], settings, path)
        _restore(tensors, module, optimizer)
        return Position(header["step"], header["best"]), remarks
    raise TrainingError(
        "no checkpoint to resume from" if not remarks else "; ".join(remarks),
        where=str(folder),
        hint="leave --resume out to start from the beginning in a new folder",
    )


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["chexmix-checkpoint"])
        return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 (safe_open is no mapping)


def _restore(tensors: dict[str, Tensor], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    module.load_state_dict({name[7:]: tensor for name, tensor in tensors.items() if name.startswith("module.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _check_settings(saved: dict[str, Any], current: dict[str, Any], path: Path) -> None:
    # Lists come back from JSON where tuples went in: compare what JSON makes of both.
    if json.loads(json.dumps(current)) != saved:
        changed = [key for key in saved if json.loads(json.dumps(current.get(key))) != saved[key]]
        raise TrainingError(
            f"settings differ from the checkpoint's in {', '.join(changed) or 'their sections'}",
            where=path.name,
            hint="resume with the settings the run was started with (settings.json in its folder)",
        )
