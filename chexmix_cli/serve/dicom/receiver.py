"""The storage SCP: associations of known peers, images into the queue; success is answered once they are on disk."""

from __future__ import annotations

import io
import logging
import re
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from chexmix_cli.core.data.dicom.decoders import decodable_syntaxes
from chexmix_cli.core.data.dicom.file import parse_header
from chexmix_cli.core.data.dicom.triage import CAPTURE_CLASSES, RADIOGRAPH_CLASSES
from chexmix_cli.core.data.studies.ids import IdMaker
from chexmix_cli.core.errors import DataError, MachineError
from chexmix_cli.core.settings.dicom_node import ReceiveSettings
from chexmix_cli.serve.dicom.peers import Peer
from chexmix_cli.serve.dicom.queue import StudyQueue

#: Takes note of what happened: its name, and fields without patient data.
Note = Callable[..., None]

#: pynetdicom's; its types know no event's own attributes.
Event: TypeAlias = Any

_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_LONGEST_UID = 64
#: Status of C-STORE (PS3.4, B.2.3).
_SUCCESS, _OUT_OF_RESOURCES, _NO_MATCH, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
#: Of any service (PS3.7, C.5.7).
_PROCESSING_FAILURE = 0x0110
#: A-ASSOCIATE-RJ: permanent, by the user, calling AE title not recognised (PS3.8, 9.3.4).
_UNKNOWN_CALLER = (0x01, 0x01, 0x03)
#: A-ASSOCIATE-RQ of 128 contexts with all transfer syntaxes stays far below it.
_MOST_REQUEST_BYTES = 1 << 20
_SECONDS_TO_ASSOCIATE = 15.0
_SECONDS_TO_HANG_UP = 2.0


def silence_libraries() -> None:
    """Keep what pydicom and pynetdicom say, which quotes headers, from everyone, in all threads and for good."""
    from pynetdicom import _config

    _config.LOG_HANDLER_LEVEL = "none"
    for name in ("pydicom", "pynetdicom"):
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    warnings.simplefilter("ignore")


class Receiver:
    """Listens for associations until it is stopped.

    Args:
        queue: takes the images.
        ids: makes names of studies and images.
        settings: limits.
        ae_title: that peers must call.
        peers: that may associate.
        max_bytes: of one image.
        note: hears of images, of what is refused, and why.
    """

    def __init__(
        self,
        queue: StudyQueue,
        ids: IdMaker,
        settings: ReceiveSettings,
        *,
        ae_title: str,
        peers: Sequence[Peer],
        max_bytes: int,
        note: Note,
    ) -> None:
        from pynetdicom import AE

        self._queue, self._ids, self._settings = queue, ids, settings
        self._peers, self._max_bytes, self._note = peers, max_bytes, note
        self._ae = AE(ae_title=ae_title)
        self._ae.require_called_aet = True
        self._ae.maximum_associations = settings.most_associations
        self._ae.maximum_pdu_size = settings.most_pdu_bytes
        self._ae.network_timeout = settings.idle_seconds
        self._ae.acse_timeout = _SECONDS_TO_ASSOCIATE
        self._ae.add_supported_context("1.2.840.10008.1.1")
        syntaxes = decodable_syntaxes()
        for sop_class in sorted(RADIOGRAPH_CLASSES | CAPTURE_CLASSES):
            self._ae.add_supported_context(sop_class, syntaxes)
        #: What each open association has sent of its current message, in bytes, and the studies it sent images of.
        self._num_bytes: dict[Any, int] = {}
        self._studies: dict[Any, set[str]] = {}
        self._parsing = threading.Lock()
        self._server: Any = None

    def start(self, host: str, port: int, context: ssl.SSLContext | None = None) -> int:
        """Listen, by TLS if there is a context; return the port, which is a free one where 0 is asked for.

        Raises:
            MachineError: if the address cannot be had.
        """
        from pynetdicom import evt

        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._on_open),
            (evt.EVT_REQUESTED, self._on_request),
            (evt.EVT_REJECTED, self._on_rejected),
            (evt.EVT_PDU_RECV, self._on_pdu),
            (evt.EVT_DIMSE_RECV, self._on_message),
            (evt.EVT_C_ECHO, lambda _: _SUCCESS),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_CONN_CLOSE, self._on_close),
        ]
        handshakes: Any = None if context is None else _LateHandshakes(context, self._settings.idle_seconds)
        try:
            self._server = self._ae.start_server(
                (host, port), block=False, evt_handlers=handlers, ssl_context=handshakes
            )
        except OSError as error:
            raise MachineError(
                f"cannot be listened on ({error.strerror})",
                where=f"{host}:{port}",
                hint="--host and --port choose another",
            ) from None
        return int(self._server.server_address[1])

    @property
    def num_associations(self) -> int:
        """Return how many associations are open."""
        return len(self._ae.active_associations)

    def stop(self, grace_s: float) -> None:
        """Take no more associations, give the open ones so many seconds to end, and abort the rest."""
        self._server.shutdown()
        _wait_while(lambda: self._ae.active_associations, grace_s)
        # The rest is aborted, which a connection that has not asked for an association cannot be: its thread would end
        # with a traceback.
        for association in self._unassociated():
            with suppress(AttributeError, OSError):
                association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        _wait_while(self._unassociated, _SECONDS_TO_HANG_UP)
        self._ae.shutdown()

    def _unassociated(self) -> list[Any]:
        """Return the connections without an association that can still take part in one."""
        active = self._ae.active_associations
        return [one for one in active if not one.is_established and one.dul.is_alive()]

    def _on_open(self, event: Event) -> None:
        """Hang up on addresses that no peer has; bound what is read of the others."""
        connection, host = event.assoc.dul.socket, str(event.address[0])
        is_allowed, receive = any(peer.matches(host) for peer in self._peers), connection.recv
        if not is_allowed:
            self._note("refused", peer=host, reason="the address is of no allowed peer")
            connection.socket.shutdown(socket.SHUT_RDWR)

        def bounded(num_bytes: int) -> bytearray:
            most = self._settings.most_pdu_bytes if event.assoc.is_established else _MOST_REQUEST_BYTES
            # pynetdicom would wait for as many bytes as the header of a PDU announces, up to 4 GiB.
            if not is_allowed or num_bytes > most:
                if is_allowed:
                    self._note("cut off", peer=host, reason=f"a PDU of {num_bytes} bytes; at most {most}")
                raise OSError("nothing is read of it")
            data: bytearray = receive(num_bytes)
            return data

        connection.recv = bounded

    def _on_request(self, event: Event) -> None:
        caller = event.assoc.requestor
        title = str(caller.primitive.calling_ae_title).strip()
        if not any(peer.matches(str(caller.address), title) for peer in self._peers):
            event.assoc.acse.send_reject(*_UNKNOWN_CALLER)
            self._note("refused", peer=f"{title}@{caller.address}", reason="no allowed peer")

    def _on_rejected(self, event: Event) -> None:
        caller = event.assoc.requestor
        reason = "too many associations" if self._is_full() else "another AE title was called"
        self._note("refused", peer=f"{str(caller.primitive.calling_ae_title).strip()}@{caller.address}", reason=reason)

    def _is_full(self) -> bool:
        return self.num_associations > self._settings.most_associations

    def _on_pdu(self, event: Event) -> None:
        before = self._num_bytes.get(event.assoc, 0)
        self._num_bytes[event.assoc] = before + event.pdu.pdu_length
        # Some more may come before the abort is through.
        if before <= self._max_bytes < self._num_bytes[event.assoc]:
            limit = f"an object above {self._max_bytes / 2**20:g} MiB (input.max_file_mb)"
            self._note("cut off", peer=_name(event.assoc), reason=limit)
            event.assoc.abort()

    def _on_message(self, event: Event) -> None:
        self._num_bytes[event.assoc] = 0

    def _on_released(self, event: Event) -> None:
        if self._settings.ends == "release":
            self._queue.end(self._studies.get(event.assoc, ()))

    def _on_close(self, event: Event) -> None:
        self._num_bytes.pop(event.assoc, None)
        self._studies.pop(event.assoc, None)

    def _on_store(self, event: Event) -> int:
        peer = _name(event.assoc)
        try:
            return self._store(event, peer)
        except Exception as error:  # pynetdicom would answer for us, and say nothing
            return self._refuse(_PROCESSING_FAILURE, peer, f"unexpected {type(error).__name__}: a bug of chexmix")

    def _store(self, event: Event, peer: str) -> int:
        if self._queue.free_bytes() < self._settings.least_free_mb << 20:
            self._note(
                "refused", peer=peer, reason="too little free space for the queue", status=f"{_OUT_OF_RESOURCES:04X}"
            )
            return _OUT_OF_RESOURCES
        data = event.encoded_dataset()
        status, study, instance = self._read(event, data)
        if status != _SUCCESS:
            reason = "no study and instance UID that can be read, or not those of the request"
            self._note("refused", peer=peer, reason=reason, status=f"{status:04X}")
            return status
        try:
            name = self._queue.receive(data, study=study, instance=instance)
        except OSError as error:
            reason = f"the queue cannot be written ({error.strerror})"
            self._note("refused", peer=peer, reason=reason, status=f"{_OUT_OF_RESOURCES:04X}")
            return _OUT_OF_RESOURCES
        if name is None:
            self._note("known", id=study, image=instance, peer=peer)
        else:
            self._studies.setdefault(event.assoc, set()).add(name)
            self._note("received", id=name, image=instance, peer=peer)
        return _SUCCESS

    def _refuse(self, status: int, peer: str, reason: str) -> int:
        self._note("refused", peer=peer, reason=reason, status=f"{status:04X}")
        return status

    def _read(self, event: Event, data: bytes) -> tuple[int, str, str]:
        """Return a status, and the ids of study and instance if it is success."""
        try:
            with self._parsing:
                file = parse_header(io.BytesIO(data), self._max_bytes)
                found = [file.text(name) or "" for name in ("StudyInstanceUID", "SOPInstanceUID", "SOPClassUID")]
        except DataError:
            return _NOT_UNDERSTOOD, "", ""
        study, instance, sop_class = found
        if not all(_UID.fullmatch(uid) and len(uid) <= _LONGEST_UID for uid in found):
            return _NOT_UNDERSTOOD, "", ""
        if (instance, sop_class) != (event.request.AffectedSOPInstanceUID, event.request.AffectedSOPClassUID):
            return _NO_MATCH, "", ""
        return _SUCCESS, self._ids.of_uid(study), self._ids.of_uid(instance)


class _LateHandshakes:
    """A context whose handshakes are made with the first read, in the thread of the association.

    In the thread that accepts, a peer that says nothing would keep out all others, also one that may not connect.
    """

    def __init__(self, context: ssl.SSLContext, idle_s: float) -> None:
        self._context, self._idle_s = context, idle_s

    def wrap_socket(self, connection: socket.socket, *, server_side: bool) -> ssl.SSLSocket:
        """Return the connection of TLS."""
        connection.settimeout(self._idle_s)
        return self._context.wrap_socket(connection, server_side=server_side, do_handshake_on_connect=False)


def _wait_while(holds: Callable[[], Any], most_s: float) -> None:
    limit = time.monotonic() + most_s
    while holds() and time.monotonic() < limit:
        time.sleep(0.05)


def _name(association: Any) -> str:
    caller = association.requestor
    return f"{str(caller.ae_title).strip()}@{caller.address}"
