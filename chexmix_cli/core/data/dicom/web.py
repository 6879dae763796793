"""Studies of a DICOMweb server (PS3.18): searched, fetched, stored. Only the URL that was given is ever spoken to.

A server cannot send us elsewhere: redirects are refused, URLs in its answers are not followed, and what is asked for
next is made of UIDs alone.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from chexmix_cli.core.data.dicom.file import quiet
from chexmix_cli.core.data.dicom.triage import MODALITIES
from chexmix_cli.core.errors import DataError, Reason, SettingsError, missing_package

#: What an input begins with that is a URL of DICOMweb.
PREFIX = "dicomweb+"
#: Sent as a bearer token, where it is set; user names and passwords are taken from ~/.netrc.
TOKEN_VARIABLE = "CHEXMIX_DICOMWEB_TOKEN"
#: Studies of one input; more are an archive, and better read from its disks.
MOST_STUDIES = 1000

#: Detail of ``NOT_STORED`` where the server was reached.
REFUSED = "REFUSED"
#: Answers to STOW-RS that mean the documents, not the server (PS3.18, 10.5.3).
_REFUSALS = (400, 406, 409, 413, 415)

_STUDY, _SERIES, _MODALITY = "0020000D", "0020000E", "00080060"
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_SECONDS_TO_CONNECT, _SECONDS_TO_READ = 10, 120
_MOST_JSON_BYTES = 64 << 20


class DicomwebServer:
    """One server.

    Args:
        url: of its DICOMweb service, http or https.
        where: what the URL was given as, for errors.
        max_bytes: of one series.

    Raises:
        SettingsError: if the URL is none.
        MachineError: if dicomweb-client is not installed.
    """

    def __init__(self, url: str, *, where: str, max_bytes: int = _MOST_JSON_BYTES) -> None:
        parts = urlsplit(url.removeprefix(PREFIX))
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            expected = "http://HOST:PORT/PATH of a DICOMweb service"
            raise SettingsError("is no URL of DICOMweb", where=where, expected=expected)
        if parts.username is not None or parts.password is not None:
            raise SettingsError("a password in a URL is seen by others", where=where, expected="it in ~/.netrc")
        if find_spec("dicomweb_client") is None:
            raise missing_package("dicomweb-client", "clinical", where=where)
        self._url, self._where, self._max_bytes = parts.geturl().rstrip("/"), where, max_bytes

    def find(self, query: Mapping[str, str]) -> list[str]:
        """Return the UIDs of studies by QIDO-RS, sorted.

        Args:
            query: as the standard has it, such as ``{"StudyDate": "20240101-20240131"}`` (PS3.18, 8.3.4).

        Raises:
            DataError: if the server does not answer, or has too many.
        """
        found: set[str] = set()
        with self._client(_MOST_JSON_BYTES) as client:
            while True:
                # A server may give less at a time than it is asked for, or know no offset.
                page = client.search_for_studies(additional_params={"offset": len(found), **query})
                new = {uid for entry in page if (uid := _uid(entry, _STUDY))} - found
                found |= new
                if len(found) > MOST_STUDIES:
                    raise DataError(
                        Reason.TOO_LARGE,
                        f"the query finds more than {MOST_STUDIES} studies",
                        where=self._where,
                        hint="narrow it, or add limit=N",
                    )
                if not new or {"limit", "offset"} & set(query):
                    return sorted(found)

    def fetch(self, study: str, folder: Path) -> list[Path]:
        """Fetch the radiographs of a study by WADO-RS, as they are stored; return their files.

        Series of other modalities are not fetched.

        Raises:
            DataError: if the server does not answer, or has no such study, or one that is too large.
        """
        with self._client(_MOST_JSON_BYTES) as client:
            entries = client.search_for_series(study)
        if not entries:
            raise DataError(Reason.NOT_FOUND, "no such study", where=self._where)
        written: list[Path] = []
        for entry in entries:
            series, modality = _uid(entry, _SERIES), _text(entry, _MODALITY)
            if series is None or (modality and modality.upper() not in MODALITIES):
                continue
            with self._client(self._max_bytes) as client:
                for dataset in client.iter_series(study, series, media_types=(("application/dicom", "*"),)):
                    written.append(folder / f"{len(written):04}.dcm")
                    dataset.save_as(written[-1])
        return written

    def store(self, documents: Sequence[bytes]) -> None:
        """Store DICOM files by STOW-RS; what the server has already stays as it is.

        Raises:
            DataError: ``NOT_STORED`` if it does not answer, with ``REFUSED`` as its detail if it refuses one of them.
        """
        import requests
        from pydicom import dcmread

        try:
            with self._client(_MOST_JSON_BYTES) as client:
                datasets = [dcmread(io.BytesIO(document)) for document in documents]
                try:
                    failed = client.store_instances(datasets).get("FailedSOPSequence") or ()
                except requests.HTTPError as error:
                    if error.response is None or error.response.status_code not in _REFUSALS:
                        raise
                    raise self._refused(len(documents), f"status {error.response.status_code}") from None
        except DataError as error:
            if error.reason is Reason.NOT_STORED:
                raise
            raise DataError(Reason.NOT_STORED, error.what, where=self._where, hint=error.hint) from None
        if failed:
            reason = failed[0].get("FailureReason")
            raise self._refused(len(failed), "no reason" if reason is None else f"failure reason {int(reason):04X}")

    def _refused(self, count: int, reason: str) -> DataError:
        what = f"the server refuses {count} documents ({reason})"
        return DataError(Reason.NOT_STORED, what, detail=REFUSED, where=self._where)

    @contextmanager
    def _client(self, max_bytes: int) -> Iterator[Any]:
        """Give a client; whatever it raises becomes a DataError without anything of the server's answer."""
        import requests
        from dicomweb_client import DICOMwebClient

        timeout = (_SECONDS_TO_CONNECT, _SECONDS_TO_READ)
        logger = logging.getLogger("dicomweb_client")
        logger.disabled = True  # it quotes URLs, and those quote patients
        with quiet(), _session(max_bytes) as session:
            client = DICOMwebClient(self._url, session=session, timeout=timeout)
            # Its pauses are long, and its error hides the status: who calls knows better whether to try again.
            client.set_http_retry_params(retry=False)
            try:
                yield client
            except (DataError, OSError) as error:
                if isinstance(error, requests.TooManyRedirects):
                    what, hint = "the server redirects, which is not followed", "give the URL that it redirects to"
                    raise DataError(Reason.UNREADABLE, what, where=self._where, hint=hint) from None
                if isinstance(error, requests.HTTPError) and error.response is not None:
                    raise _http_error(error.response.status_code, self._where) from None
                if isinstance(error, requests.RequestException):
                    raise DataError(Reason.UNREADABLE, "the server does not answer", where=self._where) from None
                raise
            except Exception as error:  # an answer that is no DICOMweb makes the client raise almost anything
                what = f"the server's answer is not understood ({type(error).__name__})"
                raise DataError(Reason.UNREADABLE, what, where=self._where) from None


def split_input(text: str, where: str) -> tuple[str, str | None, dict[str, str]]:
    """Return the URL of the service, the study's UID and the query of ``dicomweb+http://HOST/PATH/studies...``.

    Raises:
        SettingsError: if the text has another form.
    """
    parts = urlsplit(text.removeprefix(PREFIX))
    service, _, study = parts.path.rstrip("/").partition("/studies")
    uid = study.removeprefix("/") or None
    if not parts.path.rstrip("/").endswith(f"/studies{study}") or (uid and not _UID.fullmatch(uid)):
        raise SettingsError(
            "is no input", where=where, expected=f"{PREFIX}http://HOST/PATH/studies?QUERY or .../studies/UID"
        )
    return parts._replace(path=service, query="", fragment="").geturl(), uid, dict(parse_qsl(parts.query))


@contextmanager
def _session(max_bytes: int) -> Iterator[Any]:
    """Give a session that follows no redirect and reads no more than so many bytes of an answer."""
    import requests

    class Bounded(requests.Session):
        answers: list[Any]

        def close(self) -> None:
            # One that was not read to its end keeps its connection.
            for response in self.answers:
                response.close()
            super().close()

        def send(self, request: Any, **arguments: Any) -> Any:
            response = super().send(request, **{**arguments, "stream": True, "allow_redirects": False})
            self.answers.append(response)
            if response.is_redirect:
                raise requests.TooManyRedirects
            read = response.iter_content

            def bounded(*given: Any, **named: Any) -> Iterator[bytes]:
                num_bytes = 0
                for chunk in read(*given, **named):
                    num_bytes += len(chunk)
                    if num_bytes > max_bytes:
                        raise DataError(
                            Reason.TOO_LARGE,
                            "the server's answer is too large",
                            expected=f"at most {max_bytes >> 20} MiB (input.max_file_mb)",
                        )
                    yield chunk

            response.iter_content = bounded  # type: ignore[method-assign]
            return response

    with Bounded() as session:
        session.answers = []
        token = os.environ.get(TOKEN_VARIABLE)
        if token:
            session.headers["Authorization"] = f"Bearer {token}"
        yield session


def _http_error(status: int, where: str) -> DataError:
    if status in (401, 403):
        hint = f"set {TOKEN_VARIABLE}, or put user and password into ~/.netrc"
        return DataError(Reason.UNREADABLE, f"the server refuses (status {status})", where=where, hint=hint)
    if status == 404:
        return DataError(Reason.NOT_FOUND, "the server has nothing there (status 404)", where=where)
    return DataError(Reason.UNREADABLE, f"the server answers status {status}", where=where)


def _text(entry: Mapping[str, Any], tag: str) -> str | None:
    """Return the first value of an element of DICOM JSON (PS3.18, F.2)."""
    values = entry.get(tag, {}).get("Value") or [None]
    return None if values[0] is None else str(values[0])


def _uid(entry: Mapping[str, Any], tag: str) -> str | None:
    text = _text(entry, tag)
    return text if text is not None and len(text) <= 64 and _UID.fullmatch(text) else None
