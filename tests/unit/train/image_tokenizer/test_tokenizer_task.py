"""The image tokenizer's task: codebook, augmentation, who learns from what, learning."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.load import to_dict
from chexmix_cli.core.settings.training import (
    LoopSettings,
    OptimizerSettings,
    ReconstructionSettings,
    TokenizerTraining,
)
from chexmix_cli.core.train.examples.films import Films, draw_change, reduced, stack
from chexmix_cli.core.train.image_tokenizer.round_trip import RoundTripProbe
from chexmix_cli.core.train.image_tokenizer.task import RunningCodebook, TokenizerTask
from chexmix_cli.core.train.loop import Trainer
from chexmix_cli.core.train.optimizer import build_optimizer


def test_codebook_is_the_running_mean_of_its_latents():
    embedding = nn.Embedding(2, 1)
    codebook = RunningCodebook(embedding, decay=0.5, revive_below=0.0)
    codebook.seed(torch.tensor([[0.0], [10.0]]))
    assert embedding.weight.flatten().tolist() == [0.0, 10.0]
    codebook.observe(torch.tensor([[1.0], [3.0]]))
    codebook.observe(torch.tensor([[12.0]]))
    codebook.update(torch.Generator())
    # Code 0: count (1 + 2) / 2, sum (0 + 4) / 2; code 1: count (1 + 1) / 2, sum (10 + 12) / 2.
    assert embedding.weight.flatten().tolist() == pytest.approx([2 / 1.5, 11.0])


def test_a_dead_code_moves_onto_a_latent():
    embedding = nn.Embedding(3, 1)
    codebook = RunningCodebook(embedding, decay=0.5, revive_below=0.4)
    codebook.seed(torch.tensor([[0.0], [1.0], [100.0]]))
    latents = torch.tensor([[0.1], [0.9]])
    for _ in range(2):
        codebook.observe(latents)
        codebook.update(torch.Generator().manual_seed(0))
    assert any(torch.isclose(embedding.weight[2, 0], value) for value in latents[:, 0])
    assert not embedding.weight.requires_grad


def test_a_trained_codebook_is_kept_by_the_first_batch():
    """Training that starts from weights would forget them if the first batch seeded the codes."""
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(4, 2)
    before = embedding.weight.detach().clone()
    codebook = RunningCodebook(embedding, decay=0.9, revive_below=0.3)
    codebook.keep()
    assert codebook.is_seeded
    codebook.observe(before.repeat(3, 1))
    codebook.update(torch.Generator().manual_seed(1))
    torch.testing.assert_close(embedding.weight.detach(), before)


def test_unchanged_films_are_what_inference_sees(draw_film, trained_model):
    from chexmix_cli.core.data.images.geometry import fit

    film = draw_film(0, side=100)
    films = Films([reduced(film, trained_model)], trained_model)
    assert np.array_equal(films.exact(0), fit(film, trained_model.image, 1))
    same = films.changed(0, draw_change(torch.Generator().manual_seed(0)), crop=0.0, intensity=0.0, flip=False)
    # Scaled in two steps instead of one: close, not equal.
    assert np.abs(same - films.exact(0)).max() < 0.05


def test_changes_stay_in_range_and_differ(draw_film, trained_model):
    films = Films([reduced(draw_film(1), trained_model)], trained_model)
    generator = torch.Generator().manual_seed(0)
    views = [films.changed(0, draw_change(generator), crop=0.2, intensity=0.3, flip=True) for _ in range(4)]
    assert all(view.shape == (1, 32, 32) and view.dtype == np.float32 and np.abs(view).max() <= 1 for view in views)
    assert all(np.abs(views[0] - view).max() > 0.02 for view in views[1:])


def test_training_learns_to_rebuild(draw_film, trained_model, tmp_path):
    """150 small steps must rebuild unseen films clearly better than their own mean grey does."""
    settings = TokenizerTraining(
        model=trained_model,
        train=LoopSettings(steps=150, batch_size=8, micro_batch_size=8, validate_every=150, precision="float32"),
        optimizer=OptimizerSettings(learning_rate=3e-3, warmup_steps=10),
        reconstruction=ReconstructionSettings(crop_jitter=0.0),
    )
    torch.manual_seed(0)
    films = Films([reduced(draw_film(seed), trained_model) for seed in range(24)], trained_model)
    val = Films([reduced(draw_film(seed), trained_model) for seed in range(100, 108)], trained_model)
    task = TokenizerTask(settings, Vqgan(trained_model.vqgan), films, val, [str(index) for index in range(24)])
    records = []
    Trainer(task, settings.train, settings.optimizer, {}, out=tmp_path, report=records.append).run(resume=False)
    pixels = stack([val.exact(index) for index in range(8)])
    variance = (pixels - pixels.mean(dim=(1, 2, 3), keepdim=True)).square().mean()
    result = next(record for record in records if "val_l2" in record)
    assert result["val_l2"] < 0.25 * float(variance)
    assert result["val_code_use"] > 0.5
    assert result["val_psnr"] > 20
    assert result["val_ssim"] > 0.7


def adversarial_settings(model, **values) -> TokenizerTraining:
    losses = {"adversarial": 0.1, "frequency": 0.5, "discriminator_channels": 8, **values}
    return TokenizerTraining(
        model=model,
        train=LoopSettings(
            steps=6,
            batch_size=4,
            micro_batch_size=2,
            checkpoint_every=3,
            validate_every=3,
            log_every=1,
            precision="float32",
        ),
        optimizer=OptimizerSettings(learning_rate=1e-3, weight_decay=0.1),
        reconstruction=ReconstructionSettings(**losses),
    )


@pytest.fixture
def make_task(trained_model, draw_film):
    """Return a function that builds a fresh task, as a new process would."""

    def make(**values) -> TokenizerTask:
        settings = adversarial_settings(trained_model, **values)
        torch.manual_seed(0)
        drawn = ([reduced(draw_film(seed), trained_model) for seed in seeds] for seeds in (range(6), range(50, 54)))
        train, val = (Films(pictures, trained_model) for pictures in drawn)
        return TokenizerTask(settings, Vqgan(trained_model.vqgan), train, val, [f"film{index}" for index in range(6)])

    return make


def gradients(task: TokenizerTask, step: int) -> dict[str, torch.Tensor]:
    task.module.zero_grad(set_to_none=True)
    batch = task.examples.prepare(task.examples.select(step), torch.Generator().manual_seed(0))
    task.loss(batch, step).total.backward()
    return {name: p.grad.clone() for name, p in task.module.named_parameters() if p.grad is not None}


def test_each_side_learns_from_its_own_loss_only(make_task):
    """The discriminator's gradient is that of its hinge loss; the tokenizer's is what the judge adds from its start."""
    without, waiting, judged = (
        make_task(**values) for values in ({"adversarial": 0.0}, {"adversarial_start": 5}, {"adversarial_start": 0})
    )
    waiting.discriminator.load_state_dict(judged.discriminator.state_dict())
    plain, early, late = gradients(without, 4), gradients(waiting, 4), gradients(judged, 4)
    for name, gradient in plain.items():
        # Other sums are in the same pass, so the last bit may differ.
        torch.testing.assert_close(early[name], gradient, rtol=1e-5, atol=1e-7)
    assert any((late[name] - gradient).abs().max() > 1e-4 for name, gradient in plain.items())
    judges = [name for name in early if name.startswith("discriminator.")]
    assert len(judges) == len(list(judged.discriminator.parameters()))
    for name in judges:
        assert torch.equal(early[name], late[name]), name
    assert (
        gradients(waiting, 5)["vqgan.decoder.conv_out.weight"] - plain["vqgan.decoder.conv_out.weight"]
    ).abs().max() > 1e-4


def test_the_reported_loss_is_the_tokenizers_and_the_total_has_both(make_task):
    task = make_task()
    batch = task.examples.prepare(task.examples.select(0), torch.Generator().manual_seed(0))
    terms = task.loss(batch, 0)
    values = {name: float(value) for name, (value, _) in terms.sums.items()}
    losses = task._losses
    named = ("l1", "l2", "gradient", "commitment", "frequency", "adversarial")
    expected = sum(getattr(losses, name) * values[name] for name in named)
    assert values["loss"] == pytest.approx(expected, rel=1e-5)
    assert float(terms.total.detach()) == pytest.approx(expected + values["discriminator"], rel=1e-5)
    assert {count for _, count in terms.sums.values()} == {4}


def test_a_step_in_bfloat16_searches_codes_in_float32(make_task):
    """The networks run in bfloat16; what their latents commit to is the nearest code, not the nearest when rounded."""
    task = make_task(adversarial=0.0)
    with torch.no_grad():
        task.vqgan.quant_conv.weight.mul_(30)  # latents far from zero, as trained ones: products lose their last bits
        task.vqgan.quant_conv.bias.add_(20)
    batch = task.examples.prepare(task.examples.select(0), torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        terms = task.loss(batch, 0)
        (z_ME,), codebook_KE = task.codebook._seen, task.vqgan.quantize.embedding.weight
        rounded_M = (codebook_KE.square().sum(dim=1) - 2 * z_ME @ codebook_KE.T).argmin(dim=1)
    square_MK = torch.cdist(z_ME.double(), codebook_KE.double()).square()
    nearest = square_MK.amin(dim=1).sum() / 64  # the mean over 4 x 16 latent numbers of a film, summed over films
    assert float(terms.sums["commitment"][0]) == pytest.approx(float(nearest), rel=1e-4)
    assert float(square_MK.gather(1, rounded_M[:, None]).sum() / 64) > 1.1 * float(nearest), "what rounding would do"


def test_the_discriminator_has_an_optimiser_group_of_its_own(make_task):
    task = make_task()
    optimizer = build_optimizer(task.module, OptimizerSettings(learning_rate=1e-3, weight_decay=0.1))
    group = optimizer.param_groups[-1]
    assert group["params"] == list(task.discriminator.parameters())
    assert (group["betas"], group["weight_decay"]) == ((0.5, 0.9), 0.0)
    members = [id(parameter) for one in optimizer.param_groups for parameter in one["params"]]
    trained = [id(parameter) for parameter in task.module.parameters() if parameter.requires_grad]
    assert sorted(members) == sorted(trained)


def test_resume_with_a_discriminator_is_bit_equal(make_task, tmp_path):
    def trainer(out, report=lambda record: None):
        task = make_task(adversarial_start=2)
        settings = task._settings
        out.mkdir(exist_ok=True)
        return Trainer(task, settings.train, settings.optimizer, to_dict(settings), out=out, report=report)

    class Killed(BaseException):
        pass

    def die(record):
        if record.get("step") == 5 and "loss" in record:
            raise Killed

    whole = trainer(tmp_path / "whole")
    whole.run(resume=False)
    with pytest.raises(Killed):
        trainer(tmp_path / "parts", die).run(resume=False)
    again = trainer(tmp_path / "parts")
    again.run(resume=True)
    expected = whole.task.module.state_dict()
    assert any(name.startswith("discriminator.") for name in expected)
    for name, tensor in again.task.module.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_the_discriminator_learns_to_tell_films_from_what_is_rebuilt(make_task):
    """Against a tokenizer that stands still, its hinge loss falls from 1 (it knows nothing) to less than a half."""
    task = make_task(crop_jitter=0.0, intensity_jitter=0.0)
    optimizer = torch.optim.AdamW(task.discriminator.parameters(), lr=3e-3, betas=(0.5, 0.9))
    batch = task.examples.prepare(task.examples.select(0), torch.Generator().manual_seed(0))
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        terms = task.loss(batch, 0)
        terms.total.backward()
        optimizer.step()
        values.append(float(terms.sums["discriminator"][0]) / 4)
    assert values[0] == pytest.approx(1.0, abs=0.3)
    assert values[-1] < 0.5


def test_validation_changes_nothing_and_training_never_sees_val(make_task, trained_model):
    task = make_task()
    task.loss(task.examples.prepare(task.examples.select(0), torch.Generator().manual_seed(0)), 0)
    task.after_step(torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in task.module.state_dict().items()}
    task.module.eval()
    with torch.inference_mode():
        first = task.validate(0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.module.state_dict().items())
    assert not task.codebook._seen
    assert {index for step in range(8) for index in task.examples.select(step)} == set(range(6))
    # Val films replaced by noise: the next training step must be the same, the validation must not.
    noise = torch.randint(256, task._val.picture(0).exact_CYX.shape, dtype=torch.uint8)
    expected = gradients(task, 1)
    task._val = Films([task._val.picture(0)._replace(exact_CYX=noise) for _ in range(len(task._val))], trained_model)
    again = gradients(task, 1)
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    with torch.inference_mode():
        assert task.validate(0)["val_psnr"] != first["val_psnr"]


def probe_rows(count: int, prefix: str) -> list[ManifestRow]:
    labels = [{"Bright": index % 2, "Chance": (index // 2) % 2, "Rare": int(index == 0)} for index in range(count)]
    rows = [
        {"id": f"{prefix}{index}", "file": f"{prefix}{index}.png", "patient": f"{prefix}{index}"}
        for index in range(count)
    ]
    return [ManifestRow(**row, labels=label) for row, label in zip(rows, labels, strict=True)]


@pytest.fixture
def labelled_films(trained_model):
    """Return a function that draws noise films, every second one with a brighter corner."""

    def make(seed: int, count: int) -> Films:
        from PIL import Image

        rng = np.random.default_rng(seed)
        pixels = rng.integers(60, 120, (count, 32, 32))
        pixels[1::2, :8, :8] += 40
        drawn = [Image.fromarray(picture.astype(np.uint8)) for picture in pixels]
        return Films([reduced(picture, trained_model) for picture in drawn], trained_model)

    return make


def test_the_probe_says_whether_a_label_survives_the_round_trip(labelled_films):
    train, val = labelled_films(0, 80), labelled_films(1, 40)
    probe = RoundTripProbe(train, val, probe_rows(80, "t"), probe_rows(40, "v"), limit=100, seed=0)
    assert probe.names == ["Bright", "Chance"]  # nobody can be measured on one rare film
    same = probe.measure(lambda pixels: pixels, 16)
    assert same["val_probe_auroc"] == same["val_probe_auroc_roundtrip"]
    assert same["val_probe_labels"] == 2

    def wipe(pixels: torch.Tensor) -> torch.Tensor:
        wiped = pixels.clone()
        wiped[..., :8, :8] = 0
        return wiped

    wiped = probe.measure(wipe, 16)
    assert wiped["val_probe_auroc"] == same["val_probe_auroc"]
    # Bright falls from 1 to chance, and the mean of the two labels by about a quarter.
    assert wiped["val_probe_auroc_roundtrip"] < same["val_probe_auroc"] - 0.15


def test_the_probe_leaves_out_patients_of_train_and_spreads_over_the_split(labelled_films):
    train, val = labelled_films(0, 80), labelled_films(1, 40)
    train_rows, val_rows = probe_rows(80, "t"), probe_rows(40, "v")
    shared = [dataclasses.replace(row, patient="t0") if index < 10 else row for index, row in enumerate(val_rows)]
    probe = RoundTripProbe(train, val, train_rows, shared, limit=20, seed=0)
    assert probe._val_indices == [10 + place * 30 // 20 for place in range(20)]
    assert probe._train_indices == list(range(0, 80, 4))


def test_without_labels_or_with_the_probe_off_nothing_is_measured(labelled_films, make_task):
    train, val = labelled_films(0, 80), labelled_films(1, 40)
    rows, val_rows = probe_rows(80, "t"), probe_rows(40, "v")
    bare = [dataclasses.replace(row, labels={}) for row in rows]
    for probe in (
        RoundTripProbe(train, val, rows, val_rows, limit=0, seed=0),
        RoundTripProbe(train, val, bare, val_rows, limit=100, seed=0),
    ):
        assert probe.measure(lambda pixels: pixels, 16) == {}


def test_the_last_validation_alone_runs_the_probe(make_task, labelled_films):
    task = make_task()
    train, val = labelled_films(0, 80), labelled_films(1, 40)
    task._probe = RoundTripProbe(train, val, probe_rows(80, "t"), probe_rows(40, "v"), limit=100, seed=0)
    task.module.eval()
    found = []
    for step in (3, 6):
        with torch.inference_mode():
            found.append(task.validate(step))
    assert "val_probe_auroc" not in found[0]
    assert 0 <= found[1]["val_probe_auroc_roundtrip"] <= 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frequency": -1.0}, r"reconstruction\.frequency"),
        ({"adversarial_start": -1}, r"reconstruction\.adversarial_start"),
        ({"discriminator_channels": 12}, "a multiple of 8"),
        ({"probe_films": -1}, r"reconstruction\.probe_films"),
    ],
)
def test_bad_settings_name_themselves(values, message):
    with pytest.raises(SettingsError, match=message):
        ReconstructionSettings(**values)


def test_pictures_only_leaves_every_code_as_it_was(draw_film, trained_model, tmp_path):
    settings = TokenizerTraining(
        model=trained_model,
        train=LoopSettings(steps=4, batch_size=4, micro_batch_size=4, precision="float32"),
        optimizer=OptimizerSettings(learning_rate=3e-3),
        reconstruction=ReconstructionSettings(pictures_only=True),
    )
    torch.manual_seed(0)
    vqgan = Vqgan(trained_model.vqgan)
    before = {name: value.clone() for name, value in vqgan.state_dict().items()}
    films = Films([reduced(draw_film(seed), trained_model) for seed in range(8)], trained_model)
    task = TokenizerTask(settings, vqgan, films, films, [str(index) for index in range(8)], is_trained=True)
    Trainer(task, settings.train, settings.optimizer, {}, out=tmp_path, report=lambda record: None).run(resume=False)
    changed = {name.split(".")[0] for name, value in vqgan.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"decoder", "post_quant_conv"}
