"""R2Gen's ``annotation.json``: ``{"train": [{"id", "image_path": [...], "report"}], "val": ..., "test": ...}``.

Made from IU X-ray or MIMIC-CXR by others; its report is the findings section, often in lower case, and stays so. A
patient is named only in the MIMIC form (``subject_id``); in the other each report counts as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chexmix_cli.core.data.adapters.entry import Entry, Rejection
from chexmix_cli.core.data.adapters.json_stream import JsonStream
from chexmix_cli.core.data.adapters.layout import require_file
from chexmix_cli.core.data.adapters.reading import read_report, read_split
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.datasets import ImportSettings

_FILE = re.compile(r"\w*annotation\.json")


def read(root: Path, settings: ImportSettings) -> Iterator[Entry | Rejection]:
    """Yield the images of all splits, in the order of the file."""
    with JsonStream(require_file(root, _FILE, "annotation.json")) as stream:
        for name in stream.members():
            split = read_split(name)
            for number, item in enumerate(stream.items()):
                try:
                    yield from list(_images(item, split))
                except DataError as error:
                    named = item.get("id") if isinstance(item, dict) else None
                    yield Rejection(str(named or f"{name}[{number}]"), error.code, str(error))


def _images(item: Any, split: str | None) -> Iterator[Entry]:
    paths = item.get("image_path") if isinstance(item, dict) else None
    if isinstance(paths, str):
        paths = [paths]
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths) or "id" not in item:
        raise DataError(
            Reason.BAD_RECORD, "no id or no image", expected='{"id": ..., "image_path": [...], "report": ...}'
        )
    item_id = str(item["id"])
    study = str(item.get("study_id", item_id))
    report = read_report(item.get("report"), fallback="whole")
    for number, path in enumerate(paths):
        yield Entry(
            id=item_id if len(paths) == 1 else f"{item_id}/{number}",
            paths=(f"images/{path}", path, f"files/{path}"),
            study=study,
            patient=str(item.get("subject_id", study)),
            split=split,
            **report.fields(),
        )
