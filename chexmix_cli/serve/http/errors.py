"""What a request is refused with: a code of ours, its HTTP status, and the form that OpenAI's API gives errors."""

from __future__ import annotations

from typing import Any

from chexmix_cli.core.errors import (
    ChexmixError,
    DataError,
    MachineError,
    Reason,
    SettingsError,
    ShapeError,
    VocabularyError,
)
from chexmix_cli.core.runtime import is_out_of_memory
from chexmix_cli.library.results import error_code

#: Code to status. Codes of films that give no result (:class:`Reason`) are 422, ``TOO_LARGE`` 413.
STATUS: dict[str, int] = {
    "BAD_REQUEST": 400,
    "UNKNOWN_FIELD": 400,
    "UNSUPPORTED_FIELD": 400,
    "NO_IMAGE": 400,
    "SEVERAL_IMAGES": 400,
    "BAD_IMAGE_URL": 400,
    "REMOTE_IMAGE": 400,
    "SETTINGS": 400,
    "BAD_TOKEN": 401,
    "FOREIGN_HOST": 403,
    "NO_SUCH_PATH": 404,
    "NO_SUCH_MODEL": 404,
    "BAD_METHOD": 405,
    "TOO_SLOW": 408,
    "TOO_LARGE": 413,
    "BAD_CONTENT_TYPE": 415,
    "QUEUE_FULL": 429,
    "CLIENT_GONE": 499,
    "BUG": 500,
    "WEIGHTS": 500,
    "NO_HEAD": 501,
    "STOPPING": 503,
    "MACHINE": 503,
    "OUT_OF_TIME": 504,
}
_UNPROCESSABLE = 422
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_FIRST_SERVER_STATUS = 500
#: Seconds until what the machine lacks may be there.
_RETRY_S = 60


class RefusedError(Exception):
    """A request that gets no result.

    Args:
        code: of :data:`STATUS`, or of a :class:`Reason`.
        message: what is wrong and what was expected; nothing of a patient, no value of the request's.
        param: the field it concerns.
        retry_after_s: when to try again, where that may help.
    """

    def __init__(self, code: str, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param, self.retry_after_s = code, message, param, retry_after_s
        self.status = STATUS.get(code, _UNPROCESSABLE)

    def body(self) -> dict[str, Any]:
        """Return the error as OpenAI's API words it."""
        kind = "server_error" if self.status >= _FIRST_SERVER_STATUS else "invalid_request_error"
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, kind),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """Return the headers that go with it."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.code == "BAD_TOKEN" else {})


def refusal_of(error: ChexmixError, *, param: str | None = None) -> RefusedError:
    """Return what a request is told of an error: of a film, of its settings, or of the model."""
    if isinstance(error, DataError | ShapeError | VocabularyError | SettingsError):
        return RefusedError(error_code(error), error.with_hint, param=param)
    if isinstance(error, MachineError):
        return RefusedError("MACHINE", str(error), retry_after_s=_RETRY_S)
    # Its message may name a path of the server's.
    return RefusedError("WEIGHTS", "the model cannot do this: see the server's log")


def refusal_of_foreign(error: Exception) -> RefusedError:
    """Return what a request is told of an error that is none of ours: nothing of what it says."""
    if is_out_of_memory(error):
        return RefusedError("MACHINE", "not enough memory", retry_after_s=_RETRY_S)
    return RefusedError("BUG", "an unexpected error, which is a bug of chexmix: see the server's log")


def known_codes() -> set[str]:
    """Return every code that an answer can have."""
    return {*STATUS, *(reason.value for reason in Reason)}
