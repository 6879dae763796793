"""``chexmix generate-report``: reports, pipes, pictures."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SHORT = ("--set", "decode.max_new_tokens=12")


def test_each_image_gets_a_report_with_its_mark(call, films, debug_weights):
    result = call("generate-report", films, "--weights", debug_weights, *SHORT)
    assert result.code == 0
    for record in result.records:
        assert 5 <= len(record["token_ids"]) <= 12
        assert isinstance(record["report"], str)
        assert record["finish"] in ("end", "next_image", "length")
        assert "not for clinical use" in record["mark"]


def test_codes_through_a_pipe_give_the_same_reports(repository, call, films, debug_weights):
    direct = call("generate-report", films, "--weights", debug_weights, *SHORT).records
    program = f"{sys.executable} -m chexmix_cli"
    pipe = (
        f"{program} tokenize {films} --weights {debug_weights} | {program} generate-report - --weights {debug_weights}"
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{pipe} {' '.join(SHORT)}"],
        capture_output=True,
        text=True,
        cwd=repository,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    piped = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(record["id"], record["token_ids"]) for record in piped] == [
        (record["id"], record["token_ids"]) for record in direct
    ]


def test_errors_from_upstream_are_passed_on(call, films, debug_weights):
    (films / "b.png").write_bytes(b"nothing")
    tokens = call("tokenize", films, "--weights", debug_weights)
    result = call("generate-report", "-", "--weights", debug_weights, *SHORT, stdin=tokens.stdout)
    assert result.code == 3
    assert [record["status"] for record in result.records] == ["ok", "error", "ok"]
    assert result.records[1]["id"] == "b.png"
    assert result.records[1]["error"]["code"] == "UPSTREAM"
    assert "UNKNOWN_FORMAT" in result.records[1]["error"]["message"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": [1, 2, 3]}, "3 codes"),
        ({"codes": [64] * 16}, "codes 64..64"),
        ({"codes": [-1] * 16}, "codes -1..-1"),
        ({"codes": "all"}, "not a list of integers"),
        ({"codebook_hash": "0123456789ab"}, "another image tokenizer"),
    ],
)
def test_codes_that_do_not_fit_the_model_are_refused(call, films, debug_weights, change, message):
    record = call("tokenize", films / "a.png", "--weights", debug_weights).records[0] | change
    result = call("generate-report", "-", "--weights", debug_weights, *SHORT, stdin=json.dumps(record) + "\n")
    assert result.code == 1
    assert result.records[0]["error"]["code"] == "WRONG_TOKENS"
    assert message in result.records[0]["error"]["message"]


def test_codes_of_another_preset_are_said(call, films, debug_weights):
    record = call("tokenize", films / "a.png", "--weights", debug_weights, "--image-preset", "percentile").records[0]
    result = call("generate-report", "-", "--weights", debug_weights, *SHORT, stdin=json.dumps(record) + "\n")
    assert result.code == 0
    assert any("encoded with preset percentile" in note for note in result.records[0]["notes"])


def test_sampling_follows_the_seed(call, films, debug_weights):
    def sample(seed):
        flags = ("--seed", seed, "--set", "decode.temperature=1.0", *SHORT)
        return [
            record["token_ids"] for record in call("generate-report", films, "--weights", debug_weights, *flags).records
        ]

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_a_picture_is_drawn_for_every_report(call, films, debug_weights, tmp_path):
    from PIL import Image

    out = tmp_path / "pictures"
    result = call("generate-report", films, "--weights", debug_weights, *SHORT, "--picture", out)
    assert result.code == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.png.png", "b.png.png", "c.png.png"]
    with Image.open(out / "a.png.png") as picture:
        assert picture.width > 500
        assert any("AI-generated" in str(value) for value in picture.text.values())


def test_several_reports_to_one_picture_name_are_numbered(call, films, debug_weights, tmp_path):
    result = call("generate-report", films, "--weights", debug_weights, *SHORT, "--picture", tmp_path / "one.png")
    assert result.code == 0
    assert [record["picture"].rsplit("/")[-1] for record in result.records] == ["one.png", "one-2.png", "one-3.png"]
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("one.png", "one-2.png", "one-3.png"))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"status": "error", "error": "a text"}, "UPSTREAM"),
        ({"status": "error", "error": None}, "UPSTREAM"),
        ({"status": "error", "error": {}}, "UPSTREAM"),
        ({"id": True}, "BAD_RECORD"),
        ({"id": 7.5}, "BAD_RECORD"),
        ({"id": ""}, "BAD_RECORD"),
        ({"notes": "a text"}, "BAD_RECORD"),
        ({"codes": [1.5] * 16}, "WRONG_TOKENS"),
        ({"codes": [True] * 16}, "WRONG_TOKENS"),
        ({"codes": []}, "WRONG_TOKENS"),
        ({"codes": None}, "WRONG_TOKENS"),
        ({"codes": [10**30] * 16}, "WRONG_TOKENS"),
    ],
)
def test_records_nobody_should_write_are_refused_alone(call, films, debug_weights, change, code):
    good = call("tokenize", films / "a.png", "--weights", debug_weights).records[0]
    lines = "".join(json.dumps(record) + "\n" for record in (good, good | change, good))
    result = call("generate-report", "-", "--weights", debug_weights, *SHORT, stdin=lines)
    assert result.code == 3
    assert [record["status"] for record in result.records] == ["ok", "error", "ok"]
    assert result.records[1]["error"]["code"] == code


def test_pictures_of_ids_that_look_alike_do_not_overwrite_each_other(call, films, debug_weights, tmp_path):
    good = call("tokenize", films / "a.png", "--weights", debug_weights).records[0]
    ids = ["a/b", "a b", "A_B", "../../a", "x" * 300]
    lines = "".join(json.dumps(good | {"id": record_id}) + "\n" for record_id in ids)
    out = tmp_path / "out" / "pictures"
    result = call("generate-report", "-", "--weights", debug_weights, *SHORT, "--picture", out, stdin=lines)
    assert [record["id"] for record in result.records] == ids
    assert sorted(path.name.lower() for path in out.iterdir()) == sorted(
        ["a_b.png", "a_b-2.png", "a_b-3.png", ".._.._a.png", f"{'x' * 50}.png"]
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pictures"]


def test_a_picture_that_cannot_be_written_exits_4(call, films, debug_weights, tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = call(
        "generate-report", films, "--weights", debug_weights, *SHORT, "--picture", tmp_path / "file" / "x.png"
    )
    assert result.code == 4
    assert "the picture cannot be written" in result.stderr


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_narrow_weights_write_reports_and_say_so(call, films, debug_weights, quantize):
    plain, quantized = (
        call("generate-report", films, "--weights", debug_weights, *SHORT, "--provenance", *more)
        for more in ((), ("--quantize", quantize))
    )
    assert quantized.code == 0
    assert [record["id"] for record in quantized.records] == [record["id"] for record in plain.records]
    assert [record["provenance"].get("quantize") for record in quantized.records] == [quantize] * 3
    assert all(record["provenance"]["kernels"] in ("native", "torch") for record in quantized.records)
    assert all("quantize" not in record["provenance"] for record in plain.records)
    # Other numbers, but of the same model.
    for one, other in zip(quantized.records, plain.records, strict=True):
        assert one["logprob"] != other["logprob"]
        assert one["logprob"] == pytest.approx(other["logprob"], rel=0.1)


def test_narrow_weights_are_a_matter_of_a_cpu_or_a_cuda_device(call, films, debug_weights, monkeypatch):
    import torch

    from chexmix_cli.core import runtime

    result = call("generate-report", films, "--weights", debug_weights, "--quantize", "int3")
    assert (result.code, result.stdout) == (2, "")
    assert "quantize: 'int3' is not a choice; expected int8, int4" in result.stderr
    monkeypatch.setattr(runtime, "choose_device", lambda name: torch.device("mps", 0))
    result = call("generate-report", films, "--weights", debug_weights, "--quantize", "int8")
    assert (result.code, result.stdout) == (2, "")
    assert "is 'int8', on mps:0" in result.stderr


def test_bfloat16_without_instructions_is_warned_of_once(call, films, debug_weights, monkeypatch):
    from chexmix_cli.core import runtime

    for has_bfloat16, count in ((False, 1), (True, 0)):
        monkeypatch.setattr(runtime, "has_cpu_bfloat16", lambda has=has_bfloat16: has)
        result = call("generate-report", films, "--weights", debug_weights, *SHORT, "--dtype", "bfloat16")
        assert result.code == 0
        assert result.stderr.count("does not multiply in bfloat16: images are encoded faster") == count
