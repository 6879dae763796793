"""What a reader gives for an image: an entry, or the reason why it has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from chexmix_cli.core.data.labels import Label
from chexmix_cli.core.data.tables import TableRow
from chexmix_cli.core.data.views import View
from chexmix_cli.core.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One image as a data set's tables describe it; whether the file exists is not known yet.

    Attributes:
        id: the data set's own name for the image, or one made of it; unique.
        paths: where the file may be, relative to the folder of images, likeliest first.
        study, patient: as the data set names them.
        view: as stated, UNKNOWN if it is not.
        sex, age, source: of the patient, and of the image, as in a manifest.
        split: ``train``, ``val``, ``test``, or None if the data set does not say.
        draw: splits that may be drawn for the patient if ``split`` is None; empty leaves it without.
        labels, findings, impression: as in a manifest.
        notes: where these come from, for the manifest's ``notes``.
    """

    id: str
    paths: tuple[str, ...]
    study: str | None = None
    patient: str | None = None
    view: View = View.UNKNOWN
    sex: str | None = None
    age: float | None = None
    source: str | None = None
    split: str | None = None
    draw: tuple[str, ...] = ("train", "val", "test")
    labels: Mapping[str, Label] = field(default_factory=dict)
    findings: str | None = None
    impression: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejection:
    """An image that is named but gives no row.

    Attributes:
        id: of the image, or the file and line of the table where even that cannot be read.
        code: reason code, as in a record's ``error``.
        message: for people.
    """

    id: str
    code: str
    message: str


def entries(
    rows: Iterable[TableRow], make: Callable[[Mapping[str, str]], Entry], *, id_column: str
) -> Iterator[Entry | Rejection]:
    """Yield what ``make`` makes of each row of a table; a row it refuses becomes a rejection and stops nothing."""
    for row in rows:
        name = row.cells.get(id_column, "").strip() or row.where
        try:
            row.check()
            yield make(row.cells)
        except DataError as error:
            yield Rejection(name, error.code, f"{row.where}: {error}" if error.where is None else str(error))
