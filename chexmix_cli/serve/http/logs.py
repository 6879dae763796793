"""The log: one line of JSON an event, on stderr. No id, text or header of a film, no message of a library in it."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chexmix_cli.core.errors import ChexmixError

_PACKAGE = Path(__file__).resolve().parents[2]
#: Attribute of a log record that holds an event's fields.
_FIELDS = "chexmix_fields"


class JsonLines(logging.Formatter):
    """Writes a log record as JSON: ``time`` (UTC), ``level``, ``event``, and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        stamp = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head = {"time": stamp.replace("+00:00", "Z"), "level": record.levelname.lower()}
        fields: dict[str, Any] | None = getattr(record, _FIELDS, None)
        if fields is None:
            # The project's own messages name no patient; those of others may quote what they were given.
            is_ours = record.name.startswith("chexmix")
            said = record.getMessage() if is_ours else str(record.msg)
            fields = {"event": "message", "logger": record.name, "message": said}
        return json.dumps({**head, **fields}, ensure_ascii=False)


def start_logging(*, is_verbose: bool, is_quiet: bool) -> None:
    """Send the logs of the project and of uvicorn to stderr as JSON; uvicorn's information only if verbose."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    ours = logging.ERROR if is_quiet else logging.INFO
    for name, level in (("chexmix", ours), ("uvicorn", logging.INFO if is_verbose else logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)


def log_event(logger: logging.Logger, event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Write an event; fields that are None are left out."""
    given = {name: value for name, value in fields.items() if value is not None}
    logger.log(level, event, extra={_FIELDS: {"event": event, **given}})


def log_exception(logger: logging.Logger, error: BaseException, *, during: str) -> None:
    """Write what kind of error came up and where in the code; its message only if it is one of ours."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]
    message = str(error) if isinstance(error, ChexmixError) else None
    kind = type(error).__name__
    log_event(logger, "error", level=logging.ERROR, during=during, kind=kind, message=message, at=places)


def _short(path: str) -> str:
    found = Path(path)
    return found.relative_to(_PACKAGE).as_posix() if found.is_relative_to(_PACKAGE) else found.name
