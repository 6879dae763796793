"""Studies of files and folders, for a loop in Python."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from chexmix_cli.core.data.studies.study import Refusal, Study

_LOG = logging.getLogger("chexmix")


class Studies:
    """The studies that inputs lead to; iterating walks the inputs afresh.

    Attributes:
        refused: what the latest walk has met that gives no study, with the reason. Each is logged as a warning, too.
    """

    def __init__(self, inputs: Sequence[str], views: Literal["frontal", "all"], *, keep_uids: bool) -> None:
        self._inputs, self._views, self._keep_uids = inputs, views, keep_uids
        self.refused: list[Refusal] = []

    def __iter__(self) -> Iterator[Study]:
        """Yield each study, in the order of first files."""
        from chexmix_cli.core.data.studies.inputs import Refusal, discover
        from chexmix_cli.core.settings.inference import InputSettings

        self.refused = []
        for item in discover(self._inputs, InputSettings(views=self._views), keep_uids=self._keep_uids):
            if isinstance(item, Refusal):
                self.refused.append(item)
                _LOG.warning("%s gives no study: %s", item.id, item.error.code)
            else:
                yield item


def studies(
    *inputs: str | os.PathLike[str], views: Literal["frontal", "all"] = "frontal", keep_uids: bool = False
) -> Studies:
    """Return the studies of files, folders (walked), globs and zip archives.

    Args:
        inputs: where to look.
        views: ``frontal`` gives one image a study (PA over AP over unknown), ``all`` every usable image.
        keep_uids: name DICOM studies by their UID instead of a salted hash.
    """
    return Studies([os.fspath(path) for path in inputs], views, keep_uids=keep_uids)
