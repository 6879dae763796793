"""Files of TLS that are not what they should be are named before a server starts."""

from __future__ import annotations

import pytest

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.dicom_node import SendSettings, ServeDicomSettings
from chexmix_cli.core.settings.serving import ServeHttpSettings, TlsSettings
from chexmix_cli.serve.tls import client_context, server_context


def test_without_a_certificate_there_is_no_tls():
    assert server_context(TlsSettings()) is None


@pytest.mark.parametrize(
    ("which", "content", "message"),
    [
        ("certificate", None, r"tls.certificate: cannot be read \(No such file or directory\)"),
        ("key", None, r"tls.key: cannot be read \(No such file or directory\)"),
        ("authorities", None, r"tls.authorities: cannot be read \(No such file or directory\)"),
        ("certificate", "nothing", r"tls.certificate, tls.key: cannot be used .* a certificate and its own key in PEM"),
        ("key", "nothing", r"tls.certificate, tls.key: cannot be used"),
        ("authorities", "nothing", r"tls.authorities: cannot be used .* certificates in PEM"),
    ],
)
@pytest.mark.parametrize("make", [server_context, client_context])
def test_a_file_that_is_none_is_named(certificate, tmp_path, make, which, content, message):
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_text(content)
    files = {"certificate": certificate[0], "key": certificate[1], which: path}
    with pytest.raises(SettingsError, match=message):
        make(TlsSettings(**files))


def test_a_key_with_a_passphrase_is_refused_and_nobody_asked_for_it(certificate, tmp_path):
    import subprocess

    locked = tmp_path / "locked.pem"
    command = ["openssl", "pkey", "-in", certificate[1], "-aes256", "-passout", "pass:secret", "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(SettingsError, match="without a passphrase"):
        server_context(TlsSettings(certificate=certificate[0], key=locked))


def test_settings_that_would_let_in_more_than_they_say_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="tls.certificate and tls.key, both or neither"):
        TlsSettings(certificate=tmp_path / "a.pem")
    alone = TlsSettings(authorities=tmp_path / "a.pem")
    for make in (ServeHttpSettings, ServeDicomSettings):
        with pytest.raises(SettingsError, match="expected tls.certificate with it"):
            make(tls=alone)
    assert ServeDicomSettings(tls=alone, send=SendSettings(tls=True)).tls is alone
