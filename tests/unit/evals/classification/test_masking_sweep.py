"""The masking sweep: masks, fills, areas by hand, and that what is masked has no influence."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.evals.classification.items import items_of
from chexmix_cli.core.evals.classification.masking_numbers import sweep_numbers
from chexmix_cli.core.evals.classification.masking_sweep import ModelFeatures, PixelFeatures, SweepPlan, sweep
from chexmix_cli.core.evals.classification.pixel_baseline import PixelComponents, fill_masked, small_pixels
from chexmix_cli.core.evals.probes.linear import fit_probe
from chexmix_cli.core.settings.classification import ProbeSettings, SweepSettings
from chexmix_cli.core.settings.evaluation import BootstrapSettings

GRID = 4


def plan(ratios=(0.0, 0.5), patterns=("random",), seeds=2, count=40):
    return SweepPlan(
        ratios=ratios,
        settings=SweepSettings(patterns=patterns, seeds=seeds, baseline_components=5),
        seed=0,
        grid_size=GRID,
        train_ids=[f"train {number}" for number in range(count)],
        ids=[f"val {number}" for number in range(count)],
    )


def labelled(count=40):
    return (np.arange(count) % 2).astype(float)


def pixels(count=40, seed=0):
    """Return images whose corner says the label."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(count, 8, 8)).astype(np.float32)
    found[:, :2, :2] += 3 * labelled(count)[:, None, None].astype(np.float32)
    return found


def fit(state_RD):
    label_R1 = labelled(len(state_RD))[:, None]
    return fit_probe(
        {0: state_RD}, label_R1, ["Mass"], np.arange(len(state_RD)), ProbeSettings(c=(0.1,)), model="m", provenance={}
    ).head


def items(count=40):
    rows = [ManifestRow(id=f"val {number}", file="x", labels={"Mass": int(number % 2)}) for number in range(count)]
    return items_of(rows, "one")


def numbers(points, label_NK, names, resamples=0, by_label=False, columns=None):
    settings = BootstrapSettings(resamples=resamples)
    return sweep_numbers(
        points,
        label_NK,
        names,
        np.arange(40),
        {"by": "image"},
        settings,
        by_label=by_label,
        columns={} if columns is None else columns,
    )


@pytest.mark.parametrize("pattern", ["random", "block", "border"])
def test_masks_are_nested_differ_by_image_and_seed_and_repeat(pattern):
    few = plan().masks(pattern, 0.25, 0, ["a", "b"])
    many = plan().masks(pattern, 0.75, 0, ["a", "b"])
    assert few.sum(1).tolist() == [4, 4]
    assert many.sum(1).tolist() == [12, 12]
    assert not (few & ~many).any()
    assert np.array_equal(few, plan().masks(pattern, 0.25, 0, ["b", "a"])[::-1])
    seeds = [plan().masks(pattern, 0.5, seed, ["a"]).tobytes() for seed in range(20)]
    assert len(set(seeds)) > 1


def test_small_pixels_are_means_of_parts_that_keep_to_the_grid():
    image_CYX = np.arange(64, dtype=np.float32).reshape(1, 8, 8)
    found = small_pixels(image_CYX, 4, GRID)
    assert found[0, 0] == np.mean([0, 1, 8, 9])
    assert np.array_equal(small_pixels(image_CYX, 64, GRID), image_CYX[0])
    colours_CYX = np.concatenate([image_CYX, 3 * image_CYX])
    assert np.array_equal(small_pixels(colours_CYX, 4, GRID), 2 * found)
    assert np.array_equal(small_pixels(image_CYX, 6, GRID), found)
    assert small_pixels(np.zeros((1, 224, 224), np.float32), 64, 28).shape == (56, 56)
    with pytest.raises(SettingsError, match=r"sweep.baseline_side_px: is 2; expected 4 or more"):
        small_pixels(image_CYX, 2, GRID)


def test_masked_parts_become_the_mean_of_the_visible_and_nothing_of_them_is_left():
    image_NYX = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    is_masked_NP = np.array([[True, False, False, False]])
    found = fill_masked(image_NYX, is_masked_NP)
    visible = [2, 3, 6, 7, *range(8, 16)]
    assert found[0, :2, :2] == pytest.approx(np.full((2, 2), np.mean(visible)))
    assert np.array_equal(found[0, 2:], image_NYX[0, 2:])
    other_NYX = image_NYX.copy()
    other_NYX[0, :2, :2] = 1e6
    assert np.array_equal(fill_masked(other_NYX, is_masked_NP), found)
    assert not fill_masked(image_NYX, np.ones((1, 4), bool)).any()


def test_components_are_those_of_the_train_images():
    train_NYX, seen_NYX = pixels(), pixels(seed=1)
    found = PixelComponents(train_NYX, 5, seed=0)
    assert found.features(train_NYX).mean(0) == pytest.approx(np.zeros(5), abs=1e-4)
    # How a product of matrices is rounded may depend on their size.
    assert found.features(seen_NYX)[:3] == pytest.approx(found.features(seen_NYX[:3]), abs=1e-5)
    assert PixelComponents(train_NYX[:3], 5, seed=0).features(train_NYX).shape == (40, 2)  # three images lie in a plane


def test_the_same_masks_for_model_and_baseline_and_a_probe_fitted_each_way():
    seen = {"model": [], "train": []}

    def embed(codes_RP, is_masked_RP, what):
        seen["train" if "train rows" in what else "model"].append(is_masked_RP)
        return (codes_RP * ~is_masked_RP).astype(np.float32)

    codes_RP = (np.arange(16)[None] + 20 * labelled()[:, None]).astype(np.uint16)
    model = ModelFeatures("layer1", embed, codes_RP, codes_RP, (codes_RP.astype(np.float32),) * 2)
    points = sweep(model, plan(patterns=("random", "border")), items(), fit)
    assert [(point.fit, point.pattern, point.ratio, len(point.prob_SNK)) for point in points] == [
        ("clean", None, 0.0, 1),
        ("clean", "random", 0.5, 2),
        ("masked", "random", 0.5, 2),
        ("clean", "border", 0.5, 2),
        ("masked", "border", 0.5, 2),
    ]
    assert len(seen["train"]) == 2
    assert len(seen["model"]) == 4
    wanted = [plan().masks("random", 0.5, seed, plan().ids) for seed in (0, 1)]
    assert all(np.array_equal(found, mask) for found, mask in zip(seen["model"], wanted, strict=False))
    baseline = sweep(PixelFeatures(pixels(), pixels(seed=1), 5, 0), plan(), items(), fit)
    assert [point.fit for point in baseline] == ["clean", "clean", "masked"]
    assert {point.features.hidden for point in (*points, *baseline)} == {"tokens", "pixels"}


def test_the_area_is_the_mean_height_by_trapezoids():
    sweep_plan = plan(ratios=(0.0, 0.2, 0.8), seeds=2)
    features = PixelFeatures(pixels(), pixels(seed=1), 5, 0)
    points = sweep(features, sweep_plan, items(), fit)
    label_NK = labelled()[:, None]
    made, (curve,) = numbers(points, label_NK, ["Mass"], resamples=100)
    value = {(one.fields["probe"], one.fields["ratio"]): one.value for one in made if one.name == "auroc"}
    for fitted in ("clean", "masked"):
        start, middle, end = value["clean", "0"], value[fitted, "0.2"], value[fitted, "0.8"]
        by_hand = ((start + middle) / 2 * 0.2 + (middle + end) / 2 * 0.6) / 0.8
        (area,) = [one for one in made if one.name == "auroc-mask-area" and one.fields["probe"] == fitted]
        assert area.value == pytest.approx(by_hand)
        assert area.fields["ratios"] == "0-0.2-0.8"
        assert area.interval is not None
    assert value["clean", "0"] > 0.9
    assert [series.name for series in curve.series] == [
        "pixels-pca5, probe fitted clean",
        "pixels-pca5, probe fitted masked",
    ]
    assert list(curve.series[0].x) == [0.0, 20.0, 80.0]


def test_a_number_is_the_mean_over_seeds_and_over_labels_that_have_both_classes():
    from sklearn.metrics import roc_auc_score

    features = PixelFeatures(pixels(), pixels(seed=1), 5, 0)
    points = sweep(features, plan(ratios=(0.5,), seeds=3), items(), fit)
    twice = [type(point)(**{**fields_of(point), "prob_SNK": np.tile(point.prob_SNK, (1, 1, 2))}) for point in points]
    label_NK = np.stack([labelled(), np.zeros(40)], axis=1)
    made, _ = numbers(twice, label_NK, ["Mass", "Hernia"], by_label=True)
    by_hand = np.mean([roc_auc_score(labelled(), prob_NK[:, 0]) for prob_NK in points[0].prob_SNK])
    assert made[0].value == pytest.approx(by_hand)
    assert (made[0].fields["seeds"], made[0].fields["labels"]) == ("3", "1 of 2")
    each = {(one.fields["label"], one.fields["probe"]): one for one in made if one.fields["label"] != "macro"}
    assert each["Mass", "clean"].value == pytest.approx(by_hand)
    assert each["Hernia", "clean"].value is None
    empty, _ = numbers(points, np.zeros((40, 1)), ["Mass"])
    assert {one.reason for one in empty} == {"no label with both classes"}


def fields_of(point):
    return {name: getattr(point, name) for name in ("features", "fit", "pattern", "ratio", "prob_SNK")}


def test_with_one_mask_an_image_a_labels_numbers_follow_from_columns():
    from sklearn.metrics import roc_auc_score

    found = PixelFeatures(pixels(), pixels(seed=1), 5, 0)
    label_NK = np.column_stack([labelled(), 1 - labelled()])
    label_NK[3, 1] = np.nan
    points = [
        dataclasses.replace(point, prob_SNK=np.concatenate([point.prob_SNK, point.prob_SNK**2 / 2], axis=2))
        for point in sweep(found, plan(seeds=1), items(), fit)
    ]
    columns = {}
    measured, _ = numbers(points, label_NK, ["Mass", "Other"], by_label=True, columns=columns)
    followed = [one for one in measured if one.statistic is not None]
    assert len(followed) == 2 * len(points)
    for one in followed:
        label_N = np.array(columns[one.statistic.labels], float)
        has_label = ~np.isnan(label_N)
        score_N = np.array(columns[one.statistic.column])
        assert one.value == pytest.approx(roc_auc_score(label_N[has_label], score_N[has_label]))
    assert len({one.statistic.column for one in followed}) == len(followed)
    several, _ = numbers(sweep(found, plan(seeds=2), items(), fit), label_NK[:, :1], ["Mass"], by_label=True)
    assert [one.fields["ratio"] for one in several if one.statistic is not None] == ["0"]
