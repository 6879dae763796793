"""The records of a run, with pictures of their films, as one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chexmix_cli.commands.records.output_paths import write_file
from chexmix_cli.library.jobs.job import Record

if TYPE_CHECKING:
    from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
    from chexmix_cli.library.films import Film

ENDING = ".html"


class RecordPage:
    """Takes records and pictures, and writes the page when it is told to.

    Args:
        paths: where it goes.
        command: whose records they are.
    """

    def __init__(self, paths: Sequence[Path], command: str) -> None:
        self.paths, self._command = paths, command
        self._records: list[Record] = []
        #: By record and caption: a batch that is tried again shows its films again.
        self._pictures: dict[str, dict[str, bytes]] = {}
        self._found: dict[str, bytes] = {}

    def add(self, record: Record) -> None:
        """Take a record."""
        self._records.append(record)

    def show(self, record_id: str, caption: str, levels: Any) -> None:
        """Take a picture of a record, 8-bit levels (Y, X[, 3])."""
        self._pictures.setdefault(record_id, {})[caption] = _packed(levels)

    def show_found(self, found_id: str, levels: Any) -> None:
        """Take the picture of an image that a query found."""
        self._found[found_id] = _packed(levels)

    def write(self) -> None:
        """Write the page.

        Raises:
            MachineError: if it cannot be written.
        """
        from chexmix_cli.core.present.pages import Picture, records_page

        pictures = {
            name: [Picture(caption, content) for caption, content in shown.items()]
            for name, shown in self._pictures.items()
        }
        names = {str(record["id"]): record["file"] for record in self._records if "file" in record}
        page = records_page(self._command, self._records, pictures, found=self._found, names=names).encode()
        for path in self.paths:
            write_file(path, page)


def with_films(
    process: Callable[[list[Film]], list[Record]], page: RecordPage | None, images: ImageTokenizer
) -> Callable[[list[Film]], list[Record]]:
    """Return ``process``, which then also shows the films it gets on the page, if there is one."""
    if page is None:
        return process

    def shown(films: list[Film]) -> list[Record]:
        from chexmix_cli.library.films import film_levels

        for film in films:
            page.show(film.id, "film", film_levels(film, film.codes or [], images))
        return process(films)

    return shown


def _packed(levels: Any) -> bytes:
    from PIL import Image

    from chexmix_cli.core.present.pages.pictures import packed

    return packed(Image.fromarray(levels))
