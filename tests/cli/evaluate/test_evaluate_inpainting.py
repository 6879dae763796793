"""``chexmix evaluate inpainting``: a manifest in, one result out."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def manifest(films, tmp_path):
    path = tmp_path / "manifest.jsonl"
    lines = [
        {"id": name, "file": str(films / f"{name}.png"), "patient": f"secret-{name}", "split": split}
        for name, split in (("a", "val"), ("b", "val"), ("c", "train"))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


FAST = (
    "--set",
    "bootstrap.resamples=0",
    "--set",
    "methods.strategies=['single']",
    "--set",
    "methods.baselines=['mean']",
)


def test_a_result_with_page_and_plots(call, manifest, debug_weights, tmp_path):
    page, plots, out = tmp_path / "page.html", tmp_path / "plots", tmp_path / "result.json"
    arguments = ("--manifest", manifest, "--mask-ratio", "0.3,0.6", "--patterns", "block", "--weights", debug_weights)
    done = call("evaluate", "inpainting", *arguments, *FAST, "--html", page, "--plots", plots, "-o", out)
    assert done.code == 0, done.stderr
    assert done.stdout == ""
    result = json.loads(out.read_text())
    assert (result["task"], result["data"]["images"], result["data"]["split"]) == ("inpainting", 2, "val")
    assert {one["fields"]["ratio"] for one in result["metrics"]} == {"0.3", "0.6"}
    assert sorted(path.name for path in plots.iterdir()) == ["psnr-block-leak-free.png", "ssim-block-leak-free.png"]
    assert "worst PSNR of the hidden part" in page.read_text()
    assert "secret" not in out.read_text()
    again = call("evaluate", "inpainting", *arguments, *FAST)
    assert json.loads(again.stdout) == result


def test_a_film_that_cannot_be_read_is_named_and_the_others_are_done(call, manifest, films, debug_weights, tmp_path):
    (films / "b.png").write_bytes(b"broken")
    arguments = ("--manifest", manifest, "--mask-ratio", "0.3", "--patterns", "random", "--weights", debug_weights)
    refused = tmp_path / "refused.jsonl"
    done = call("evaluate", "inpainting", *arguments, *FAST, "--quarantine", refused)
    assert done.code == 3
    (result,) = done.records
    assert [one["id"] for one in result["failed"]] == ["b"]
    (line,) = map(json.loads, refused.read_text().splitlines())
    assert (line["id"], line["code"]) == ("b", result["failed"][0]["code"])
    assert line["files"] == [{"path": str(films / "b.png")}]
    assert result["data"]["images"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mask-ratio", "0.3,half"], "'half' is not a number"),
        (["--mask-ratio", "1"], "masks.ratios"),
        (["--patterns", "stars"], "random, block, border"),
        (["--set", "methods.choices=['guess']"], "best, expected, sample"),
    ],
)
def test_wrong_usage_exits_2(call, manifest, arguments, message):
    done = call("evaluate", "inpainting", "--manifest", manifest, *arguments)
    assert done.code == 2
    assert message in done.stderr
