"""What is hidden of a film: boxes, masks, patterns; that nothing of it is left; errors."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.data.images.geometry import fit, fit_mask, unfit
from chexmix_cli.core.data.presets import ResolvedPreset
from chexmix_cli.core.errors import DataError, SettingsError
from chexmix_cli.core.infer.inpainting.masked_film import (
    BoxMask,
    PatternMask,
    PictureMask,
    mask_film,
    parse_box,
    read_mask,
)
from chexmix_cli.core.settings.inpainting import RegionSettings
from chexmix_cli.core.settings.model import ImageSettings

GRID, SIDE = 8, 64


def preset(geometry="pad", channels=1):
    return ResolvedPreset(intensity="voi", geometry=geometry, resolution_px=SIDE, channels=channels)


def film(seed=0, size=(100, 70), mode="L"):
    rng = np.random.default_rng(seed)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


def hide(picture, mask, settings=None, *, geometry="pad", channels=1, key="a"):
    return mask_film(
        picture, mask, preset(geometry, channels), settings or RegionSettings(), grid_size=GRID, seed=0, key=key
    )


@pytest.mark.parametrize("blank", ["mean", "harmonic"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("geometry", ["pad", "crop"])
def test_the_blanked_film_does_not_know_what_is_hidden(blank, mode, geometry):
    picture, box = film(mode=mode), BoxMask(40, 20, 25, 30)
    changed = np.asarray(picture).copy()
    changed[20:50, 40:65] = 255 - changed[20:50, 40:65]
    settings, channels = RegionSettings(blank=blank), 3 if mode == "RGB" else 1
    first = hide(picture, box, settings, geometry=geometry, channels=channels)
    second = hide(Image.fromarray(changed), box, settings, geometry=geometry, channels=channels)
    assert np.array_equal(first.blanked_CYX, second.blanked_CYX)
    assert not np.array_equal(first.original_CYX, second.original_CYX)
    # Nor does what is pasted around it, although scaling mixes neighbours.
    is_visible = ~first.is_hidden_YX
    assert np.array_equal(first.original_CYX[:, is_visible], second.original_CYX[:, is_visible])
    # And what is visible does show.
    changed[0:3, 50] = 255 - changed[0:3, 50]
    third = hide(Image.fromarray(changed), box, settings, geometry=geometry, channels=channels)
    assert not np.array_equal(first.blanked_CYX, third.blanked_CYX)


@pytest.mark.parametrize("blank", ["mean", "harmonic"])
def test_the_same_for_codes_hidden_by_a_pattern(blank):
    picture, settings = film(size=(SIDE, SIDE)), RegionSettings(blank=blank)
    first = hide(picture, PatternMask("random", 0.5), settings)
    changed = np.where(first.is_hidden_YX, 255 - np.asarray(picture), np.asarray(picture)).astype(np.uint8)
    second = hide(Image.fromarray(changed), PatternMask("random", 0.5), settings)
    assert np.array_equal(first.blanked_CYX, second.blanked_CYX)
    assert np.array_equal(first.blanked_CYX[0][~first.is_hidden_YX], first.original_CYX[0][~first.is_hidden_YX])
    assert first.is_touched_P.sum() == GRID**2 // 2
    assert first.is_hidden_YX.sum() == SIDE**2 // 2


def test_masks_are_nested_and_their_own_for_each_film():
    picture = film(size=(SIDE, SIDE))
    for pattern in ("random", "block", "border"):
        found = [hide(picture, PatternMask(pattern, ratio)).is_touched_P for ratio in (0.2, 0.5, 0.8)]
        assert not (found[0] & ~found[1]).any()
        assert not (found[1] & ~found[2]).any()
    assert not np.array_equal(
        hide(picture, PatternMask("random", 0.2)).is_touched_P,
        hide(picture, PatternMask("random", 0.2), key="b").is_touched_P,
    )


def test_a_ring_is_filled_around_what_is_touched_but_not_by_the_papers_protocol():
    picture, box = film(size=(SIDE, SIDE)), BoxMask(25, 17, 6, 6)
    found = hide(picture, box)
    assert np.flatnonzero(found.is_touched_P).tolist() == [2 * GRID + 3]
    rows, columns = np.divmod(np.flatnonzero(found.is_filled_P), GRID)
    assert (set(rows), set(columns), len(rows)) == ({1, 2, 3}, {2, 3, 4}, 9)
    assert np.array_equal(found.is_ring_P, found.is_filled_P & ~found.is_touched_P)
    paper = hide(picture, box, RegionSettings(protocol="paper"))
    assert np.array_equal(paper.is_filled_P, paper.is_touched_P)
    wide = hide(picture, box, RegionSettings(ring=2))
    assert wide.is_filled_P.sum() == 25
    assert hide(picture, box, RegionSettings(ring=0)).is_filled_P.sum() == 1


def test_a_box_is_in_the_films_own_pixels():
    found = hide(film(size=(SIDE, SIDE)), BoxMask(33, 15, 1, 2))
    assert np.argwhere(found.is_hidden_YX).tolist() == [[15, 33], [16, 33]]
    # At half the scale, with the three pixels to each side that scaling mixes in, and one to be sure.
    found = hide(film(size=(2 * SIDE, 2 * SIDE)), BoxMask(33, 65, 1, 2))
    rows, columns = np.nonzero(found.is_hidden_YX)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (29, 36, 13, 19)
    assert found.is_hidden_film[65:67, 33].all()
    assert found.is_hidden_film.sum() == 2


@pytest.mark.parametrize("geometry", ["pad", "crop"])
def test_masks_follow_the_film_into_the_square_and_back(geometry):
    settings = ImageSettings(resolution_px=SIDE, intensity="voi", geometry=geometry)
    marked = np.zeros((70, 100), bool)
    marked[30:50, 40:60] = True
    square = fit_mask(marked, settings)
    grey = fit(Image.fromarray(np.where(marked, 255, 0).astype(np.uint8)), settings, 1)[0]
    assert square[grey > 0.5].all()
    back, corner = unfit(Image.fromarray(np.where(square, 255, 0).astype(np.uint8)), (100, 70), settings)
    whole = Image.new("L", (100, 70))
    whole.paste(back, corner)
    is_back = np.asarray(whole) > 128
    assert (is_back & marked).sum() / (is_back | marked).sum() > 0.75


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1,2,0,4", "1,2,3,0", "-1,2,3,4", "1.5,2,3,4"])
def test_boxes_that_are_none(text):
    with pytest.raises(SettingsError, match=r"--box.*x,y,w,h"):
        parse_box(text)
    assert parse_box(" 1, 2,3,4 ") == BoxMask(1, 2, 3, 4)


def test_boxes_and_masks_that_do_not_fit_the_film():
    with pytest.raises(DataError, match=r"leaves the film.*inside 100 x 70"):
        hide(film(), BoxMask(90, 10, 20, 5))
    with pytest.raises(DataError, match="hides all"):
        hide(film(), BoxMask(0, 0, 100, 70))
    with pytest.raises(DataError, match="hides nothing"):
        hide(film(), BoxMask(0, 0, 3, 70), geometry="crop")
    with pytest.raises(DataError, match=r"the mask has 5 x 4 px.*100 x 70"):
        hide(film(), PictureMask(np.ones((4, 5), bool)))


def test_mask_pictures(tmp_path):
    path = tmp_path / "mask.png"
    for mode in ("L", "1", "RGB", "I;16", "P"):
        values = np.zeros((6, 8), np.uint16 if mode == "I;16" else np.uint8)
        values[2:4, 3:5] = 255
        image = Image.fromarray(values)
        (image if mode == "I;16" else image.convert(mode)).save(path)
        assert read_mask(path).is_hidden_YX.sum() == 4, mode
    Image.new("L", (5, 5)).save(path)
    with pytest.raises(SettingsError, match="hides nothing"):
        read_mask(path)
    Image.new("L", (5, 5), 255).save(path)
    with pytest.raises(SettingsError, match="hides everything"):
        read_mask(path)
    path.write_bytes(b"no picture")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_mask(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_mask(tmp_path / "none.png")
