"""What all kinds have in common: splits by patient, ids, files, and the count of what did not work."""

from __future__ import annotations

from collections import Counter

import pytest
from dataset_trees import draw_image, write_csv

from chexmix_cli.core.data.adapters.importer import draw_split
from chexmix_cli.core.data.adapters.registry import KINDS, kind_of
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.datasets import SplitSettings
from chexmix_cli.core.settings.load import resolve


def test_a_patients_split_never_changes():
    """Written down once; another release that draws otherwise would move patients from test to train."""
    drawn = [draw_split(f"p{number}", SplitSettings(val=0.3, test=0.3)) for number in range(10)]
    assert drawn == ["test", "train", "train", "val", "train", "val", "val", "val", "train", "test"]


def test_shares_are_what_the_settings_say():
    settings = SplitSettings(val=0.05, test=0.1)
    drawn = Counter(draw_split(f"patient{number}", settings) for number in range(20_000))
    assert drawn["test"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert drawn["val"] / 20_000 == pytest.approx(0.05, abs=0.01)


def test_another_salt_draws_another_split_and_larger_shares_keep_what_was_drawn():
    patients = [f"p{number}" for number in range(500)]
    small = {name for name in patients if draw_split(name, SplitSettings(val=0, test=0.1)) == "test"}
    large = {name for name in patients if draw_split(name, SplitSettings(val=0, test=0.2)) == "test"}
    other = {name for name in patients if draw_split(name, SplitSettings(val=0, test=0.1, salt="x")) == "test"}
    assert small < large
    assert len(small & other) < len(small) / 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"split": {"val": 0.6, "test": 0.6}}, r"split.val: is 0.6; expected val \+ test up to 1"),
        ({"split": {"test": 1.5}}, "split.test: is 1.5"),
        ({"split": {"source": "coin"}}, "expected dataset, hash"),
        ({"reports": "x"}, "reports: unknown setting"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        resolve(KINDS["chexpert"].settings, [("test", values)])


def test_an_unknown_kind_lists_the_known():
    with pytest.raises(
        SettingsError, match=r"unknown kind of data set 'mimic'; expected mimic-cxr, mimic-cxr-jpg, chex"
    ):
        kind_of("mimic")


def test_a_prefix_keeps_data_sets_apart_and_splits_as_they_are(tmp_path, do_import):
    for number in range(30):
        draw_image(tmp_path / f"{number}.png", number)
    write_csv(
        tmp_path / "t.csv", ["file", "patient", "study"], [(f"{n}.png", f"p{n // 2}", f"s{n}") for n in range(30)]
    )
    plain = do_import("folder", tmp_path, {"split": {"test": 0.4}})
    joined = do_import("folder", tmp_path, {"split": {"test": 0.4}, "prefix": "mine:"})
    assert [(row.id, row.patient, row.study) for row in joined.rows.values()][3] == ("mine:3.png", "mine:p1", "mine:s3")
    assert [row.split for row in joined.rows.values()] == [row.split for row in plain.rows.values()]
    by_patient = {row.patient: row.split for row in plain.rows.values()}
    assert all(row.split == by_patient[row.patient] for row in plain.rows.values())
    assert len(set(by_patient.values())) > 1


def test_examples_are_a_few_and_counts_are_all(tmp_path, do_import):
    draw_image(tmp_path / "a.png")
    write_csv(tmp_path / "t.csv", ["file"], [("a.png",), *((f"{n}.png",) for n in range(100))])
    found = do_import("folder", tmp_path)
    assert found.summary["rejected"] == {"NOT_FOUND": {"count": 100, "examples": [f"{n}.png" for n in range(5)]}}
    assert len(found.rejected) == 100
    assert found.rejected["99.png"].message == "no such image"
