"""Names of application entities and who may call."""

from __future__ import annotations

import pytest

from chexmix_cli.core.errors import MachineError, SettingsError
from chexmix_cli.serve.dicom.peers import Address, check_ae_title, read_address, read_peers


def test_an_address_is_read():
    assert read_address("PACS@10.0.0.5:104", "--send-to") == Address("PACS", "10.0.0.5", 104)
    assert read_address("MY PACS@[::1]:4242", "--send-to") == Address("MY PACS", "::1", 4242)
    assert str(Address("PACS", "10.0.0.5", 104)) == "PACS@10.0.0.5:104"


@pytest.mark.parametrize(
    "text", ["", "PACS", "PACS@host", "@host:1", "PACS@:1", "PACS@host:0", "PACS@host:x", "A@b:65536"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(SettingsError, match=r"--send-to: .* names no application entity; expected AE@host:port"):
        read_address(text, "--send-to")


@pytest.mark.parametrize("text", ["", "SEVENTEEN LETTERS", "A\\B", " A", "Ä"])
def test_what_is_no_ae_title_is_refused(text):
    with pytest.raises(SettingsError, match="is no AE title"):
        check_ae_title(text, "--ae-title")
    assert check_ae_title("SIXTEEN  LETTERS", "--ae-title") == "SIXTEEN  LETTERS"


@pytest.mark.parametrize(
    ("allow", "host", "title", "expected"),
    [
        ("*@*", "10.0.0.5", "ANY", True),
        ("PACS@*", "10.0.0.5", "PACS", True),
        ("PACS@*", "10.0.0.5", "pacs", False),
        ("*@10.0.0.5", "10.0.0.5", "ANY", True),
        ("*@10.0.0.5", "10.0.0.6", "ANY", False),
        ("PACS@10.1.0.0/16", "10.1.200.7", "PACS", True),
        ("PACS@10.1.0.0/16", "10.2.0.1", "PACS", False),
        ("PACS@localhost", "127.0.0.1", "PACS", True),
        ("PACS@127.0.0.1", "::ffff:127.0.0.1", "PACS", True),
        ("PACS@fe80::1", "fe80::1%eth0", "PACS", True),
        ("PACS@10.0.0.5", "10.0.0.5", None, True),
    ],
)
def test_who_may_call(allow, host, title, expected):
    (peer,) = read_peers([allow], "--allow")
    assert peer.matches(host, title) is expected


def test_a_peer_of_another_form_is_refused():
    for text in ("PACS", "@host", "PACS@"):
        with pytest.raises(SettingsError, match="names no peer; expected AE@host"):
            read_peers([text], "--allow")
    with pytest.raises(SettingsError, match="is no network"):
        read_peers(["PACS@10.0.0.0/40"], "--allow")
    with pytest.raises(MachineError, match="has no address"):
        read_peers(["PACS@no.such.host.invalid"], "--allow")
