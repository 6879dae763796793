"""The documents of ``--documents`` and ``--store``: made for a whole batch, then written and stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chexmix_cli.commands.records.output_paths import OutputPaths, write_file
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.library.documents import ENDINGS, DocumentMaker

if TYPE_CHECKING:
    from chexmix_cli.core.data.dicom.web import DicomwebServer
    from chexmix_cli.core.settings.inference import DocumentKind
    from chexmix_cli.library.jobs.job import Record
    from chexmix_cli.library.reports import StudyReport


class DocumentFiles:
    """Writes the documents of reports to a folder, or to a DICOMweb server, or both.

    Args:
        maker: makes them.
        folder: where they go; None is nowhere.
        server: that stores those of DICOM; None is none.

    Raises:
        SettingsError: if the folder is a file.
    """

    def __init__(self, maker: DocumentMaker, folder: Path | None, server: DicomwebServer | None) -> None:
        if folder is not None and folder.is_file():
            raise SettingsError("is a file", where="--documents", expected="a folder")
        self._make, self._server = maker, server
        paths = {kind: OutputPaths(folder, (ending,)) for kind, ending in ENDINGS.items()} if folder else {}
        self._paths: dict[DocumentKind, OutputPaths] = paths
        self.num_files = 0

    def pass_over(self, record_id: str) -> None:
        """Leave the names alone of the documents of a record that an earlier run has made."""
        for kind in self._make.kinds if self._paths else ():
            self._paths[kind].path(record_id)

    def write(self, results: Sequence[StudyReport], records: Sequence[Record]) -> None:
        """Write a batch's documents, and their names into its records.

        Raises:
            DataError: if a document cannot be made, or is not stored; nothing of the batch is written then.
            MachineError: if a file cannot be written.
        """
        made = [self._make(result, record) for result, record in zip(results, records, strict=True)]
        if self._server is not None:
            self._server.store([content for documents in made for kind, content in documents.items() if kind != "fhir"])
        if not self._paths:
            return
        for result, record, documents in zip(results, records, made, strict=True):
            record["documents"] = {}
            for kind, content in documents.items():
                path = self._paths[kind].path(result.id)
                write_file(path, content, for_owner=True)
                record["documents"][kind] = str(path)
                self.num_files += 1
