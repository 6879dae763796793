"""What a server of ours counts, in Prometheus's text form: the part that all of them have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from chexmix_cli import __version__

CONTENT_TYPE = CONTENT_TYPE_LATEST
#: Upper ends of histograms of times, in seconds.
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class ServerMetrics:
    """The counters of one server; what it counts is added to ``registry``. No label may hold patient data."""

    def __init__(self) -> None:
        # A series more for each, which nobody reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show a value that is read whenever it is asked for."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def watch_each(self, name: str, text: str, label: str, values: Sequence[str], read: Callable[[str], float]) -> None:
        """Show a value for each value of a label."""
        gauge = Gauge(name, text, (label,), registry=self.registry)
        for value in values:
            gauge.labels(value).set_function(partial(read, value))

    def describe(self, model: str, fingerprint: str) -> None:
        """Show what is served."""
        labels = {"version": __version__, "model": model, "weights": fingerprint}
        Gauge("chexmix_info", "What is served.", labels, registry=self.registry).labels(**labels).set(1)

    def text(self) -> bytes:
        """Return everything, as Prometheus reads it."""
        return generate_latest(self.registry)
