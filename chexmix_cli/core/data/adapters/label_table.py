"""Labels by key, compactly: joins a table of labels to the table of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chexmix_cli.core.data.labels import Label, parse_labels
from chexmix_cli.core.errors import DataError

#: A label is a byte, so that 200,000 studies of 14 labels take tens of megabytes.
_ABSENT_COLUMN, _CODES = 4, {None: 0, 0: 1, 1: 2, -1: 3}
_VALUES: Mapping[int, Label] = {code: value for value, code in _CODES.items()}


class LabelTable:
    """Labels of a fixed list of findings.

    Args:
        findings: names, in the order that ``get`` gives them.
        source: the table's file name, for notes.
    """

    def __init__(self, findings: Sequence[str], source: str) -> None:
        self.findings, self.source = tuple(findings), source
        self._labels: dict[str, bytes] = {}
        self._problems: dict[str, DataError] = {}

    def put(self, key: str, cells: Mapping[str, object]) -> None:
        """Keep the labels of a row; one that states no label is remembered, and raised when it is asked for."""
        try:
            stated = parse_labels(cells, self.findings)
            self._labels[key] = bytes(
                _CODES[stated[finding]] if finding in stated else _ABSENT_COLUMN for finding in self.findings
            )
        except DataError as error:
            self._problems[key] = error

    def get(self, key: str) -> dict[str, Label] | None:
        """Return the labels of a key, without findings that the table has no column for; None if it is not there.

        Raises:
            DataError: what was wrong with the row.
        """
        if key in self._problems:
            raise self._problems[key]
        codes = self._labels.get(key)
        if codes is None:
            return None
        pairs = zip(self.findings, codes, strict=True)
        return {finding: _VALUES[code] for finding, code in pairs if code != _ABSENT_COLUMN}
