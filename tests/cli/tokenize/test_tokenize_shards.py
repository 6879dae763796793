"""``chexmix tokenize -o``: token shards that survive kill -9, split, merge, and hold nobody's name."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.data.shards import ShardSet, verify_set
from chexmix_cli.core.data.shards.journal import Journal

ROWS = "shards.rows=4"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return a folder of 26 small films, two of them damaged."""
    folder = tmp_path / "archive"
    folder.mkdir()
    rng = np.random.default_rng(5)
    for number in range(26):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 6), dtype=np.uint8))
        coarse.resize((80, 72)).save(folder / f"{number:02d}.png")
    for name in ("07.png", "20.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:120])
    return folder


@pytest.fixture
def manifest(archive: Path) -> str:
    """Return manifest lines over the archive: two images a study, reports, labels, splits."""
    lines = []
    for number in range(0, 26):
        line = {
            "id": f"image-{number}",
            "file": str(archive / f"{number:02d}.png"),
            "study": f"study-{number // 2}",
            "patient": f"patient-{number // 4}",
            "split": "val" if number % 5 == 0 else "train",
            "view": "AP",
            "labels": {"Edema": number % 3 - 1, "Effusion": None if number % 2 else 1},
            "findings": f"Film {number} is clear." if number % 3 else None,
            "impression": "Normal chest." if number % 2 else None,
        }
        lines.append(json.dumps(line) + "\n")
    return "".join(lines)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_shards_hold_the_codes_that_records_would(call, archive, tmp_path, debug_weights):
    plain = call("tokenize", archive, "--weights", debug_weights)
    result = call("tokenize", archive, "--weights", debug_weights, "-o", tmp_path / "out", "--set", ROWS)
    assert result.code == plain.code == 3
    shards = ShardSet.open(tmp_path / "out")
    verify_set(shards)
    good = [record for record in plain.records if record["status"] == "ok"]
    assert [row.id for row in shards] == [record["id"] for record in good]
    assert [row.codes.tolist() for row in shards] == [record["codes"] for record in good]
    assert [entry["id"] for entry in shards.index()] == [record["id"] for record in plain.records]
    assert (shards.identity.codebook_hash, shards.identity.preset_hash) == (
        good[0]["codebook_hash"],
        good[0]["preset_hash"],
    )
    for number, record in enumerate(result.records):
        assert "codes" not in record
        assert record["shard"] == f"shard-{number // 4:05d}.safetensors"
        assert (record["row"] is None) == (record["status"] == "error")
    assert "24 of 26 records done" in result.stderr
    assert "CORRUPT\t2" in result.stderr


def test_a_manifest_keeps_its_split_labels_and_reports(call, manifest, tmp_path, debug_weights):
    from chexmix_cli.core.weights import open_weights

    result = call("tokenize", "-", "--weights", debug_weights, "-o", tmp_path / "out", stdin=manifest)
    assert result.code == 3
    shards = ShardSet.open(tmp_path / "out")
    weights = open_weights(debug_weights)
    shards.require(codebook_hash=weights.codebook_hash)
    tokenizer = weights.load_text_tokenizer()
    lines = {line["id"]: line for line in map(json.loads, manifest.splitlines())}
    assert len(shards) == 24
    for row in shards:
        line = lines[row.id]
        for name in ("split", "patient", "study", "view"):
            assert row.entry[name] == line[name]
        assert row.labels == line["labels"]
        sections = [f"{name.upper()}: {line[name]}" for name in ("findings", "impression") if line[name]]
        assert tokenizer.decode(row.text.tolist()) == "\n".join(sections)
    failed = [entry for entry in shards.index() if entry["status"] == "error"]
    assert [(entry["id"], entry["study"]) for entry in failed] == [("image-7", "study-3"), ("image-20", "study-10")]
    assert [shards.codes(int(row)).tolist() for row in shards.rows_of("val")] == [
        row.codes.tolist() for row in shards if row.entry["split"] == "val"
    ]


def test_records_of_tokenize_go_into_shards(call, archive, tmp_path, debug_weights):
    records = call("tokenize", archive, "--weights", debug_weights).stdout
    result = call("tokenize", "-", "--weights", debug_weights, "-o", tmp_path / "out", stdin=records)
    assert result.code == 3
    assert ShardSet.open(tmp_path / "out").gather([0, 23]).tolist() == [
        record["codes"] for record in map(json.loads, records.splitlines()) if record["id"] in ("00.png", "25.png")
    ]
    other = records.replace('"preset_hash": "', '"preset_hash": "0')
    refused = call("tokenize", "-", "--weights", debug_weights, "-o", tmp_path / "other", stdin=other)
    assert refused.code == 1
    assert {record["error"]["code"] for record in refused.records} == {"WRONG_TOKENS", "UPSTREAM"}


def test_what_a_line_says_wrong_and_an_id_that_occurs_twice_are_errors(call, archive, tmp_path, debug_weights):
    file = str(archive / "00.png")
    lines = [
        {"id": "a", "file": file},
        {"id": "b", "file": file, "split": "training"},
        {"id": "c", "file": file, "labels": {"Edema": 2}},
        {"id": "a", "file": str(archive / "01.png")},
        {"id": "d", "file": file, "findings": 7},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    result = call("tokenize", "-", "--weights", debug_weights, "-o", tmp_path / "out", stdin=text)
    codes = [record.get("error", {}).get("code") for record in result.records]
    assert codes == [None, "BAD_RECORD", "BAD_RECORD", "DUPLICATE", "BAD_RECORD"]
    shards = ShardSet.open(tmp_path / "out")
    verify_set(shards)
    assert len(shards) == 1


def test_kill_9_loses_and_invents_nothing(call, repository, archive, tmp_path, debug_weights):
    """Killed after some records, at moments drawn from a seed; the larger form is benchmarks/kill_resume.py."""

    def command(name: str) -> list[str]:
        arguments = ["tokenize", archive, "--weights", debug_weights, "-o", tmp_path / name, "--device", "cpu"]
        return [str(argument) for argument in (*arguments, "--set", ROWS, "--set", "input.batch_size=3")]

    whole = call(*command("whole"))
    draw = random.Random(20)
    finished = 0
    for _ in range(3):
        run = [sys.executable, "-m", "chexmix_cli", *command("killed")]
        with subprocess.Popen(
            run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=repository
        ) as process:
            assert process.stdout is not None
            seen = draw.randint(1, 9)
            for _ in range(seen):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        found = ShardSet.open(tmp_path / "killed", allow_partial=True)
        begun = Journal(tmp_path / "killed").read(len(found.shards), most=3)
        # At most the batch that was at work is done again; failed inputs among it make it longer, up to a shard.
        assert finished + seen - 4 <= found.num_records + len(begun) < 26
        finished = found.num_records + len(begun)
    assert finished > 0
    resumed = call(*command("killed"))
    assert f"in the shards already: {finished} record" in resumed.stderr
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    # As if it had never been interrupted: also the exit code, which counts what earlier runs could not do.
    assert resumed.code == whole.code == 3
    assert "24 of 26 records done" in resumed.stderr
    assert resumed.records == whole.records[finished:]


def test_a_finished_set_is_left_alone_and_another_list_or_model_refused(call, archive, tmp_path, debug_weights):
    def run(*more):
        return call("tokenize", archive, "--weights", debug_weights, "-o", tmp_path / "out", "--set", ROWS, *more)

    run()
    before = contents(tmp_path / "out")
    again = run()
    assert (again.code, again.stdout) == (3, "")
    preset = run("--image-preset", "percentile")
    assert preset.code == 1
    assert "preset voi; expected preset percentile" in preset.stderr
    rows = run("--set", "shards.rows=5")
    assert "rows 4; expected rows 5" in rows.stderr
    (archive / "30.png").write_bytes((archive / "00.png").read_bytes())
    longer = run()
    assert longer.code == 1
    assert "not those of the shards" in longer.stderr
    (archive / "30.png").unlink()
    (archive / "03.png").unlink()
    other = run()
    assert other.code == 1
    assert "input 3 is '04.png'" in other.stderr
    assert "'03.png'" in other.stderr
    assert contents(tmp_path / "out") == before


def test_another_codebook_is_refused_with_both_hashes(call, archive, tmp_path, debug_weights):
    call("tokenize", archive, "--weights", debug_weights, "-o", tmp_path / "out")
    own = ShardSet.open(tmp_path / "out").identity.codebook_hash
    values = json.loads((tmp_path / "out" / "shards.json").read_text())
    text = (tmp_path / "out" / "shards.json").read_text().replace(own, "0123456789ab")
    (tmp_path / "out" / "shards.json").write_text(text)
    for path in (tmp_path / "out").glob("shard-*"):
        path.unlink()
    assert values["identity"]["codebook_hash"] == own
    (tmp_path / "out" / "shards.json").write_text(json.dumps({**json.loads(text), "complete": None}))
    result = call("tokenize", archive, "--weights", debug_weights, "-o", tmp_path / "out")
    assert result.code == 1
    assert "codebook_hash 0123456789ab" in result.stderr
    assert own in result.stderr


@pytest.mark.parametrize("num_parts", [2, 3])
def test_parts_together_are_the_whole(call, manifest, tmp_path, debug_weights, num_parts):
    def run(*more):
        return call("tokenize", "-", "--weights", debug_weights, "--set", ROWS, *more, stdin=manifest)

    run("-o", tmp_path / "whole")
    seen: dict[str, int] = {}
    for part in range(num_parts):
        result = run("-o", tmp_path / "parts", "--shard", f"{part}/{num_parts}")
        folder = tmp_path / "parts" / f"part-{part:03d}-of-{num_parts:03d}"
        for entry in ShardSet.open(folder).index():
            assert seen.setdefault(entry["study"], part) == part
        only = run("--shard", f"{part}/{num_parts}")
        assert [record["id"] for record in only.records] == [record["id"] for record in result.records]
    assert len(seen) == 13
    assert max(list(seen.values()).count(part) for part in range(num_parts)) <= 13 // num_parts + 1
    merged = call("data", "merge", tmp_path / "parts", "-o", tmp_path / "merged")
    assert merged.code == 0, merged.stderr
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")


def test_data_info_tells_what_shards_hold_and_what_is_wrong(call, manifest, tmp_path, debug_weights):
    call("tokenize", "-", "--weights", debug_weights, "--set", ROWS, "-o", tmp_path / "out", stdin=manifest)
    result = call("data", "info", tmp_path / "out", "--json")
    assert result.code == 0, result.stderr
    record = result.records[0]
    assert record["status"] == "ok"
    assert (record["num_records"], record["num_rows"], record["num_shards"]) == (26, 24, 7)
    assert record["errors"] == {"CORRUPT": 2}
    assert record["splits"] == {"train": 19, "val": 5}
    assert record["num_reports"] == sum(bool(row.text.size) for row in ShardSet.open(tmp_path / "out"))
    assert record["labels"]["Effusion"]["1"] == sum(number % 2 == 0 for number in range(26) if number not in (7, 20))
    assert record["identity"]["tokens_per_image"] == 16
    assert record["identity"]["codebook_hash"] == ShardSet.open(tmp_path / "out").identity.codebook_hash
    path = tmp_path / "out" / "shard-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    damaged = call("data", "info", tmp_path / "out", "--json")
    assert damaged.code == 1
    assert "shard-00002.safetensors: the tensors are damaged" in damaged.records[0]["error"]["message"]


def test_data_info_of_parts_gives_a_record_each(call, archive, tmp_path, debug_weights):
    for part in (0, 1):
        call("tokenize", archive, "--weights", debug_weights, "-o", tmp_path / "out", "--shard", f"{part}/2")
    result = call("data", "info", tmp_path / "out", "--json")
    assert [record["identity"]["part"] for record in result.records] == [0, 1]
    alone = call("data", "merge", tmp_path / "out" / "part-000-of-002", "-o", tmp_path / "merged")
    assert alone.code == 1
    assert "parts 0/2" in alone.stderr


def test_torchrun_gives_each_process_its_part(call, archive, tmp_path, debug_weights, monkeypatch):
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        call("tokenize", archive, "--weights", debug_weights, "-o", tmp_path / "out", "--device", "cpu")
    parts = [ShardSet.open(tmp_path / "out" / f"part-00{rank}-of-002") for rank in range(2)]
    assert [part.num_records for part in parts] == [13, 13]
    orders = sorted(entry["order"] for part in parts for entry in part.index())
    assert orders == list(range(26))


@pytest.mark.parametrize("share", ["3/3", "1", "a/b", "-1/2", "1/0"])
def test_a_share_that_is_none_exits_2(call, share):
    result = call("tokenize", "x", f"--shard={share}")
    assert result.code == 2
    assert "I from 0 to N-1" in result.stderr


def test_workers_change_nothing(call, archive, tmp_path, debug_weights):
    def run(workers):
        out = tmp_path / f"out-{workers}"
        return call(
            "tokenize",
            archive,
            "--weights",
            debug_weights,
            "-o",
            out,
            "--set",
            ROWS,
            "--set",
            f"input.workers={workers}",
        )

    none, some = run(0), run(2)
    assert none.records == some.records
    assert contents(tmp_path / "out-0") == contents(tmp_path / "out-2")


def test_ctrl_c_ends_workers_and_all(repository, archive, tmp_path, debug_weights):
    command = [sys.executable, "-m", "chexmix_cli", "tokenize", archive, "--weights", debug_weights]
    command += ["--set", "input.workers=2", "--set", "input.batch_size=1", "-o", tmp_path / "out", "--device", "cpu"]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=repository,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    # The pipes end when the last process that holds them is gone: the workers inherited both.
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    # How many films are done by then is a race; a run that is stopped behind its last one says nothing of them.
    assert re.fullmatch(r"(stopped; written before that: \d+ records?\. .*\n)?error: interrupted\n", errors)


def test_memory_does_not_grow_with_the_list(tmp_path, debug_weights, monkeypatch):
    """Ten times the images, damaged ones among them, through the whole command: no more memory at the peak."""
    from chexmix_cli.commands.records import parts, runner, sinks
    from chexmix_cli.commands.shared import options
    from chexmix_cli.commands.tokenize import shard_output
    from chexmix_cli.core.errors import DataError, Reason
    from chexmix_cli.core.settings.inference import InputSettings
    from chexmix_cli.library.films import Film
    from chexmix_cli.library.jobs.job import Job
    from chexmix_cli.library.opened import open_model

    model = open_model(str(debug_weights), device="cpu", settings=InputSettings(), needs_decoder=False)
    side, num_codes = model.weights.settings.image.resolution_px, model.weights.settings.vocabulary.tokens_per_image

    def damaged() -> Film:
        raise DataError(Reason.CORRUPT, "damaged")

    def film() -> Film:
        return Film("film", np.zeros((model.preset.channels, side, side), np.float32), None, {"view": None})

    def images(count: int):
        for number in range(count):
            # A long stretch of damaged ones behind a good one must not wait for the batch to fill.
            yield Job(f"image-{number}", damaged if number % 3 or number % 300 > 150 else film)

    def peak(count: int) -> int:
        output = shard_output.ShardOutput(tmp_path / str(count), model, 40, parts.Part())
        loop = runner.Loop(
            process=lambda items: [{**item.fields, "codes": [1] * num_codes} for item in items],
            describe=str,
            batch_size=4,
            sinks=sinks.Sinks(options.RunOptions(is_json=True, is_quiet=True)),
            finish=output.take,
            group=40,
        )
        with open(os.devnull, "w") as sink:
            monkeypatch.setattr(sys, "stdout", sink)
            tracemalloc.start()
            tally = loop.run(output.select(images(count), lambda job, entry: None), "tokenize")
            output.close()
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            monkeypatch.undo()
        assert tally.num_ok + sum(tally.codes.values()) == count
        return most

    peak(100)  # what is loaded once
    few, many = peak(300), peak(3000)
    # What may grow is 8 bytes of hash an id, kept to refuse an id that occurs twice: some 100 bytes as Python keeps it.
    assert many - few < 2700 * 150, (few, many)
