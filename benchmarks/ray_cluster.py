"""A Ray cluster of this machine: a head that computes nothing, and nodes of one core that can be killed.

Usage: python benchmarks/ray_cluster.py NODES

Prints the head's address, then obeys lines on stdin: ``kill`` ends a node as a power cut would (kill -9 of all its
processes), ``add`` starts one; it prints ``done`` behind each. The end of stdin ends the cluster.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

#: Shared memory of a node; batches' records are small.
_STORE_BYTES = 80 << 20


class LocalCluster:
    """A cluster in a process of its own. A context.

    Args:
        num_nodes: of one core each.

    Attributes:
        address: of the head.
    """

    def __init__(self, num_nodes: int) -> None:
        # Ray counts its users over the network unless it is told not to.
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(num_nodes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.address = self._answer()

    def kill(self) -> None:
        """End a node as a power cut would."""
        self._order("kill")

    def add(self) -> None:
        """Start a node."""
        self._order("add")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def _order(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        assert self._answer() == "done"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        # Ray prints here, too.
        for line in self._process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        raise RuntimeError("the cluster did not start")


def _serve(num_nodes: int) -> None:
    from ray.cluster_utils import Cluster

    with _shut_down(
        Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": _STORE_BYTES})
    ) as cluster:
        nodes = [cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES) for _ in range(num_nodes)]
        cluster.wait_for_nodes()
        _say(cluster.address)
        for line in sys.stdin:
            if line.strip() == "kill":
                cluster.remove_node(nodes.pop(), allow_graceful=False)
            else:
                nodes.append(cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES))
            _say("done")


def _say(text: str) -> None:
    print(f"> {text}", flush=True)


@contextmanager
def _shut_down(cluster: Any) -> Iterator[Any]:
    try:
        yield cluster
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
