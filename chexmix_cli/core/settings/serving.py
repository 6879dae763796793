"""Settings of ``chexmix serve http``, and of TLS for all servers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from chexmix_cli.core.settings.checks import require, require_range
from chexmix_cli.core.settings.inference import DecodeSettings, InputSettings, Quantize
from chexmix_cli.core.settings.inpainting import FillSettings, PictureSettings, RegionSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class TlsSettings:
    """How a server proves who it is, and whom it believes; files in PEM.

    Attributes:
        certificate: of the server, with those between it and its authority. None: it speaks no TLS.
        key: of the certificate, without a passphrase.
        authorities: who connects must show a certificate that one of these has signed. None: nobody is asked for one.
    """

    certificate: Path | None = None
    key: Path | None = None
    authorities: Path | None = None

    def __post_init__(self) -> None:
        has_both = (self.certificate is None) == (self.key is None)
        require(has_both, "tls.key", str(self.key), "tls.certificate and tls.key, both or neither")


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpSettings:
    """What a server takes in, and how long it waits.

    Attributes:
        host: name or address to listen on; any that is not this machine's own needs a token.
        port: to listen on; 0 takes a free one.
        queue: requests with a film that are taken in and not yet answered; one more is refused (429).
        max_body_mb: largest body of a request, in MiB; base64 makes a film a third larger.
        max_held_mb: bodies of all requests taken in and not yet answered, in MiB; one beyond is refused (429).
        max_choices: most reports that one request may ask for (``n``).
        head_s: seconds that the head of a request may take to arrive.
        body_s: seconds that its body may take.
        idle_s: seconds that a connection is kept without a request.
        read_s: seconds that reading one film may take; the process that reads it is ended then.
        answer_s: seconds that a request may take in all, waiting included.
        drain_s: seconds that requests taken in get to be answered once the server is told to stop.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    queue: int = 64
    max_body_mb: int = 64
    max_held_mb: int = 512
    max_choices: int = 8
    head_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 15.0
    read_s: float = 30.0
    answer_s: float = 300.0
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        require_range("server.port", self.port, 0, 65535)
        for name in ("queue", "max_body_mb", "max_choices", "head_s", "body_s", "idle_s", "read_s", "answer_s"):
            require(getattr(self, name) > 0, f"server.{name}", getattr(self, name), "a positive number")
        least = f"at least server.max_body_mb, {self.max_body_mb}"
        require(self.max_held_mb >= self.max_body_mb, "server.max_held_mb", self.max_held_mb, least)
        require(self.drain_s >= 0, "server.drain_s", self.drain_s, "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeHttpSettings:
    """Root of ``chexmix serve http``.

    Attributes:
        quantize: as in ``chexmix generate-report``.
    """

    quantize: Quantize | None = None
    server: HttpSettings = field(default_factory=HttpSettings)
    tls: TlsSettings = TlsSettings()
    input: InputSettings = field(
        default_factory=lambda: InputSettings(max_file_mb=48, max_pixels=40_000_000, batch_size=8, workers=1)
    )
    decode: DecodeSettings = field(default_factory=DecodeSettings)
    region: RegionSettings = RegionSettings()
    fill: FillSettings = FillSettings()
    picture: PictureSettings = PictureSettings()

    def __post_init__(self) -> None:
        is_served = self.tls.certificate is not None or self.tls.authorities is None
        require(is_served, "tls.authorities", str(self.tls.authorities), "tls.certificate with it")
