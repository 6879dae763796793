"""The evaluation of inpainting: what is averaged, over whom, under which masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.data.presets import ResolvedPreset
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.evals.inpainting.result import chosen_rows, inpainting_evaluation
from chexmix_cli.core.evals.inpainting.run import InpaintingRun, Key
from chexmix_cli.core.evals.metrics.images import psnr_db
from chexmix_cli.core.evals.result import read_evaluation
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.infer.inpainting.classical_fills import harmonic_fill
from chexmix_cli.core.infer.inpainting.code_filler import CodeFiller
from chexmix_cli.core.infer.inpainting.restorer import Restorer
from chexmix_cli.core.infer.position_masks import hidden_positions, hiding_order
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.evaluation import BootstrapSettings
from chexmix_cli.core.settings.inpainting import (
    EvaluateInpaintingSettings,
    MaskSweepSettings,
    MethodSettings,
    PictureSettings,
)
from chexmix_cli.core.settings.load import build, read_preset
from chexmix_cli.core.settings.model import ModelSettings

SETTINGS = build(ModelSettings, read_preset("model", "debug"))
SIDE, GRID = SETTINGS.image.resolution_px, SETTINGS.grid_size
PRESET = ResolvedPreset(intensity="voi", geometry="pad", resolution_px=SIDE, channels=SETTINGS.vqgan.image_channels)


def settings(**values) -> EvaluateInpaintingSettings:
    given = {
        "masks": MaskSweepSettings(ratios=(0.5, 0.2), patterns=("random",), protocols=("leak-free", "paper")),
        "methods": MethodSettings(strategies=("single", "iterative"), rounds=2, baselines=("mean", "harmonic")),
        "bootstrap": BootstrapSettings(resamples=100),
        "cases": 1,
    }
    return EvaluateInpaintingSettings(**given | values)


@pytest.fixture(scope="module")
def restorer():
    import torch

    generator = torch.Generator().manual_seed(3)
    decoder, vqgan = Decoder(SETTINGS.decoder), Vqgan(SETTINGS.vqgan)
    with torch.no_grad():
        for parameter in [*decoder.parameters(), *vqgan.parameters()]:
            parameter.normal_(std=0.3, generator=generator)
    filler = CodeFiller(decoder, SETTINGS.vocabulary, vqgan.quantize.embedding.weight)
    return Restorer(ImageTokenizer(vqgan.eval(), SETTINGS), filler)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    found = []
    for number in range(5):
        y, x = np.mgrid[0:80, 0:80] / 80
        pixels = 120 + 80 * np.sin(4 * x + number) * np.cos(5 * y) + rng.normal(0, 4, (80, 80))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        found.append(ManifestRow(id=str(number), file=folder / f"{number}.png", patient=f"p{number // 2}"))
    (folder / "bad.png").write_bytes(b"nothing")
    found.insert(2, ManifestRow(id="bad", file=folder / "bad.png", patient="p9"))
    return found


@pytest.fixture(scope="module")
def collected(restorer, rows):
    steps = []
    found = InpaintingRun(restorer, PRESET, settings(), 0).run(rows, lambda done, total: steps.append((done, total)))
    assert steps[-1] == (6, 6)
    return found


@pytest.fixture(scope="module")
def evaluation(collected):
    return inpainting_evaluation(collected, settings(), seed=0, model={}, data={}, failed=[])


def test_every_method_has_numbers_of_every_film_that_can_be_read(collected, evaluation):
    assert [row.id for row in collected.rows] == ["0", "1", "2", "3", "4"]
    assert [failed[0] for failed in collected.failed] == ["bad"]
    assert all(len(values) == 5 for values in collected.values.values())
    methods = {(key.protocol, key.method) for key in collected.values}
    model = {"single-expected", "iterative-expected", "ceiling"}
    assert methods == {("leak-free", name) for name in model | {"mean", "harmonic"}} | {
        ("paper", name) for name in model
    }
    assert evaluation.item_groups == [0, 0, 1, 1, 2]
    assert read_evaluation(evaluation.to_dict(), "x").to_dict()["metrics"] == evaluation.to_dict()["metrics"]
    assert len({one.signature for one in evaluation.measurements}) == len(evaluation.measurements)


def test_a_number_is_the_mean_of_each_films_own(collected, evaluation, rows):
    """A baseline by hand: the mask by the film's id, the fill, the PSNR of the hidden part, then the mean in dB."""
    values, errors = [], []
    for row in (row for row in rows if row.id != "bad"):
        film = np.asarray(Image.open(row.file).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
        order = hiding_order("random", GRID, seed=0, key=row.id)
        side = SIDE // GRID
        is_hidden = np.kron(hidden_positions(order, 0.5).reshape(GRID, GRID), np.ones((side, side))) > 0
        filled = np.rint(harmonic_fill(film.astype(float), is_hidden))
        values.append(psnr_db(filled, film, is_hidden))
        errors.append(((filled - film) ** 2)[is_hidden].mean())
    key = Key("psnr", "leak-free", "random", 0.5, "harmonic", "masked", "original", "paste")
    assert collected.values[key] == pytest.approx(values)
    found = next(
        one
        for one in evaluation.measurements
        if one.name == "psnr"
        and one.fields["method"] == "harmonic"
        and (one.fields["ratio"], one.fields["region"], one.fields["against"]) == ("0.5", "masked", "original")
    )
    assert found.value == pytest.approx(np.mean(values))
    assert found.value != pytest.approx(10 * np.log10(255**2 / np.mean(errors)))
    assert found.interval[0] < found.value < found.interval[1]
    assert (found.fields["mean"], found.fields["join"], found.n) == ("per-image", "paste", 5)


def test_the_join_is_in_the_signature_and_the_films_own_pixels_lift_the_whole(evaluation):
    whole = {
        one.fields["join"]: one
        for one in evaluation.measurements
        if one.name == "psnr"
        and one.fields["method"] == "single-expected"
        and (one.fields["protocol"], one.fields["ratio"]) == ("leak-free", "0.2")
        and (one.fields["region"], one.fields["against"]) == ("whole", "original")
    }
    assert whole["paste"].value > whole["none"].value + 3
    assert whole["blend"].value > whole["paste"].value  # untrained, the model is far off: any continuation is nearer
    assert {name: one.fields.get("detail") for name, one in whole.items()} == {
        "none": None, "paste": None, "blend": "0.75",
    }  # fmt: skip


def test_each_form_has_its_regions_once(collected):
    found = {
        (key.method, key.region, key.join)
        for key in collected.values
        if (key.metric, key.protocol, key.against) == ("psnr", "leak-free", "original")
    }
    model = {(region, join) for region in ("masked", "whole") for join in ("blend", "paste")} | {("whole", "none")}
    assert found == {(name, *form) for name in ("single-expected", "iterative-expected") for form in model} | {
        (name, region, join)
        for name, join in (("ceiling", "none"), ("mean", "paste"), ("harmonic", "paste"))
        for region in ("masked", "whole")
    }


def test_a_blend_without_detail_is_the_tension_baseline(restorer, rows):
    """A film's own code size sets the length of both, so that they stay comparable."""
    methods = MethodSettings(strategies=("single",), baselines=("tension",), detail=0.0)
    masks = MaskSweepSettings(ratios=(0.5,), patterns=("block",))
    found = InpaintingRun(restorer, PRESET, settings(methods=methods, masks=masks), 0).run(
        rows[:2], lambda done, total: None
    )
    blend = Key("psnr", "leak-free", "block", 0.5, "single-expected", "masked", "original", "blend")
    tension = Key("psnr", "leak-free", "block", 0.5, "tension", "masked", "original", "paste")
    assert found.values[blend] == found.values[tension]
    assert found.values[blend] != found.values[replace(blend, join="paste")]


def test_curves_and_cases_show_the_hidden_part(evaluation):
    assert {curve.name for curve in evaluation.curves} == {
        f"{metric}-random-{protocol}" for metric in ("psnr", "ssim") for protocol in ("leak-free", "paper")
    }
    curve = evaluation.curves[0]
    assert [line.name for line in curve.series] == [
        "iterative-expected, blended",
        "iterative-expected, pasted",
        "single-expected, blended",
        "single-expected, pasted",
        "harmonic",
        "mean",
        "ceiling",
    ]
    assert list(curve.series[0].x) == [0.2, 0.5]
    worst, best = evaluation.cases
    assert worst.group.startswith("worst PSNR")
    assert best.group.startswith("best PSNR")
    column = evaluation.columns["psnr leak-free random 0.2 single-expected masked original blend"]
    assert worst.id == evaluation.item_ids[int(np.argmin(column))]
    assert best.id == evaluation.item_ids[int(np.argmax(column))]
    assert next(iter(best.pictures.values())).startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_and_batches_do_not_matter(restorer, rows, collected):
    from chexmix_cli.core.settings.inference import InputSettings

    alone = InpaintingRun(restorer, PRESET, replace(settings(), input=InputSettings(batch_size=1)), 0).run(
        rows[:2], lambda done, total: None
    )
    for key, values in alone.values.items():
        assert values == pytest.approx(collected.values[key][:2], abs=0.05), key
    other = InpaintingRun(restorer, PRESET, settings(), 1).run(rows[:2], lambda done, total: None)
    key = Key("psnr", "leak-free", "random", 0.5, "mean", "masked", "original", "paste")
    assert other.values[key] != collected.values[key][:2]


def test_infinite_numbers_are_left_out_and_counted(collected):
    key = Key("psnr", "leak-free", "random", 0.5, "mean", "masked", "original", "paste")
    gone = Key("psnr", "leak-free", "random", 0.2, "mean", "masked", "original", "paste")
    values = dict(collected.values)
    values[key] = [None, *values[key][1:]]
    values[gone] = [None] * 5
    found = inpainting_evaluation(replace(collected, values=values), settings(), seed=0, model={}, data={}, failed=[])
    by_column = {one.statistic.column: one for one in found.measurements}
    one = by_column["psnr leak-free random 0.5 mean masked original paste"]
    assert (one.n, one.value) == (4, pytest.approx(np.mean(values[key][1:])))
    none = by_column["psnr leak-free random 0.2 mean masked original paste"]
    assert (none.value, none.n, none.reason) == (None, 0, "infinite or undefined for every image")
    assert [line["reason"][:6] for line in found.missing] == ["5 of 5", "1 of 5"] or len(found.missing) == 2


def test_a_sample_of_rows_hangs_on_the_seed_and_keeps_the_order(rows):
    assert chosen_rows(rows, settings(), 0) == rows
    few = settings(images=3)
    first = chosen_rows(rows, few, 0)
    assert len(first) == 3
    assert [rows.index(row) for row in first] == sorted(rows.index(row) for row in first)
    assert first == chosen_rows(rows, few, 0)
    assert any(chosen_rows(rows, few, seed) != first for seed in range(1, 5))


def test_settings_that_make_no_sense():
    for values, message in (
        ({"ratios": (0.0,)}, "masks.ratios"),
        ({"ratios": (0.5, 0.5)}, "none twice"),
        ({"patterns": ()}, "masks.patterns"),
        ({"ring": 99}, "region.ring"),
    ):
        with pytest.raises(SettingsError, match=message):
            MaskSweepSettings(**values)
    with pytest.raises(SettingsError, match=r"methods.strategies"):
        MethodSettings(strategies=())
    with pytest.raises(SettingsError, match=r"fill.rounds"):
        MethodSettings(rounds=0)
    with pytest.raises(SettingsError, match=r"methods.detail"):
        MethodSettings(detail=1.5)
    with pytest.raises(SettingsError, match=r"picture.detail"):
        PictureSettings(detail=-0.1)
    with pytest.raises(SettingsError, match=r"images"):
        EvaluateInpaintingSettings(images=-1)
