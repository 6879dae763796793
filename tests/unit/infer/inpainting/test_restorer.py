"""Films in, filled films out: that no hidden pixel gets through, and what the audit says."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.data.presets import ResolvedPreset
from chexmix_cli.core.errors import ShapeError
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.infer.inpainting.classical_fills import tension_blends
from chexmix_cli.core.infer.inpainting.code_filler import CodeFiller
from chexmix_cli.core.infer.inpainting.masked_film import BoxMask, mask_film
from chexmix_cli.core.infer.inpainting.restorer import Restorer, grey
from chexmix_cli.core.settings.inpainting import STRATEGIES, FillSettings, RegionSettings

BOX = BoxMask(9, 9, 6, 5)
PRESET = ResolvedPreset(intensity="voi", geometry="pad", resolution_px=32, channels=1)


@pytest.fixture
def restorer(vqgan, model_settings, vocabulary, decoder):
    filler = CodeFiller(decoder, vocabulary, vqgan.quantize.embedding.weight)
    return Restorer(ImageTokenizer(vqgan, model_settings), filler)


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:32, 0:32]
    return np.clip(110 + 90 * np.sin(x / 5 + y / 9) + rng.normal(0, 8, (32, 32)), 0, 255).astype(np.uint8)


def restored(restorer, pixels, region, fill, seed=0):
    masked = mask_film(Image.fromarray(pixels), BOX, PRESET, region, grid_size=4, seed=0, key="a")
    encoded = restorer.encode([masked], region)
    return encoded[0], restorer.fill(encoded, fill, seed=seed)[0]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("choice", ["best", "expected", "sample"])
def test_hidden_pixels_change_nothing_of_a_leak_free_result(restorer, pixels, strategy, choice):
    region, fill = RegionSettings(ring=0), FillSettings(strategy=strategy, choice=choice)
    changed = pixels.copy()
    changed[9:14, 9:15] = 255 - changed[9:14, 9:15]
    found = [restored(restorer, film, region, fill) for film in (pixels, changed)]
    assert np.array_equal(found[0][1].filled_YX, found[1][1].filled_YX)
    assert np.array_equal(found[0][1].codes_P, found[1][1].codes_P)
    assert np.array_equal(found[0][0].masked_YX, found[1][0].masked_YX)
    assert not np.array_equal(found[0][0].roundtrip_YX, found[1][0].roundtrip_YX)


def test_the_papers_protocol_does_leak_and_the_audit_says_so(restorer, pixels):
    """The negative control: the same change of hidden pixels shows in codes that stay visible."""
    region = RegionSettings(protocol="paper")
    changed = pixels.copy()
    changed[9:14, 9:15] = 255 - changed[9:14, 9:15]
    found = [restored(restorer, film, region, FillSettings()) for film in (pixels, changed)]
    assert not np.array_equal(found[0][1].filled_YX, found[1][1].filled_YX)
    encoded = found[0][0]
    audit, film = encoded.audit(), encoded.film
    assert audit["touched"] == audit["filled"] == film.is_touched_P.sum() == 1
    assert audit["ring"]["codes"] == 8
    assert audit["beyond"]["codes"] == 7
    is_same = encoded.codes_P == encoded.blanked_P
    assert audit["ring"]["agreement"] == is_same[film.is_ring_P].mean()
    assert audit["ring"]["agreement"] < 1


def test_hidden_codes_change_nothing_in_the_papers_protocol(restorer, pixels):
    from dataclasses import replace

    region, fill = RegionSettings(protocol="paper"), FillSettings(strategy="autoregressive")
    encoded, first = restored(restorer, pixels, region, fill)
    other = encoded.context_P.copy()
    other[encoded.film.is_touched_P] = 3
    second = restorer.fill([replace(encoded, context_P=other)], fill, seed=0)[0]
    assert np.array_equal(first.filled_YX, second.filled_YX)


def test_pasting_takes_hidden_pixels_only(restorer, pixels):
    encoded, result = restored(restorer, pixels, RegionSettings(), FillSettings())
    (pasted,) = encoded.join([result.filled_YX], "paste", detail=0.75)
    is_hidden = encoded.film.is_hidden_YX
    assert np.array_equal(pasted[is_hidden], result.filled_YX[is_hidden])
    assert np.array_equal(pasted[~is_hidden], pixels[~is_hidden])
    assert np.array_equal(encoded.original_YX, pixels)


def test_a_blend_joins_hidden_pixels_to_the_film_and_never_to_its_padding(restorer, pixels):
    film = pixels[:, 5:25]  # upright: the square is padded on both sides
    masked = mask_film(Image.fromarray(film), BOX, PRESET, RegionSettings(), grid_size=4, seed=0, key="a")
    (encoded,) = restorer.encode([masked], RegionSettings())
    assert encoded.length_px == 4.0  # 32 px, 4 codes a side
    rng = np.random.default_rng(2)
    drawn = [rng.integers(60, 190, (32, 32), dtype=np.uint8) for _ in range(2)]
    columns = slice(6, 26)
    assert masked.is_film_YX[:, columns].all()
    assert masked.is_film_YX.sum() == 32 * 20
    is_hidden = masked.is_hidden_YX[:, columns]
    for joined, one in zip(encoded.join(drawn, "blend", detail=0.5), drawn, strict=True):
        (expected,) = tension_blends(
            film.astype(float), [one[:, columns].astype(float)], is_hidden, detail=0.5, length_px=4.0
        )
        assert np.array_equal(joined[:, columns], np.rint(expected).astype(np.uint8))
        assert np.array_equal(joined[~masked.is_hidden_YX], encoded.original_YX[~masked.is_hidden_YX])
        elsewhere = np.where(masked.is_film_YX, one, 255)
        assert np.array_equal(encoded.join([elsewhere], "blend", detail=0.5)[0], joined)
        assert np.array_equal(encoded.join([one], "none", detail=0.5)[0], one)


def test_hidden_pixels_of_the_film_change_nothing_of_a_blend(restorer, pixels):
    changed = pixels.copy()
    changed[9:14, 9:15] = 255 - changed[9:14, 9:15]
    region, fill = RegionSettings(ring=0), FillSettings()
    blends = []
    for film in (pixels, changed):
        encoded, result = restored(restorer, film, region, fill)
        blends.append(encoded.join([result.filled_YX], "blend", detail=0.75)[0])
    is_hidden = encoded.film.is_hidden_YX
    assert np.array_equal(*blends)
    assert not np.array_equal(blends[0][is_hidden], result.filled_YX[is_hidden])


def test_several_samples_and_their_mean(restorer, pixels):
    fill = FillSettings(choice="sample", samples=3)
    _, result = restored(restorer, pixels, RegionSettings(), fill)
    assert len(result.samples) == 3
    assert not np.array_equal(result.samples[0], result.samples[1])
    assert np.array_equal(result.filled_YX, np.rint(np.mean(result.samples, axis=0)).astype(np.uint8))
    _, again = restored(restorer, pixels, RegionSettings(), fill)
    assert np.array_equal(result.filled_YX, again.filled_YX)
    _, other = restored(restorer, pixels, RegionSettings(), fill, seed=1)
    assert not np.array_equal(result.filled_YX, other.filled_YX)


def test_vectors_of_codes_draw_what_the_codes_draw(restorer, pixels):
    images = restorer.images
    codes = images.encode(pixels[None, None].astype(np.float32) / 127.5 - 1)
    vectors = restorer.filler.vectors(codes).unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    assert np.array_equal(images.decode_vectors(vectors), images.decode(codes))
    with pytest.raises(ShapeError, match=r"vectors \(1, 4, 4, 3\)"):
        images.decode_vectors(vectors[..., :3])


def test_nothing_in_nothing_out_and_colour_to_grey(restorer):
    assert restorer.encode([], RegionSettings()) == []
    assert restorer.fill([], FillSettings(), seed=0) == []
    level = np.full((2, 2, 3), 77, np.uint8)
    assert np.array_equal(grey(level), level[..., 0])
