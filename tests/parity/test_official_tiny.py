"""The reference outputs of ``shared/reference/official-tiny``, made by the authors' image pipeline, taming-transformers
and transformers from weights in the released layout. Nothing of ours is under the pictures here but what makes the
codes: file to pixels, pixels to latents to codes, codes to picture, codes to logits, embeddings and reports.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from chexmix_cli.core.data.images.geometry import fit
from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.infer.embeddings import image_embeddings
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.infer.reports.writer import ReportWriter
from chexmix_cli.core.infer.scoring import token_logprobs
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.inference import DecodeSettings, InputSettings
from chexmix_cli.core.weights import WeightsDir, open_weights

NAMES = ("a_16bit_700x560.png", "b_8bit_480x640.png", "c_rgb_600x600.png", "d_grey_512x512.jpg")
RELEASED = DecodeSettings(vocabulary="all", max_new_tokens=64, min_new_tokens=5)


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "reference" / "official-tiny"


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "expected.json").read_text())


@pytest.fixture(scope="module")
def weights(folder: Path) -> WeightsDir:
    return open_weights(folder)


@pytest.fixture(scope="module")
def image_tokenizer(weights: WeightsDir) -> ImageTokenizer:
    return ImageTokenizer(weights.load_vqgan("cpu", torch.float32), weights.settings, batch_size=2)


@pytest.fixture(scope="module")
def decoder(weights: WeightsDir) -> Decoder:
    return weights.load_decoder("cpu", torch.float32)


@pytest.fixture(scope="module")
def pixels(folder: Path, weights: WeightsDir) -> torch.Tensor:
    """Return the four inputs as the released pipeline prepares them, (4, 3, 512, 512)."""
    image = weights.settings.image
    preset = resolve_preset("official", image, 3)
    films = [load_image(Source(folder / name), preset.intensity, InputSettings()).image for name in NAMES]
    return torch.tensor(np.stack([fit(film, preset.image, 3) for film in films]))


@torch.inference_mode()
def test_latents_are_those_of_taming_transformers(folder, image_tokenizer, pixels):
    reference = np.load(folder / "vqgan_latents.npz")[NAMES[0]]
    latents = image_tokenizer.vqgan.latents(pixels[:1]).flatten(2)[0].T
    assert np.abs(latents.numpy() - reference).max() < 1e-4


def test_every_code_is_the_reference_code(image_tokenizer, pixels, expected):
    codes = image_tokenizer.encode(pixels)
    for name, found in zip(NAMES, codes.tolist(), strict=True):
        assert found == expected["tokens"][name], name


def test_pictures_are_within_one_grey_level(folder, image_tokenizer, expected):
    pictures = image_tokenizer.decode([expected["tokens"][name] for name in NAMES])
    for name, found in zip(NAMES, pictures, strict=True):
        reference = np.asarray(Image.open(folder / f"recon_{Path(name).stem}.png")).astype(int)
        off_by = np.abs(found - reference)
        assert off_by.max() <= 1, name
        assert (off_by > 0).mean() < 0.05, f"{name}: rounded another way than the reference"


@torch.inference_mode()
def test_logits_are_those_of_phi(folder, decoder):
    reference = np.load(folder / "logits.npz")
    token_ids = torch.tensor(reference["input_ids"])
    logits = decoder.logits(decoder(token_ids))[0, torch.tensor(reference["rows"])]
    assert np.abs(logits.numpy() - reference["logits"]).max() < 1e-4


@torch.inference_mode()
def test_exact_rotary_frequencies_miss_the_reference_logits(folder, decoder):
    """The reference's frequencies are rounded to bfloat16; with exact ones the far positions differ."""
    assert decoder.settings.rope_dtype == "bfloat16"
    exact = Decoder(dataclasses.replace(decoder.settings, rope_dtype="float32")).eval()
    exact.load_state_dict(decoder.state_dict())
    reference = np.load(folder / "logits.npz")
    state = exact(torch.tensor(reference["input_ids"]))
    off_by = np.abs(exact.logits(state)[0, torch.tensor(reference["rows"])].numpy() - reference["logits"]).max(axis=1)
    assert off_by[0] < 1e-5, "nothing is rotated at position 0"
    assert off_by[-1] > 1e-4


def test_embeddings_of_every_layer_are_the_reference(decoder, weights, expected):
    found = image_embeddings(decoder, weights.settings.vocabulary, [expected["tokens"][name] for name in NAMES])
    reference = torch.tensor([expected["embeddings"][name] for name in NAMES])
    assert found.shape == reference.shape
    assert (found - reference).abs().max() < 1e-4


def test_log_probabilities_sum_up_to_the_reference(folder, decoder, weights, expected):
    token_ids = np.load(folder / "logits.npz")["input_ids"].tolist()
    logprobs = token_logprobs(decoder, token_ids, pad=weights.settings.vocabulary.pad)[0]
    assert len(logprobs) == len(token_ids[0]) - 1
    assert float(logprobs.double().sum()) == pytest.approx(expected["token_logprob_sum"], abs=0.01)


@pytest.mark.parametrize("batch", [NAMES, NAMES[:1], NAMES[2:]], ids=len)
def test_generated_ids_are_the_reference(decoder, weights, expected, batch):
    writer = ReportWriter(decoder, weights.settings.vocabulary, weights.load_text_tokenizer())
    reports = writer.write([expected["tokens"][name] for name in batch], RELEASED)
    assert [report.token_ids for report in reports] == [expected["generated"][name] for name in batch]


def test_unequal_prompts_in_one_batch_give_the_reference_too(decoder, weights, expected):
    vocabulary = weights.settings.vocabulary
    prompts = [vocabulary.report_prompt(expected["tokens"][name]) for name in NAMES]
    short = [[vocabulary.begin_text], prompts[0][:700]]
    found = report_engine(decoder, vocabulary).generate([short[0], *prompts, short[1]], RELEASED)
    assert [generation.token_ids for generation in found[1:-1]] == [expected["generated"][name] for name in NAMES]


def test_text_decoding_keeps_to_text_ids(decoder, weights, expected):
    vocabulary = weights.settings.vocabulary
    writer = ReportWriter(decoder, vocabulary, None)
    settings = dataclasses.replace(RELEASED, vocabulary="text")
    for report in writer.write([expected["tokens"][name] for name in NAMES], settings):
        assert max(report.token_ids) <= vocabulary.begin_image
    reference = [max(expected["generated"][name]) for name in NAMES]
    assert max(reference) >= vocabulary.image_start, "the reference shows no image id to leave out"
