"""Fit the template of ``core/data/rendering/pose.py`` on real films, and measure it on films it has not seen.

    python tools/fit_film_pose.py ../shared/data --write chexmix_cli/assets/film_pose.json

Fitted on the train part of ``radiographs`` and ``adult_normals``; measured on their val parts, each film in all eight
poses, and on ``nih_rotation`` (films that were really filed upright or turned). ``--leave-out`` measures each data set
with a template that was fitted without it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from chexmix_cli.core.data.rendering.pose import GRID, pose_of_ranks, rank_grid

#: Frames that a film is cut to, or set into, for fitting: shares of its sides.
_FRAMES = 4
_REACH = 0.12
_DECAY = 1e-3
_SEED = 0


def films(folder: Path, split: str | None) -> list[dict[str, Any]]:
    """Return the rows of a data set's index, of one split."""
    rows = [json.loads(line) for line in (folder / "index.jsonl").read_text().split("\n") if line]
    return [{**row, "path": folder / row["file"]} for row in rows if split is None or row["split"] == split]


def ranks(row: dict[str, Any], rng: np.random.Generator | None) -> list[NDArray[np.float64]]:
    """Return a film's ranks, whole, and in random frames if a generator is given."""
    with Image.open(row["path"]) as opened:
        image = opened.convert("L")
    grids = [rank_grid(np.asarray(image))]
    width, height = image.size
    for left, top, right, bottom in [] if rng is None else rng.uniform(-_REACH, _REACH, (_FRAMES, 4)):
        box = (int(left * width), int(top * height), int(width * (1 - right)), int(height * (1 - bottom)))
        grids.append(rank_grid(np.asarray(image.crop(box))))
    return grids


def fit(grids: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the template that tells upright films (N, GRID, GRID) from their turned and inverted selves."""
    turned = np.stack([np.rot90(grids, -turns, axes=(1, 2)) for turns in range(4)], axis=1)
    both = np.concatenate([turned, turned[..., ::-1]])  # mirrored films are upright, too
    features = torch.from_numpy(both.reshape(len(both), 4, -1).copy())
    share = torch.from_numpy(np.tile(weights / weights.sum() / 2, 2))
    template = torch.zeros(GRID * GRID, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([template], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = features @ template
        logits = torch.cat([scores, -scores], dim=1)
        value = -(share * torch.log_softmax(logits, dim=1)[:, 0]).sum() + _DECAY * (template**2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    found: NDArray[np.float64] = template.detach().numpy().reshape(GRID, GRID)
    return ((found + found[:, ::-1]) / 2).round(3)  # as symmetric as the films: else alike up to the last steps


def report(name: str, grids: NDArray[np.float64], template: NDArray[np.float64]) -> None:
    """Print false alarms on upright films, and how many are known for sure in any one of the other seven poses.

    The template is held against every pose alike, so that the share is the same for each of them.
    """
    poses = [pose_of_ranks(grid, template) for grid in grids]
    alarms = sum(pose.is_sure and pose[:2] != (0, False) for pose in poses)
    found = sum(pose.is_sure and pose[:2] == (0, False) for pose in poses)
    shares = f"false alarms {alarms} ({alarms / len(poses):.2%})  known when turned {found / len(poses):.1%}"
    print(f"{name:12} {len(poses):5} films  {shares}")


def main() -> None:
    """Fit, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--leave-out", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(_SEED)
    train: dict[str, NDArray[np.float64]] = {}
    val: dict[str, NDArray[np.float64]] = {}
    for split, kept in (("train", train), ("val", val)):
        rows = [row for name in ("radiographs", "adult_normals") for row in films(options.data / name, split)]
        for name in sorted({row["dataset"] for row in rows}):
            chosen = [row for row in rows if row["dataset"] == name]
            kept[name] = np.array([grid for row in chosen for grid in ranks(row, rng if split == "train" else None)])

    def fitted(names: list[str]) -> NDArray[np.float64]:
        # Every data set counts alike, whatever its size.
        weights = np.concatenate([np.full(len(train[name]), 1.0 / len(train[name])) for name in names])
        return fit(np.concatenate([train[name] for name in names]), weights)

    template = fitted(list(train))
    for name, grids in val.items():
        report(name, grids, template)
    print("really turned films (nih_rotation):")
    rows = films(options.data / "nih_rotation", None)
    poses = [pose_of_ranks(ranks(row, None)[0], template) for row in rows]
    for is_turned in (False, True):
        said = [
            pose[:2] if pose.is_sure else None
            for pose, row in zip(poses, rows, strict=True)
            if row["rotated_90_ccw"] is is_turned
        ]
        print(f"  turned {is_turned}: { ({pose: said.count(pose) for pose in set(said)}) }")
    if options.leave_out:
        print("each data set by a template fitted on the others:")
        for name in val:
            report(name, val[name], fitted([other for other in train if other != name]))
    if options.write:
        rows_text = ",\n  ".join(json.dumps(row) for row in template.tolist())
        options.write.write_text(f'{{"template": [\n  {rows_text}\n]}}\n')


if __name__ == "__main__":
    main()
