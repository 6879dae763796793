"""What every evaluation begins and ends with: the rows of a split, progress, and what could not be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chexmix_cli.core.errors import DataError, Reason

if TYPE_CHECKING:
    from chexmix_cli.core.data.manifest import ManifestRow

#: A label to a block in which a function of (done, in all or None) moves a bar.
ProgressBar = Callable[[str], AbstractContextManager[Callable[[int, int | None], None]]]


@contextmanager
def no_progress(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show nothing."""
    yield lambda done, total: None


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationOptions:
    """How an evaluation is run.

    Attributes:
        seed: of everything that is drawn: rows, masks, pools, resamples.
        with_cases: draw the items that are most right and most wrong, for a page.
        progress: shows how far it is.
    """

    seed: int = 0
    with_cases: bool = False
    progress: ProgressBar = no_progress


def evaluation_rows(manifest: Path, split: str | None) -> tuple[str, list[ManifestRow]]:
    """Return the split that is evaluated and its rows.

    Raises:
        DataError: if the manifest cannot be read, or has no such rows.
    """
    from chexmix_cli.core.data.manifest import read_manifest

    rows = list(read_manifest(manifest))
    wanted = [split] if split is not None else ["test", "val"]
    for name in wanted:
        found = [row for row in rows if row.split == name]
        if found:
            return name, found
    raise DataError(
        Reason.NOT_FOUND,
        f"no row of split {' or '.join(wanted)}",
        where=manifest.name,
        expected="rows to evaluate",
        hint="--split names another",
    )


def manifest_ids(manifest: Path) -> set[str]:
    """Return the ids of all rows of a manifest; errors as :func:`evaluation_rows`."""
    from chexmix_cli.core.data.manifest import read_manifest

    return {row.id for row in read_manifest(manifest)}


def failed_items(failed: Sequence[tuple[str, DataError]]) -> list[Mapping[str, str]]:
    """Return items that could not be used as an evaluation lists them."""
    return [{"id": item_id, "code": error.code, "message": error.with_hint} for item_id, error in failed]
