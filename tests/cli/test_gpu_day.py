"""``make gpu-day`` on a machine without a card: its parts name what exists, its page shows what a part came to."""

from __future__ import annotations

import json
import os
import sys

import pytest
import torch


@pytest.fixture
def benchmarks(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import gpu_day
    import gpu_decode

    return gpu_day, gpu_decode


def test_a_part_that_fails_stops_no_other_and_is_shown(benchmarks, tmp_path):
    gpu_day, _ = benchmarks
    results, report = tmp_path / "found.jsonl", tmp_path / "tests.xml"
    report.write_text('<testsuites><testsuite tests="7" failures="1" errors="1" skipped="2"/></testsuites>')
    write = f'open({str(results)!r}, \'w\').write(\'{{"case": "<b>", "ms": 0.25}}\\n\')'
    some = [
        gpu_day.Part("times", [[sys.executable, "-c", write]], 60, [results]),
        gpu_day.Part("wrong", [[sys.executable, "-c", "raise SystemExit(2)"]] * 2, 60, tests=report),
        gpu_day.Part("long", [[sys.executable, "-c", "import time; time.sleep(60)"]], 1),
    ]
    outcomes = [gpu_day.run_part(part, tmp_path, os.environ) for part in some]
    assert [outcome.status for outcome in outcomes] == ["passed", "failed", "cut off"]
    assert outcomes[0].results == [{"case": "<b>", "ms": 0.25}]
    assert outcomes[1].tests == {"passed": 3, "failed": 2, "skipped": 2}
    assert (tmp_path / outcomes[1].log).read_text().count("$ ") == 1
    gpu_day.write_results(tmp_path, {"torch": "2", "vllm": None}, outcomes)
    assert [part["status"] for part in json.loads((tmp_path / "gpu-day.json").read_text())["parts"]] == [
        outcome.status for outcome in outcomes
    ]
    page = (tmp_path / "gpu-day.html").read_text()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "cut off" in page


def test_its_commands_exist(benchmarks, repository, tmp_path, call):
    gpu_day, _ = benchmarks
    gpu_day.write_films(tmp_path / "training")
    commands = [command for part in gpu_day.parts(tmp_path) for command in part.commands]
    files = [word for command in commands for word in command if word.startswith("tests/")]
    assert files
    assert all((repository / file).exists() for file in files)
    trainings = [command for command in commands if "pretrain" in command]
    assert [command[command.index("--stage") + 1] for command in trainings] == ["tokenizer", "1", "2"]
    for command in trainings:
        assert call(*command[3:], "--show-config").code == 0
    assert len((tmp_path / "training/manifest.jsonl").read_text().splitlines()) == 24


def test_it_refuses_a_machine_without_a_card(benchmarks, monkeypatch, capsys, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    monkeypatch.setattr("sys.argv", ["gpu_day.py", str(tmp_path / "out")])
    assert benchmarks[0].main() == 4
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_engines_that_are_compared_say_the_same(benchmarks, debug_weights):
    """On the CPU, where there is no card: the sides run, agree, and a difference is counted."""
    _, gpu_decode = benchmarks
    words = [str(debug_weights), "--device", "cpu", "--dtype", "float32", "--batches", "2", "--new-tokens", "5"]
    job = gpu_decode.job_of(gpu_decode.asked(words), debug_weights)
    found = {side: gpu_decode.one_side({**job, "side": side}) for side in ("ours", "transformers")}
    lines = gpu_decode.lines([found], [2])
    assert [(line["side"], line["reports"]) for line in lines] == [("ours", 2), ("transformers", 2)]
    assert lines[0]["ids_as_transformers"] == 1.0
    assert lines[0]["token_ratio"] == 1.0
    assert lines[1]["prompt_ratio"] > 0
    ids = found["ours"]["batches"]["2"]["ids"]
    assert gpu_decode.equal_share(ids, [ids[0], [*ids[1][:2], -1, *ids[1][3:]]]) == 0.7
