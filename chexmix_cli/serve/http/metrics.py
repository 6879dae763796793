"""What the server counts, in Prometheus's text form. No label holds anything of a request but its path's pattern."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter, Histogram

from chexmix_cli.serve.metrics import SECONDS, ServerMetrics

_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics(ServerMetrics):
    """The counters of one server."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self._requests = Counter("chexmix_requests", "Requests answered.", ("path", "status"), registry=registry)
        self._refusals = Counter("chexmix_refusals", "Refused requests, by code.", ("code",), registry=registry)
        self._seconds = Histogram(
            "chexmix_request_seconds",
            "From the head of a request to the end of its answer.",
            ("path",),
            buckets=SECONDS,
            registry=registry,
        )
        self._first_text = Histogram(
            "chexmix_first_text_seconds",
            "From the head of a streamed request to the first text.",
            buckets=SECONDS,
            registry=registry,
        )
        self._waited = Histogram(
            "chexmix_queue_seconds", "That a film waited for the model.", buckets=SECONDS, registry=registry
        )
        self._batch_sizes = Histogram(
            "chexmix_batch_films", "Films in a batch.", ("verb",), buckets=_SIZES, registry=registry
        )
        self._batch_seconds = Counter("chexmix_batch_seconds", "That the model worked.", ("verb",), registry=registry)
        self._tokens = Counter("chexmix_report_tokens", "Tokens of reports written.", registry=registry)

    def answered(self, path: str, status: int, code: str | None, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)
        if code is not None:
            self._refusals.labels(code).inc()

    def first_text(self, seconds: float) -> None:
        """Count how long a stream's first text took."""
        self._first_text.observe(seconds)

    def batch(self, verb: str, size: int, seconds: float, waited_s: Sequence[float]) -> None:
        """Count a batch."""
        self._batch_sizes.labels(verb).observe(size)
        self._batch_seconds.labels(verb).inc(seconds)
        for one in waited_s:
            self._waited.observe(one)

    def tokens(self, count: int) -> None:
        """Count tokens of a report."""
        self._tokens.inc(count)
