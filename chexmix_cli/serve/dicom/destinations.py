"""Where results go: to an application entity by C-STORE, or to a DICOMweb server by STOW-RS."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from chexmix_cli.core.data.dicom.file import quiet
from chexmix_cli.core.data.dicom.web import REFUSED, DicomwebServer
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.settings.dicom_node import SendSettings
from chexmix_cli.serve.dicom.peers import Address

_SUCCESS, _OUT_OF_RESOURCES = 0x0000, 0xA7


class UnreachableError(Exception):
    """The destination does not take anything now; the message says why, without patient data."""


class RefusedError(Exception):
    """The destination refuses these documents; the message says why, without patient data."""


class Destination(Protocol):
    """Takes documents, any number of times: what it has already it keeps, by its SOP instance UID."""

    def send(self, documents: Sequence[Path]) -> None:
        """Send DICOM files.

        Raises:
            UnreachableError: to be tried again.
            RefusedError: trying again is of little use.
        """
        ...


class StorageScp:
    """An application entity that stores what it is sent.

    Args:
        address: of it.
        ae_title: of our own.
        settings: how long it may take.
        context: of TLS; None speaks none.
    """

    def __init__(
        self, address: Address, ae_title: str, settings: SendSettings, context: ssl.SSLContext | None = None
    ) -> None:
        self._address, self._ae_title, self._settings, self._context = address, ae_title, settings, context

    def send(self, documents: Sequence[Path]) -> None:
        """Send DICOM files in one association; errors as :class:`Destination`."""
        from pydicom import dcmread
        from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
        from pynetdicom import AE, evt

        with quiet():
            datasets = [dcmread(path) for path in documents]
        ae = AE(ae_title=self._ae_title)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = self._settings.timeout_seconds
        for sop_class in sorted({dataset.SOPClassUID for dataset in datasets}):
            ae.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        host, port = self._address.host, self._address.port
        tls = None if self._context is None else (self._context, host)
        opened: list[Any] = []
        on_open: list[Any] = [(evt.EVT_CONN_OPEN, lambda event: opened.append(event.assoc.dul.socket.socket))]
        association = ae.associate(host, port, ae_title=self._address.ae_title, tls_args=tls, evt_handlers=on_open)
        try:
            # It may take some classes; if it takes none, pynetdicom aborts the association.
            if association.rejected_contexts:
                raise RefusedError("it does not take this class of documents")
            if not association.is_established:
                if association.is_rejected:
                    raise UnreachableError("it rejects the association")
                over = "" if tls is None else ", or one of the two does not trust the other's certificate"
                raise UnreachableError(f"it does not answer{over}")
            for dataset in datasets:
                _check(association.send_c_store(dataset).get("Status"))
        finally:
            if association.is_established:
                association.release()
            else:
                # pynetdicom closes a socket only if it can be shut down before, which no longer can be where the other
                # side broke off. A destination that is away is tried for ever: sooner or later no file could be opened.
                for connection in opened:
                    connection.close()


class StowServer:
    """A DICOMweb server that stores what it is sent.

    Args:
        server: in question.
    """

    def __init__(self, server: DicomwebServer) -> None:
        self._server = server

    def send(self, documents: Sequence[Path]) -> None:
        """Send DICOM files in one request; errors as :class:`Destination`."""
        try:
            self._server.store([path.read_bytes() for path in documents])
        except DataError as error:
            raise (RefusedError if error.detail == REFUSED else UnreachableError)(error.what) from None


def _check(status: int | None) -> None:
    """Raise for a status that is neither success nor a warning (PS3.4, B.2.3); None where no answer came."""
    if status is None:
        raise UnreachableError("it broke off")
    if status >> 8 == _OUT_OF_RESOURCES:
        raise UnreachableError(f"it is out of resources (status {status:04X})")
    if status != _SUCCESS and status >> 12 != 0xB:
        raise RefusedError(f"it answers status {status:04X}")
