"""Settings of the DICOM node: what it receives, when a study is whole, how results are sent, what stays on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from chexmix_cli.core.settings.checks import require, require_range
from chexmix_cli.core.settings.inference import DecodeSettings, DocumentSettings, InputSettings, Quantize
from chexmix_cli.core.settings.serving import TlsSettings

#: A PDU must hold a fragment and its headers; no peer needs more than the upper end.
_LEAST_PDU, _MOST_PDU = 4096, 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiveSettings:
    """What a peer may do, and when a study is whole.

    Attributes:
        ends: what says that a study is whole: ``quiet``, no image of it came for ``quiet_seconds``; ``release``, the
            association that brought it was released in order (one that breaks off falls back on ``quiet_seconds``).
        quiet_seconds: modalities may send the images of a study minutes apart.
        most_associations: open at once; one more is rejected for the time being.
        most_pdu_bytes: largest PDU taken, in bytes; peers are told, and one that sends more is cut off. The largest
            image is ``input.max_file_mb``: the association is aborted as soon as it is exceeded.
        idle_seconds: an association on which nothing comes for so long is closed.
        least_free_mb: with less free space for the queue, in MiB, images are answered "out of resources".
    """

    ends: Literal["quiet", "release"] = "quiet"
    quiet_seconds: float = 30.0
    most_associations: int = 10
    most_pdu_bytes: int = 65_536
    idle_seconds: float = 60.0
    least_free_mb: int = 1024

    def __post_init__(self) -> None:
        require(self.quiet_seconds >= 0, "receive.quiet_seconds", self.quiet_seconds, "0 or more")
        require_range("receive.most_associations", self.most_associations, 1, 1000)
        require_range("receive.most_pdu_bytes", self.most_pdu_bytes, _LEAST_PDU, _MOST_PDU)
        require(self.idle_seconds > 0, "receive.idle_seconds", self.idle_seconds, "a positive number")
        require(self.least_free_mb >= 0, "receive.least_free_mb", self.least_free_mb, "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class SendSettings:
    """How results reach their destination.

    Attributes:
        first_wait_seconds, most_wait_seconds: before a result is sent again; doubled each time, up to the most. A
            destination that cannot be reached is tried for ever.
        most_refusals: a result that the destination refuses so often goes into quarantine.
        timeout_seconds: for the destination to answer.
        tls: an application entity is spoken to by TLS, with the node's own certificate if it has one; its certificate
            must be valid for the host, and signed by one of ``tls.authorities``, or of the system's if none are named.
    """

    first_wait_seconds: float = 2.0
    most_wait_seconds: float = 300.0
    most_refusals: int = 5
    timeout_seconds: float = 30.0
    tls: bool = False

    def __post_init__(self) -> None:
        for name in ("first_wait_seconds", "most_wait_seconds", "most_refusals", "timeout_seconds"):
            require(getattr(self, name) > 0, f"send.{name}", getattr(self, name), "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueSettings:
    """What the queue does over time.

    Attributes:
        most_attempts: a study during which the process died so often goes into quarantine.
        keep_days: how long it is remembered which images were done, so that an image sent again is not reported again.
            What is remembered are salted hashes; films and results are removed when the result is delivered.
        grace_seconds: that open associations get to end when the node stops.
    """

    most_attempts: int = 3
    keep_days: float = 30.0
    grace_seconds: float = 10.0

    def __post_init__(self) -> None:
        require(self.most_attempts > 0, "queue.most_attempts", self.most_attempts, "a positive number")
        for name in ("keep_days", "grace_seconds"):
            require(getattr(self, name) >= 0, f"queue.{name}", getattr(self, name), "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsSettings:
    """Where metrics are shown, as Prometheus reads them.

    Attributes:
        host: address to listen on; any that is not this machine's own needs a token.
        port: to listen on; 0 takes a free one. None: they are not shown.
        token_file: holds the bearer token that who asks must bring. None: ``CHEXMIX_TOKEN``, if it is set.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    token_file: Path | None = None

    def __post_init__(self) -> None:
        if self.port is not None:
            require_range("metrics.port", self.port, 0, 65535)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeDicomSettings:
    """Root of ``chexmix serve dicom``.

    Attributes:
        quantize: as in ``chexmix generate-report``.
        documents: as there, dated as the work was done; DICOM only.
    """

    quantize: Quantize | None = None
    input: InputSettings = field(default_factory=InputSettings)
    decode: DecodeSettings = field(default_factory=DecodeSettings)
    documents: DocumentSettings = field(default_factory=lambda: DocumentSettings(dates="run"))
    receive: ReceiveSettings = field(default_factory=ReceiveSettings)
    send: SendSettings = field(default_factory=SendSettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    tls: TlsSettings = TlsSettings()

    def __post_init__(self) -> None:
        kinds = self.documents.kinds
        require("fhir" not in kinds, "documents.kinds", list(kinds), "kinds of DICOM documents alone")
        is_served = self.tls.certificate is not None or self.tls.authorities is None or self.send.tls
        require(is_served, "tls.authorities", str(self.tls.authorities), "tls.certificate with it, or send.tls")
