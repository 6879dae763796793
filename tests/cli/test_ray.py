"""Commands on a Ray cluster of this machine: the bytes of one process, also where a node ends. `make ray` does more."""

from __future__ import annotations

import hashlib
import json
import sys
import time

import pytest

from tests.cli.conftest import write_archive

pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'chexmix[ray]'")

_NUM_FILMS, _DAMAGED = 24, (4, 9)


@pytest.fixture(scope="module")
def cluster(repository):
    sys.path.insert(0, str(repository / "benchmarks"))
    try:
        from ray_cluster import LocalCluster

        with LocalCluster(2) as cluster:
            yield cluster
    finally:
        sys.path.remove(str(repository / "benchmarks"))


@pytest.fixture
def words(tmp_path, debug_weights):
    folder = write_archive(tmp_path / "archive", _NUM_FILMS, _DAMAGED)
    return [folder, "--weights", debug_weights, "--device", "cpu", "--set", "input.batch_size=3"]


def contents(path):
    files = sorted(path.glob("shard*")) if path.is_dir() else [path]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


@pytest.mark.slow
def test_shards_and_records_are_those_of_one_process(chexmix, call, cluster, words, tmp_path):
    for name, own, where in (
        ("tokenize", ["--set", "shards.rows=5"], "shards"),
        # Draft tokens by measured cost: processes need not agree, and the last digits of log-probabilities follow.
        ("generate-report", ["--set", "decode.max_new_tokens=6", "--set", "decode.draft_rows=8"], "reports.csv"),
    ):
        one = call(name, *words, *own, "-o", tmp_path / f"one-{where}")
        ray = chexmix(name, *words, *own, "-o", tmp_path / f"ray-{where}", "--ray", cluster.address)
        assert ray.code == one.code == 3, ray.stderr
        assert ray.stdout == one.stdout
        assert contents(tmp_path / f"ray-{where}") == contents(tmp_path / f"one-{where}")
        assert "22 of 24 records done" in ray.stderr


@pytest.mark.slow
def test_a_node_that_ends_midway_costs_nothing(call, cluster, words, tmp_path, repository):
    import subprocess

    own = ["--embeddings", "--layer", "1", "--set", "input.batch_size=1"]
    call("classify", *words, *own, "-o", tmp_path / "one.jsonl")
    run = [sys.executable, "-m", "chexmix_cli", "classify", *words, *own, "-o", tmp_path / "ray.jsonl"]
    run += ["--ray", cluster.address]
    with subprocess.Popen(list(map(str, run)), stderr=subprocess.PIPE, text=True, cwd=repository) as process:
        out = tmp_path / "ray.jsonl"
        while not out.exists() or not out.read_bytes():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        cluster.kill()
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 3, errors
    assert out.read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert json.loads(out.read_text().splitlines()[_DAMAGED[0]])["error"]["code"] == "CORRUPT"
