"""TLS of the node: what is sent to it, what it sends, and who is not believed."""

from __future__ import annotations

import gc
import logging
import socket
import ssl
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from dicom_peers import associated, film, listening_archive

from chexmix_cli.core.settings.dicom_node import SendSettings
from chexmix_cli.core.settings.serving import TlsSettings
from chexmix_cli.serve.dicom.destinations import StorageScp, UnreachableError
from chexmix_cli.serve.dicom.peers import Address
from chexmix_cli.serve.tls import client_context, server_context


@pytest.fixture(autouse=True)
def unlogged(monkeypatch):
    """Keep errors of handshakes out of pytest's records, which would keep their sockets."""
    monkeypatch.setattr(logging.getLogger("pynetdicom"), "propagate", False)


@pytest.fixture
def own(certificate):
    """Return the settings of a side that shows the certificate and believes it."""
    return TlsSettings(certificate=certificate[0], key=certificate[1], authorities=certificate[0])


@pytest.fixture
def anonymous(certificate):
    """Return the settings of a side that believes the certificate, and shows none."""
    return TlsSettings(authorities=certificate[0])


def answers(port, context):
    """Return whether an echo over TLS is answered."""
    with associated(port, [], context=context) as association:
        return association.is_established and association.send_c_echo().get("Status") == 0x0000


def is_refused(port, context):
    """Return whether what is sent with a context, or without TLS, is answered by the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw, ExitStack() as stack:
        try:
            if context is not None:
                raw = stack.enter_context(context.wrap_socket(raw, server_hostname="127.0.0.1"))
            raw.sendall(b"\x01\x00\x00\x00\x00\x04none")
            return not raw.recv(1)
        except OSError:
            return True


def test_films_come_by_tls_from_peers_with_a_certificate_alone(receive, own, anonymous):
    running, one = receive(context=server_context(own)), film()
    # One that says nothing keeps nobody out.
    with socket.create_connection(("127.0.0.1", running.port)):
        with associated(running.port, [one], context=client_context(own)) as association:
            assert association.send_c_store(one).Status == 0x0000
        assert [note["event"] for note in running.notes] == ["received"]
        assert is_refused(running.port, client_context(anonymous))
        assert is_refused(running.port, None)
    assert [note["event"] for note in running.notes] == ["received"]


def test_without_authorities_nobody_is_asked_for_a_certificate(receive, certificate, anonymous):
    running = receive(context=server_context(TlsSettings(certificate=certificate[0], key=certificate[1])))
    assert answers(running.port, client_context(anonymous))
    assert not is_refused(running.port, client_context(anonymous))


def test_an_address_of_no_peer_is_hung_up_on_before_its_handshake(receive, own):
    running = receive("*@10.1.0.0/16", context=server_context(own))
    assert is_refused(running.port, client_context(own))
    assert [note["event"] for note in running.notes] == ["refused"]


def sockets_left(before):
    """Return how many more sockets than before are open once those that are being closed are."""
    limit = time.monotonic() + 20
    while num_sockets() > before and time.monotonic() < limit:
        time.sleep(0.05)
    return num_sockets() - before


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are not listed here")
def test_an_archive_that_does_not_trust_us_is_tried_again_without_sockets_that_stay(receive, own, anonymous, tmp_path):
    film().save_as(tmp_path / "a.dcm", enforce_file_format=True)
    running = receive(context=server_context(own))
    destination = StorageScp(
        Address("CHEXMIX", "127.0.0.1", running.port), "A", SendSettings(timeout_seconds=5), client_context(anonymous)
    )
    before = num_sockets()
    gc.disable()
    try:
        for _ in range(3):
            with pytest.raises(UnreachableError, match="it does not answer"):
                destination.send([tmp_path / "a.dcm"])
        assert sockets_left(before) == 0
    finally:
        gc.enable()


def num_sockets():
    """Return how many sockets this process has open."""
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found += path.readlink().name.startswith("socket:")
    return found


def test_reports_are_sent_by_tls_to_an_archive_that_is_believed(own, tmp_path):
    document = film()
    document.SOPClassUID = document.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    document.save_as(tmp_path / "a.dcm", enforce_file_format=True)

    def send(context):
        address = Address("ARCHIVE", "127.0.0.1", archive.port)
        StorageScp(address, "CHEXMIX", SendSettings(timeout_seconds=5), context).send([tmp_path / "a.dcm"])

    with listening_archive(context=server_context(own)) as archive:
        send(client_context(own))
        assert archive.num_sent == 1
        with pytest.raises(UnreachableError, match="it does not answer, or one of the two does not trust"):
            send(ssl.create_default_context())
        assert archive.num_sent == 1
