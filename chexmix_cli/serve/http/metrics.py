"""What the server counts, in Prometheus's text form. No label holds anything of a request but its path's pattern."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from chexmix_cli import __version__

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        # A series more for each, which nobody reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("chexmix_requests", "Requests answered.", ("path", "status"), registry=registry)
        self._refusals = Counter("chexmix_refusals", "RefusedError requests, by code.", ("code",), registry=registry)
        self._seconds = Histogram(
            "chexmix_request_seconds",
            "From the head of a request to the end of its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._first_text = Histogram(
            "chexmix_first_text_seconds",
            "From the head of a streamed request to the first text.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._waited = Histogram(
            "chexmix_queue_seconds", "That a film waited for the model.", buckets=_SECONDS, registry=registry
        )
        self._batch_sizes = Histogram(
            "chexmix_batch_films", "Films in a batch.", ("verb",), buckets=_SIZES, registry=registry
        )
        self._batch_seconds = Counter("chexmix_batch_seconds", "That the model worked.", ("verb",), registry=registry)
        self._tokens = Counter("chexmix_report_tokens", "Tokens of reports written.", registry=registry)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show a value that is read whenever it is asked for."""
        Gauge(name, text, registry=self._registry).set_function(read)

    def describe(self, model: str, fingerprint: str) -> None:
        """Show what is served."""
        labels = {"version": __version__, "model": model, "weights": fingerprint}
        Gauge("chexmix_info", "What is served.", labels, registry=self._registry).labels(**labels).set(1)

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

    def text(self) -> bytes:
        """Return everything, as Prometheus reads it."""
        return generate_latest(self._registry)
