"""``chexmix evaluate table``: ten published rows, each by its own commands, ours beside them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.commands.evaluate.table import _telling_apart
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.evals.published_table import missing, published_table

PUBLISHED = [0.224, 21.7, 50.1, 48.9, 24.13, 0.712, 0.705, 0.702, 0.689, 0.656]


def test_the_rows_are_the_published_ones(shared):
    rows, _ = published_table()
    assert [row.published for row in rows] == PUBLISHED
    text = (shared / "CHEXMIX.md").read_text(encoding="utf-8").split("## Published results")[1].split("\n## ")[0]
    table = re.findall(r"^\| ([a-z].*?) \| (.*?) \| (\w+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert [(row.task, row.data, row.metric, row.published) for row in rows] == [
        (task, data, metric, float(value)) for task, data, metric, value in table if task != "task"
    ]


def test_a_sample_hangs_on_ids_alone_and_train_rows_stay_where_they_are_needed(tmp_path):
    _, runs = published_table()
    rows = [
        ManifestRow(id=f"r{number}", file=tmp_path / "x.png", split="train" if number % 5 == 0 else "test")
        for number in range(2000)
    ]
    run = runs["reports"]
    chosen = run.rows(rows, "test")
    assert len(chosen) == run.sample == 1000
    assert {row.id for row in run.rows(rows[::-1], "test")} == {row.id for row in chosen}
    assert all(row.split == "test" for row in chosen)
    assert len(runs["chexpert"].rows(rows, "test")) == 2000
    assert missing(run, ["reports"], has_judge=False) == ["--judge DIR"]
    assert missing(run, ["images"], has_judge=True) == ["--manifest reports=MANIFEST"]


def test_without_data_every_row_says_what_it_needs_and_how_it_is_measured(call):
    done = call("evaluate", "table")
    assert done.code == 0
    assert [record["published"] for record in done.records] == PUBLISHED
    for record in done.records:
        assert record["missing"]
        assert record["measured"] == []
        assert all(command.startswith("chexmix ") for command in record["commands"])


def test_what_is_no_data_of_the_table_is_refused(call, tmp_path):
    done = call("evaluate", "table", "--manifest", "mimic=x.jsonl")
    assert done.code == 2
    assert "expected one of chexpert=MANIFEST, images=MANIFEST, reports=MANIFEST, rexgradient=MANIFEST" in done.stderr
    done = call(
        "evaluate", "table", "--manifest", f"images={tmp_path / 'none.jsonl'}", "--results", tmp_path / "results"
    )
    assert done.code == 3
    failed = [record for record in done.records if record["status"] == "error"]
    assert [record["error"]["code"] for record in failed] == ["NOT_FOUND"]


@pytest.fixture
def manifest(tmp_path):
    """Return a manifest of drawn films: a bright spot is Edema; reports that differ."""
    rng = np.random.default_rng(0)
    lines = []
    for index in range(30):
        y, x = np.mgrid[0:72, 0:72] / 72
        has_edema = index % 2
        centre = (0.25, 0.25) if has_edema else (0.7, 0.7)
        values = 40 + 160 * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 0.05) + rng.normal(0, 6, (72, 72))
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{index}.png")
        row = {"id": f"film{index}", "file": f"{index}.png", "split": "train" if index < 20 else "test"}
        row |= {"patient": f"p{index}", "labels": {"Edema": has_edema}, "findings": f"Film number {index} of many."}
        lines.append(json.dumps(row))
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow
def test_rows_whose_data_is_given_are_measured_once(chexmix, manifest, debug_weights, tmp_path):
    given = [f"--manifest={name}={manifest}" for name in ("reports", "images", "chexpert")]
    command = ["evaluate", "table", *given, "--weights", debug_weights, "--results", tmp_path / "results"]
    done = chexmix(*command)
    assert done.code == 0, done.stderr
    by_task = {record["id"].split("|")[0]: record for record in done.records}
    recall = [one["value"] for one in by_task["image-to-text retrieval"]["measured"]]
    assert recall == sorted(recall)
    assert recall[-1] == pytest.approx(100.0), "the ten candidates are all in the first ten"
    assert [one["n"] for one in by_task["inpainting"]["measured"]] == [10, 10, 10]
    assert all(one["value"] > 0 for one in by_task["inpainting"]["measured"])
    for ratio in (0, 20, 40, 60, 80):
        (measured,) = by_task[f"findings classification, {ratio} % masked"]["measured"]
        assert 0 <= measured["value"] <= 1
        assert "label:macro" in measured["signature"]
    assert by_task["report generation"]["missing"]
    again = chexmix(*command)
    assert again.stdout == done.stdout
    assert again.stderr.count("exists already") == 3


def test_numbers_of_one_row_are_told_apart_by_what_differs():
    found = _telling_apart(["R@1|scorer:cosine|pool:57|v:1", "R@5|scorer:cosine|pool:57|v:1"])
    assert found == ["R@1", "R@5"]
    assert _telling_apart(["psnr|ratio:0.2|seed:0", "psnr|ratio:0.5|seed:0"]) == ["ratio:0.2", "ratio:0.5"]
    assert _telling_apart(["psnr|ratio:0.2"]) == [""]
    assert _telling_apart([]) == []
