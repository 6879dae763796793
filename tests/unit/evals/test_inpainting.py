"""The evaluation of inpainting: what is averaged, over whom, under which masks."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.data.presets import ResolvedPreset
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.evals.evaluation import read_evaluation
from chexmix_cli.core.evals.image_metrics import psnr_db
from chexmix_cli.core.evals.inpainting import InpaintingRun, Key
from chexmix_cli.core.evals.inpainting_result import chosen_rows, inpainting_evaluation
from chexmix_cli.core.infer.fills import harmonic_fill
from chexmix_cli.core.infer.images import ImageTokenizer
from chexmix_cli.core.infer.inpaint import CodeFiller
from chexmix_cli.core.infer.position_masks import hidden_positions, hiding_order
from chexmix_cli.core.infer.restoration import Restorer
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.evaluation import BootstrapSettings
from chexmix_cli.core.settings.inpainting import EvaluateInpaintingSettings, MaskSweepSettings, MethodSettings
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
    key = Key("psnr", "leak-free", "random", 0.5, "harmonic", "masked", "original", True)
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
    assert (found.fields["mean"], found.fields["pasted"], found.n) == ("per-image", "yes", 5)


def test_pasting_is_in_the_signature_and_lifts_the_whole(evaluation):
    whole = {
        one.fields["pasted"]: one.value
        for one in evaluation.measurements
        if one.name == "psnr"
        and one.fields["method"] == "single-expected"
        and (one.fields["protocol"], one.fields["ratio"]) == ("leak-free", "0.2")
        and (one.fields["region"], one.fields["against"]) == ("whole", "original")
    }
    assert whole["yes"] > whole["no"] + 3


def test_curves_and_cases_show_the_hidden_part(evaluation):
    assert {curve.name for curve in evaluation.curves} == {
        f"{metric}-random-{protocol}" for metric in ("psnr", "ssim") for protocol in ("leak-free", "paper")
    }
    curve = evaluation.curves[0]
    assert [line.name for line in curve.series] == [
        "iterative-expected",
        "single-expected",
        "harmonic",
        "mean",
        "ceiling",
    ]
    assert list(curve.series[0].x) == [0.2, 0.5]
    worst, best = evaluation.cases
    assert worst.group.startswith("worst PSNR")
    assert best.group.startswith("best PSNR")
    column = evaluation.columns["psnr leak-free random 0.2 single-expected masked original pasted"]
    assert worst.id == evaluation.item_ids[int(np.argmin(column))]
    assert best.id == evaluation.item_ids[int(np.argmax(column))]
    assert next(iter(best.pictures.values())).startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_and_batches_do_not_matter(restorer, rows, collected):
    from dataclasses import replace

    from chexmix_cli.core.settings.inference import InputSettings

    alone = InpaintingRun(restorer, PRESET, replace(settings(), input=InputSettings(batch_size=1)), 0).run(
        rows[:2], lambda done, total: None
    )
    for key, values in alone.values.items():
        assert values == pytest.approx(collected.values[key][:2], abs=0.05), key
    other = InpaintingRun(restorer, PRESET, settings(), 1).run(rows[:2], lambda done, total: None)
    key = Key("psnr", "leak-free", "random", 0.5, "mean", "masked", "original", True)
    assert other.values[key] != collected.values[key][:2]


def test_infinite_numbers_are_left_out_and_counted(collected):
    from dataclasses import replace

    key = Key("psnr", "leak-free", "random", 0.5, "mean", "masked", "original", True)
    gone = Key("psnr", "leak-free", "random", 0.2, "mean", "masked", "original", True)
    values = dict(collected.values)
    values[key] = [None, *values[key][1:]]
    values[gone] = [None] * 5
    found = inpainting_evaluation(replace(collected, values=values), settings(), seed=0, model={}, data={}, failed=[])
    by_column = {one.statistic.column: one for one in found.measurements}
    one = by_column["psnr leak-free random 0.5 mean masked original pasted"]
    assert (one.n, one.value) == (4, pytest.approx(np.mean(values[key][1:])))
    none = by_column["psnr leak-free random 0.2 mean masked original pasted"]
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
    with pytest.raises(SettingsError, match=r"images"):
        EvaluateInpaintingSettings(images=-1)
