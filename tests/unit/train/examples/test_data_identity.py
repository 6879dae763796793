"""What a run learns from, as digests: the same data wherever they lie, and every change of them by its name."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from chexmix_cli.core.data.manifest import ManifestRow, read_manifest
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.train.examples.data_identity import manifest_identity

SPLITS = ("train", "val")


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, list[ManifestRow]]:
    """Return four rows of films that are no more than names."""
    found: dict[str, list[ManifestRow]] = {"train": [], "val": []}
    for number in range(4):
        file = tmp_path / f"{number}.png"
        file.write_bytes(b"film%d" % number)
        row = ManifestRow(id=f"r{number}", file=file, labels={"Mass": number % 2}, findings=f"Report {number}.")
        found[SPLITS[number % 2]].append(row)
    return found


def changed(before: dict, after: dict) -> set[str]:
    return {
        f"{split}.{name}" for split in SPLITS for name in before[split] if before[split][name] != after[split][name]
    }


def identity(rows: dict[str, list[ManifestRow]]) -> dict:
    return manifest_identity(rows, has_labels=True, text_tokenizer="abc")


def test_each_change_has_its_name(rows, tmp_path):
    before = identity(rows)
    first = rows["train"][0]
    for change, named in (
        ({"labels": {"Mass": 1}}, {"train.labels"}),
        ({"findings": "Report 0"}, {"train.reports"}),
        ({"id": "r9"}, {"train.ids"}),
        ({"file": rows["val"][0].file}, {"train.films"}),
    ):
        other = {**rows, "train": [dataclasses.replace(first, **change), *rows["train"][1:]]}
        assert changed(before, identity(other)) == named
    assert changed(before, identity({**rows, "val": rows["val"][:1]})) == {
        "val.rows",
        "val.ids",
        "val.films",
        "val.labels",
        "val.reports",
    }
    rows["val"][1].file.write_bytes(b"another film")
    assert changed(before, identity(rows)) == {"val.films"}
    assert "Report" not in json.dumps(before)


def test_what_is_not_learnt_does_not_count_nor_where_it_lies(rows, tmp_path):
    before = manifest_identity(rows)
    assert before["train"].keys() == {"rows", "ids", "films"}
    (tmp_path / "moved").mkdir()
    moved = {
        split: [
            dataclasses.replace(row, file=Path(shutil.move(row.file, tmp_path / "moved")), findings="Other.")
            for row in found
        ]
        for split, found in rows.items()
    }
    assert manifest_identity(moved) == before
    with pytest.raises(DataError, match=r"r0: the film cannot be read \(No such file"):
        manifest_identity(rows)


def test_the_case_of_a_resumed_run_with_other_manifests(shared: Path, tmp_path: Path):
    folder = shared / "cases" / "models" / "08-resume-other-data"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    found = []
    for name in ("c1", "c2", "c3"):
        lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for line in lines:
            line["file"] = str(shared / line["file"].removeprefix("../shared/"))
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        by_split = {split: list(read_manifest(tmp_path / f"{name}.jsonl", split=split)) for split in SPLITS}
        found.append(manifest_identity(by_split, has_labels=True))
    assert {"train.labels", "val.labels"} <= changed(found[0], found[1])
    assert "val.films" in changed(found[0], found[2]) or "train.films" in changed(found[0], found[2])
