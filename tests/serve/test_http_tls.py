"""The server behind its own TLS: who has no certificate that it believes does not come to ask."""

from __future__ import annotations

import http.client
import ssl

import pytest

from chexmix_cli.core.settings.serving import TlsSettings
from chexmix_cli.serve.tls import client_context, server_context


def test_it_answers_by_tls_alone_and_those_it_knows(serving, certificate):
    own = TlsSettings(certificate=certificate[0], key=certificate[1], authorities=certificate[0])

    def health(context):
        asked = http.client.HTTPSConnection("127.0.0.1", client.port, context=context, timeout=30)
        try:
            asked.request("GET", "/health")
            return asked.getresponse().status
        finally:
            asked.close()

    with serving(context=server_context(own)) as client:
        assert health(client_context(own)) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            health(ssl.create_default_context())
        with pytest.raises(OSError, match=r".*"):
            health(client_context(TlsSettings(authorities=certificate[0])))
        with pytest.raises((OSError, http.client.HTTPException)):
            client.get("/health")
        assert health(client_context(own)) == 200
