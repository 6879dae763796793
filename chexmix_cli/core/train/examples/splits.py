"""A manifest's train and val rows."""

from __future__ import annotations

from pathlib import Path

from chexmix_cli.core.data.manifest import ManifestRow, read_manifest
from chexmix_cli.core.errors import TrainingError


def read_splits(manifest: Path) -> dict[str, list[ManifestRow]]:
    """Return the ``train`` and ``val`` rows of a manifest; TrainingError if there are none of one."""
    rows = {split: list(read_manifest(manifest, split=split)) for split in ("train", "val")}
    for split, found in rows.items():
        if not found:
            raise TrainingError(f"no row with split {split!r}", where=manifest.name, expected="train and val rows")
    return rows
