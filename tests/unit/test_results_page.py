"""docs/results.md says what docs/results.json holds, and the tools that write it do what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import results_page  # noqa: E402
import results_tables  # noqa: E402
import train_arms  # noqa: E402


@pytest.fixture(scope="module")
def numbers():
    return json.loads((ROOT / "docs/results.json").read_text(encoding="utf-8"))


def test_every_table_of_the_page_is_that_of_the_numbers(numbers):
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert results_page.filled(page, results_tables.tables(numbers)) == page


def test_every_plot_of_the_page_is_that_of_the_numbers(numbers):
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    for name in results_tables.plots(numbers):
        assert f"images/{name}.png" in page
        assert (ROOT / "docs/images" / f"{name}.png").is_file()


def test_a_table_without_a_place_is_refused():
    with pytest.raises(ValueError, match="0 places for masking"):
        results_page.filled("<!-- other -->\n<!-- end -->", {"masking": "x"})
    assert results_page.filled("a\n<!-- t -->\nold\n<!-- end -->\nb", {"t": "| x |\n"}) == (
        "a\n<!-- t -->\n\n| x |\n\n<!-- end -->\nb"
    )


def test_a_difference_is_paired_over_seeds_and_has_the_sign_of_the_first():
    rng = np.random.default_rng(0)
    label = (np.arange(80) % 2).astype(float)
    items = [
        {
            "ids": list(range(80)),
            "groups": list(range(80)),
            "columns": {
                "Pneumonia, masking": label.tolist(),
                f"probability of Pneumonia, layer{layer}, fit clean, random 0.8": (strength * label + noise).tolist(),
            },
        }
        for layer, strength, noise in ((2, 3.0, rng.normal(size=80)), (3, 0.5, rng.normal(size=80)))
    ]
    results = [{"items": one} for one in items]
    columns = [results_page._masked_columns(one, "clean")["0.8"] for one in results]
    found = results_page._paired([results], [columns])
    value, low, high = found["value"]
    assert 0 < low < value < high
    assert found["seeds"] == [value]
    both = results_page._paired([results, results[::-1]], [columns, columns[::-1]])
    assert both["value"] == pytest.approx([0, 0, 0])
    assert both["seeds"] == pytest.approx([value, -value])
    assert both["seeds"][0] == pytest.approx(_auroc(label, items[0]) - _auroc(label, items[1]), abs=1e-4)


def _auroc(label, items):
    name = next(name for name in items["columns"] if name.startswith("probability"))
    return roc_auc_score(label, items["columns"][name])


def test_arms_of_one_comparison_read_as_many_documents():
    arms = train_arms.STUDIES["arms"].arms
    first, then = arms["s1"].steps, arms["s2-both"].steps
    assert {arms[name].steps for name in ("s1-more", "s2-paper", "s2-both")} == {then}
    assert arms["s2-only"].steps == first + then
    assert all(arm.behind in (None, "s1") for arm in arms.values())


def test_a_plain_network_stands_beside_the_grids(tmp_path):
    (tmp_path / "cnn").mkdir()
    one = {"trained": "masked", "ratio": 0.8, "part": "opacity", "label": "Lung Opacity", "n": 44}
    text = json.dumps({"auroc": [{**one, "auroc": 0.61234, "interval": [0.5, 0.7]}]})
    (tmp_path / "cnn" / "cnn.json").write_text(text)
    found = results_page.collect(tmp_path)["arms"]["cnn"]
    assert found == {"opacity-grid": {"model": {"masked": {"0.8": [0.6123, 0.5, 0.7]}}, "n": 44}}
