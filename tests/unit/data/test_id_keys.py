"""Which ids have occurred, by keys."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from chexmix_cli.core.data.shards import id_keys
from chexmix_cli.core.data.shards.id_keys import SeenIds


@pytest.mark.parametrize("most_recent", [1, 2, 7, 4096])
def test_an_id_is_new_once(monkeypatch, most_recent):
    monkeypatch.setattr(id_keys, "_MOST_RECENT", most_recent)
    draw, seen, known = random.Random(most_recent), SeenIds(), set[str]()
    for _ in range(3000):
        record_id = f"film-{draw.randrange(1000)}"
        assert seen.add(record_id) == (record_id not in known)
        known.add(record_id)


def test_the_smallest_and_the_largest_key_are_keys_like_others(monkeypatch):
    monkeypatch.setattr(id_keys, "_MOST_RECENT", 2)
    monkeypatch.setattr(id_keys, "id_key", int)
    keys = ["0", str(2**64 - 1), str(2**63), "1", str(2**64 - 2)]
    seen = SeenIds()
    assert [seen.add(key) for key in keys] == [True] * 5
    assert [seen.add(key) for key in keys] == [False] * 5


def test_many_ids_take_little_memory():
    """A set of keys took 100 bytes an id: the memory of a run over a million films rose all along."""
    seen = SeenIds()
    for number in range(10_000):
        seen.add(f"film-{number}")
    tracemalloc.start()
    for number in range(10_000, 60_000):
        seen.add(f"film-{number}")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # What is not in order yet, 4,096 keys of 100 bytes, is there from the beginning.
    assert kept < 50_000 * 12 + 4096 * 100
