"""Runs that go on where they were stopped, and shares of a list: the bytes of one process that was left alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chexmix_cli.core.files import held
from tests.cli.conftest import interrupted_behind, write_archive

#: Twelve films, of which two are damaged; with batches of three, one of them stands in a batch with others.
_NUM_FILMS, _DAMAGED, _BATCH = 12, (4, 9), 3


@pytest.fixture
def archive(tmp_path):
    return write_archive(tmp_path / "archive", _NUM_FILMS, _DAMAGED)


@pytest.fixture(params=["classify", "generate-report"])
def words(request, archive, debug_weights):
    """Return a command that writes records, without its ``-o``."""
    # A fixed number of draft tokens: processes that measure it for themselves need not agree to the last digit.
    decode = ["--set", "decode.max_new_tokens=6", "--set", "decode.draft_rows=8"]
    own = ["--embeddings", "--layer", "1"] if request.param == "classify" else decode
    words = [request.param, archive, "--weights", debug_weights, "--device", "cpu", *own]
    return [str(word) for word in (*words, "--set", f"input.batch_size={_BATCH}")]


def kill_behind(words: list[str], out: Path, num_records: int, repository: Path) -> None:
    """Run the command until it has written so many records, and kill it with kill -9."""
    records = out if out.suffix == ".jsonl" else out.parent / f"{out.name}.journal" / "records.jsonl"
    run = [sys.executable, "-c", _SLOW, *words, "-o", str(out)]
    with subprocess.Popen(run, stderr=subprocess.PIPE, cwd=repository) as process:
        while not records.exists() or records.read_bytes().count(b"\n") < num_records:
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


#: The command, with a pause behind each record: on a fast machine it were done before it can be killed.
_SLOW = """
import sys, time
from chexmix_cli.__main__ import main
from chexmix_cli.library.jobs.journal import Journal
add = Journal.add
Journal.add = lambda *arguments: (add(*arguments), time.sleep(0.05))
main()
"""


@pytest.fixture
def stop_behind(call):
    """Return a function that stops a command, as Ctrl-C does, when it has written so many records."""

    def run(words: list[str], out: Path, num_records: int):
        with interrupted_behind(num_records):
            result = call(*words, "-o", out)
        assert result.code == 130
        return result

    return run


@pytest.mark.parametrize(("words", "ending"), [("classify", "csv"), ("generate-report", "jsonl")], indirect=["words"])
def test_a_run_that_is_killed_goes_on_as_if_nothing_had_happened(
    call, words, stop_behind, tmp_path, repository, ending
):
    whole, killed = tmp_path / f"whole.{ending}", tmp_path / f"killed.{ending}"
    undisturbed = call(*words, "-o", whole)
    assert undisturbed.code == 3
    # In the middle of a batch, and in the middle of one behind the next.
    kill_behind(words, killed, 4, repository)
    assert (tmp_path / f"killed.{ending}.journal").is_dir()
    stopped = stop_behind(words, killed, 5)
    assert "The same command goes on behind them" in stopped.stderr
    resumed = call(*words, "-o", killed, "--quarantine", tmp_path / "refused.jsonl")
    assert killed.read_bytes() == whole.read_bytes()
    assert resumed.code == undisturbed.code
    # Whole batches are gone on behind.
    assert int(re.search(r"in the file already: (\d+) records", resumed.stderr)[1]) in (6, 9)
    assert "10 of 12 records done" in resumed.stderr
    refused = [json.loads(line) for line in (tmp_path / "refused.jsonl").read_text().splitlines()]
    assert [line["id"] for line in refused] == ["04.png", "09.png"]
    assert not list(tmp_path.glob("*.journal"))


@pytest.mark.parametrize("words", ["classify"], indirect=True)
def test_a_half_written_line_is_cut(call, words, stop_behind, tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    call(*words, "-o", whole)
    stop_behind(words, out, 4)
    for path in (out, tmp_path / "out.jsonl.journal" / "inputs.jsonl"):
        with path.open("ab") as file:
            file.write(b'{"id": "0')
    call(*words, "-o", out)
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("words", ["classify"], indirect=True)
@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--set", "input.batch_size=4"], r"input.batch_size 3; expected 4"),
        (["--seed", "1"], r"seed 0; expected 1"),
        (["--image-preset", "percentile"], r"preset 'voi'; expected 'percentile'"),
        (["--layer", "0"], r"layers [1]; expected [1, 0]"),
        (["--paths"], r"with_paths False; expected True"),
    ],
)
def test_what_decides_records_must_be_the_same(call, words, stop_behind, tmp_path, more, reason):
    stop_behind(words, tmp_path / "out.jsonl", 4)
    before = (tmp_path / "out.jsonl").read_bytes()
    result = call(*words, *more, "-o", tmp_path / "out.jsonl")
    assert result.code == 2
    assert f"was begun with {reason}, which is in use" in result.stderr
    assert "remove out.jsonl.journal" in result.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == before


@pytest.mark.parametrize("words", ["classify"], indirect=True)
def test_other_weights_are_refused(call, words, stop_behind, tmp_path, debug_weights):
    from safetensors.numpy import load_file, save_file

    stop_behind(words, tmp_path / "out.jsonl", 4)
    other = tmp_path / "other"
    other.mkdir()
    for path in debug_weights.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    from safetensors import safe_open

    with safe_open(other / "model.safetensors", framework="np") as file:
        metadata = file.metadata()
    tensors = load_file(other / "model.safetensors")
    name = min(tensors)
    save_file({**tensors, name: np.nextafter(tensors[name], np.float32(9))}, other / "model.safetensors", metadata)
    changed = [str(other) if word == str(debug_weights) else word for word in words]
    result = call(*changed, "-o", tmp_path / "out.jsonl")
    assert result.code == 2
    assert "was begun with model" in result.stderr


@pytest.mark.parametrize("words", ["classify"], indirect=True)
def test_other_inputs_are_refused_and_a_changed_file_too(call, words, archive, stop_behind, tmp_path):
    stop_behind(words, tmp_path / "out.jsonl", 4)
    before = (tmp_path / "out.jsonl").read_bytes()
    first = (archive / "00.png").read_bytes()
    os.utime(archive / "00.png", (1, 1))
    changed = call(*words, "-o", tmp_path / "out.jsonl")
    assert changed.code == 2
    assert "input 0 has changed" in changed.stderr
    (archive / "00.png").unlink()
    missing = call(*words, "-o", tmp_path / "out.jsonl")
    assert "input 0 is '01.png'; expected '00.png'" in missing.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == b"".join(before.splitlines(keepends=True)[:_BATCH])
    (archive / "00.png").write_bytes(first)
    (tmp_path / "out.jsonl").write_bytes(before.replace(b"00.png", b"xx.png"))
    edited = call(*words, "-o", tmp_path / "out.jsonl")
    assert edited.code == 1
    assert "record 0 is another one than the run wrote" in edited.stderr


@pytest.mark.parametrize("words", ["classify"], indirect=True)
def test_a_finished_file_is_written_anew_as_ever_and_one_that_is_being_written_is_let_alone(call, words, tmp_path):
    out = tmp_path / "out.jsonl"
    call(*words, "-o", out)
    first = out.read_bytes()
    call(*words, "--layer", "0", "-o", out)
    assert out.read_bytes() != first
    with held(tmp_path / "out.jsonl.journal"):
        assert call(*words, "-o", out).code == 4
    assert out.read_bytes() != first


@pytest.mark.parametrize("num_parts", [2, 5])
def test_shares_together_are_the_bytes_of_one_process(call, words, tmp_path, num_parts):
    """Five shares of four batches: one has nothing to do."""
    call(*words, "-o", tmp_path / "whole.jsonl")
    for part in range(num_parts):
        call(*words, "-o", tmp_path / "out.jsonl", "--shard", f"{part}/{num_parts}")
    files = sorted(tmp_path.glob("out.part-*.jsonl"))
    assert len(files) == num_parts
    merged = call("data", "merge", *files, "-o", tmp_path / "merged.jsonl", "--json")
    assert merged.records == [{"id": str(tmp_path / "merged.jsonl"), "status": "ok", "num_records": _NUM_FILMS}]
    assert (tmp_path / "merged.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    # Of a share that is done nothing is done again.
    again = call(*words, "-o", tmp_path / "out.jsonl", "--shard", f"0/{num_parts}")
    assert "in the file already: " in again.stderr
    call("data", "merge", *files, "-o", tmp_path / "merged.csv")
    call(*words, "-o", tmp_path / "whole.csv")
    assert (tmp_path / "merged.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_merged_shares_are_evaluated_as_the_records_of_one_process(call, words, debug_weights, tmp_path):
    from chexmix_cli.core.weights import open_weights
    from tests.unit.infer.classification.test_heads import make_head

    names = [f"{number:02d}.png" for number in range(_NUM_FILMS)]
    if words[0] == "classify":
        weights = open_weights(debug_weights)
        head = make_head(
            2, weights.settings.decoder.hidden_size, labels=("Mass", "Edema"), layer=1, model=weights.fingerprint
        )
        head.save(tmp_path / "mine.safetensors")
        words = [*words, "--head", str(tmp_path / "mine.safetensors")]
        rows = [
            {"file": name, "split": "val", "labels": {"Mass": n % 2, "Edema": n // 2 % 2}}
            for n, name in enumerate(names)
        ]
        evaluate = ("evaluate", "classification", "--manifest")
    else:
        rows = [{"report": f"Effusion on side {n % 3}. The heart is large."} for n in range(_NUM_FILMS)]
        evaluate = ("evaluate", "report", "--set", "external.run=false", "--references")
    lines = [
        {"id": name, "patient": f"p{n // 2}", **row} for n, (name, row) in enumerate(zip(names, rows, strict=True))
    ]
    (tmp_path / "truth.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    call(*words, "-o", tmp_path / "whole.jsonl")
    for part in range(3):
        call(*words, "-o", tmp_path / "out.jsonl", "--shard", f"{part}/3")
    call("data", "merge", *tmp_path.glob("out.part-*.jsonl"), "-o", tmp_path / "merged.jsonl")
    for name in ("whole", "merged"):
        few = ("--set", "bootstrap.resamples=100", "-o", tmp_path / f"{name}.json")
        done = call(*evaluate, tmp_path / "truth.jsonl", tmp_path / f"{name}.jsonl", *few)
        # Two of the films are damaged: they have no prediction.
        assert done.code == 3, done.stderr
    result = json.loads((tmp_path / "whole.json").read_text())
    assert sum(one["value"] is not None for one in result["metrics"]) > 4
    assert (tmp_path / "merged.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


@pytest.mark.parametrize("words", ["classify"], indirect=True)
def test_torchrun_gives_each_process_its_share_and_its_files(words, tmp_path, repository):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "chexmix_cli"]
    run += [*words, "-o", str(tmp_path / "out.jsonl"), "--quarantine", str(tmp_path / "refused.jsonl")]
    done = subprocess.run(run, capture_output=True, text=True, cwd=repository, check=False, timeout=300)
    parts = [tmp_path / f"out.part-00{rank}-of-002.jsonl" for rank in range(2)]
    ids = [[json.loads(line)["id"] for line in part.read_text().splitlines()] for part in parts]
    numbers = [0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]
    assert ids == [[f"{number:02d}.png" for number in share] for share in numbers], done.stderr
    # Each process has the films that it could not read in a list of its own.
    assert (tmp_path / "refused.part-001-of-002.jsonl").read_text().count("\n") == 2


@pytest.mark.parametrize("words", ["classify"], indirect=True)
def test_shares_that_do_not_fit_are_not_merged(call, words, tmp_path):
    out = tmp_path / "out.jsonl"
    call(*words, "-o", out, "--shard", "0/2")
    parts = [tmp_path / f"out.part-00{part}-of-002.jsonl" for part in range(2)]
    alone = call("data", "merge", parts[0], "-o", tmp_path / "merged.jsonl")
    assert "parts 0/2; expected each of 0/2..1/2" in alone.stderr
    unfinished = tmp_path / "out.part-001-of-002.jsonl.journal" / "run.json"
    call(*words, "-o", out, "--shard", "1/2")
    state = json.loads(unfinished.read_text())
    unfinished.write_text(json.dumps({**state, "complete": None}))
    result = call("data", "merge", *parts, "-o", tmp_path / "merged.jsonl")
    assert "the share is unfinished" in result.stderr
    unfinished.write_text(json.dumps({**state, "identity": {**state["identity"], "seed": 7}}))
    result = call("data", "merge", *parts, "-o", tmp_path / "merged.jsonl")
    assert "was begun with seed 7; expected 0" in result.stderr
    unfinished.write_text(json.dumps({**state, "complete": {**state["complete"], "list_hash": "0"}}))
    result = call("data", "merge", *parts, "-o", tmp_path / "merged.jsonl")
    assert "parts of different lists" in result.stderr
    bare = tmp_path / "bare.jsonl"
    bare.write_bytes(parts[0].read_bytes())
    assert "bare.jsonl.journal beside it" in call("data", "merge", bare, "-o", tmp_path / "merged.jsonl").stderr
    assert not (tmp_path / "merged.jsonl").exists()


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["-o", "out.csv", "--shard", "0/2"], "ends in .jsonl"),
        (["-o", "out.html", "--shard", "0/2"], "all inputs in one process"),
        (["--html", "out.html", "--shard", "0/2"], "all inputs in one process"),
        (["--shard", "2/2"], "I from 0 to N-1"),
    ],
)
def test_what_a_share_cannot_write_is_told_at_once(call, tmp_path, words, monkeypatch, more, problem):
    monkeypatch.chdir(tmp_path)
    result = call(*words, *more)
    assert result.code == 2
    assert problem in result.stderr


@pytest.mark.parametrize("words", ["generate-report"], indirect=True)
def test_pictures_of_a_run_that_goes_on_keep_their_names(call, words, stop_behind, archive, tmp_path):
    (archive / "A.PNG").write_bytes((archive / "00.png").read_bytes())
    whole = [*words, "--picture", str(tmp_path / "pictures")]
    out = tmp_path / "out.jsonl"
    stop_behind(whole, out, 4)
    call(*whole, "-o", out)
    pictures = [json.loads(line).get("picture") for line in out.read_text().splitlines()]
    drawn = [path for path in pictures if path is not None]
    assert len(set(drawn)) == len(drawn) == 11
