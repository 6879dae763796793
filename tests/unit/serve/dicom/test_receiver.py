"""The storage SCP, called over the network by pynetdicom and by DCMTK."""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import subprocess
import time

import pytest
from dicom_peers import PATIENT, associated, film, send
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from chexmix_cli.core.data.dicom.decoders import decodable_syntaxes
from chexmix_cli.core.errors import MachineError


def events(running, name):
    return [note for note in running.notes if note["event"] == name]


def waiting(running):
    return sorted(path for path in (running.queue.folder / "receiving").rglob("*.dcm"))


def test_echo(receive):
    running = receive()
    with associated(running.port, []) as association:
        assert association.send_c_echo().Status == 0x0000


def test_a_film_is_on_disk_when_success_is_answered(receive):
    running, one = receive(), film()
    with associated(running.port, [one]) as association:
        assert association.send_c_store(one).Status == 0x0000
        (path,) = waiting(running)
        stored = dcmread(path)
    assert stored == one
    assert stored.file_meta.TransferSyntaxUID == one.file_meta.TransferSyntaxUID
    assert stored.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID


def test_images_of_a_study_are_put_together_and_one_sent_twice_is_there_once(receive):
    running = receive()
    study = film().StudyInstanceUID
    films = [film(seed, study=study) for seed in (1, 2)]
    assert send(running.port, [*films, films[0], film(3)]) == [0, 0, 0, 0]
    assert sorted(len(list(folder.rglob("*.dcm"))) for folder in (running.queue.folder / "receiving").iterdir()) == [
        1,
        2,
    ]
    assert [note["event"] for note in running.notes] == ["received", "received", "known", "received"]


def test_no_note_and_no_name_on_disk_says_who_it_is(receive):
    running, one = receive(), film(7)
    send(running.port, [one])
    said = repr(running.notes) + repr(list(running.queue.folder.rglob("*")))
    for secret in (*PATIENT.split("^"), "PID-7", "ACC-7", one.StudyInstanceUID, one.SOPInstanceUID, "20240229"):
        assert secret not in said


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_native_syntaxes_are_taken(receive, syntax):
    running, one = receive(), film()
    one.file_meta.TransferSyntaxUID = syntax
    assert send(running.port, [one]) == [0]
    assert dcmread(waiting(running)[0]).file_meta.TransferSyntaxUID == syntax


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_syntaxes_are_taken(receive, syntax):
    running, one = receive(), film()
    if syntax == RLELossless:
        one.compress(RLELossless)
    else:
        from imagecodecs import jpegls_encode
        from pydicom.encaps import encapsulate

        one.PixelData = encapsulate([jpegls_encode(one.pixel_array)])
        one["PixelData"].is_undefined_length = True
        one.file_meta.TransferSyntaxUID = syntax
    assert send(running.port, [one]) == [0]
    assert dcmread(waiting(running)[0]).file_meta.TransferSyntaxUID == syntax


def test_every_syntax_that_can_be_decoded_is_offered():
    assert len(decodable_syntaxes()) == len(set(decodable_syntaxes())) == 16


def test_another_class_of_object_is_not_taken(receive):
    running, one = receive(), film()
    ct = "1.2.840.10008.5.1.4.1.1.2"
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = ct
    with associated(running.port, [one]) as association:
        assert [context.abstract_syntax for context in association.rejected_contexts] == [ct]


@pytest.mark.parametrize(
    ("allow", "caller", "called", "reason"),
    [
        ("PACS@127.0.0.1", "MODALITY", "CHEXMIX", "no allowed peer"),
        ("*@*", "MODALITY", "OTHER", "another AE title was called"),
        ("*@10.0.0.5", "MODALITY", "CHEXMIX", "the address is of no allowed peer"),
    ],
)
def test_who_is_not_known_cannot_associate(receive, allow, caller, called, reason):
    running = receive(allow)
    with associated(running.port, [film()], caller=caller, called=called) as association:
        assert not association.is_established
    (note,) = events(running, "refused")
    assert note["reason"] == reason
    assert "127.0.0.1" in note["peer"]


def test_a_known_peer_can_associate(receive):
    running = receive("PACS@127.0.0.1")
    assert send(running.port, [film()], caller="PACS") == [0]


def test_one_association_too_many_is_rejected_and_others_go_on(receive):
    running, one = receive(most_associations=1), film()
    with associated(running.port, [one]) as first:
        with associated(running.port, [one]) as second:
            assert second.is_rejected
        assert first.send_c_store(one).Status == 0x0000
    assert events(running, "refused")[0]["reason"] == "too many associations"


def test_an_object_that_is_too_large_is_cut_off_on_the_way(receive):
    running, large = receive(max_bytes=100_000), film(side=1000)
    with associated(running.port, [large]) as association:
        assert "Status" not in association.send_c_store(large)
    assert waiting(running) == []
    (note,) = events(running, "cut off")
    assert "above 0.0953674 MiB (input.max_file_mb)" in note["reason"]
    assert send(running.port, [film(side=96)] * 20) == [0] * 20


def test_a_pdu_that_announces_gigabytes_is_hung_up_on(receive):
    running = receive()
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as peer:
        peer.sendall(struct.pack(">BBL", 1, 0, 4_000_000_000) + bytes(1000))
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(10)[:1] in (b"", b"\x07")  # hung up, or aborted
    assert events(running, "cut off")[0]["reason"].startswith("a PDU of 4000000000 bytes; at most")


def test_a_study_without_uids_is_refused(receive):
    running, one = receive(), film()
    del one.StudyInstanceUID
    assert send(running.port, [one]) == [0xC000]
    assert waiting(running) == []


def test_an_object_that_is_not_what_was_announced_is_refused(receive):
    running, one = receive(), film()
    one.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    with associated(running.port, [one]) as association:
        # pynetdicom announces what the data set says; the wire may say otherwise.
        primitive = association.dimse.send_msg

        def lie(message, context):
            message.AffectedSOPInstanceUID = "1.2.3.4"
            primitive(message, context)

        association.dimse.send_msg = lie
        assert association.send_c_store(one).Status == 0xA900
    assert waiting(running) == []


def test_no_space_is_said_and_nothing_is_kept(receive):
    running = receive(least_free_mb=1 << 40)
    assert send(running.port, [film()]) == [0xA700]
    assert waiting(running) == []
    assert events(running, "refused")[0]["reason"] == "too little free space for the queue"


def test_a_queue_that_cannot_be_written_is_said(receive, monkeypatch):
    import errno

    running = receive()

    def full(*_arguments, **_named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(running.queue, "receive", full)
    assert send(running.port, [film()]) == [0xA700]
    assert "No space left on device" in events(running, "refused")[0]["reason"]


def test_a_bug_is_said_and_not_hidden(receive, monkeypatch):
    running = receive()
    monkeypatch.setattr(running.queue, "receive", lambda *_: None)
    assert send(running.port, [film()]) == [0x0110]
    assert events(running, "refused")[0]["reason"] == "unexpected TypeError: a bug of chexmix"


def test_with_the_release_a_study_is_whole_if_so_set(receive):
    running = receive(ends="release", quiet_seconds=60)
    send(running.port, [film()])
    limit = time.monotonic() + 10
    while (study := running.queue.claim(60)) is None and time.monotonic() < limit:
        time.sleep(0.01)
    assert study is not None


def test_an_association_that_breaks_off_does_not_end_a_study(receive):
    running, one = receive(ends="release", quiet_seconds=60), film()
    with associated(running.port, [one]) as association:
        assert association.send_c_store(one).Status == 0x0000
        association.abort()
    time.sleep(0.2)
    assert running.queue.claim(60) is None


def test_a_port_that_is_taken_is_said(receive):
    first = receive()
    with pytest.raises(MachineError, match=rf"127.0.0.1:{first.port}: cannot be listened on"):
        receive(port=first.port)


@pytest.mark.skipif(shutil.which("storescu") is None, reason="DCMTK is not installed (Debian: dcmtk)")
def test_dcmtk_sends(receive, tmp_path):
    running, one = receive("STORESCU@127.0.0.1"), film()
    one.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    command = ["storescu", "-aec", "CHEXMIX", "127.0.0.1", str(running.port), str(tmp_path / "film.dcm")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    assert dcmread(waiting(running)[0]).SOPInstanceUID == one.SOPInstanceUID


@pytest.fixture
def open_till_the_end():
    with contextlib.ExitStack() as stack:
        yield stack


def test_a_connection_that_says_nothing_does_not_break_the_end(open_till_the_end, receive):
    """pynetdicom's abort is for associations: without one it ended its thread with a traceback, an error here."""
    running = receive()
    open_till_the_end.enter_context(socket.create_connection(("127.0.0.1", running.port)))
    limit = time.monotonic() + 30
    while not running.receiver.num_associations and time.monotonic() < limit:
        time.sleep(0.02)
    assert running.receiver.num_associations == 1
