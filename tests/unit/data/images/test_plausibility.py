from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.images.plausibility import neighbour_correlation, pose_notes, require_film
from chexmix_cli.core.data.rendering.pose import estimate_pose, rank_grid
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

Y, X = np.mgrid[0:96, 0:96]
SMOOTH = (X + Y).astype(np.uint8)


@pytest.fixture(scope="module")
def film(small_film) -> np.ndarray:
    """Return a real film in 8 bits, bone bright (it is stored as MONOCHROME1)."""
    return (255 - (small_film >> 7)).astype(np.uint8)


@pytest.mark.parametrize(
    ("picture", "notes"),
    [
        (SMOOTH, []),
        (SMOOTH // 4 * 4, ["hardly any grey levels: 48"]),
        (np.where(X < 70, X // 12, SMOOTH), ["73% of the picture is black"]),
        (np.where(X < 70, 255 - X // 12, SMOOTH), ["73% of the picture is white"]),
    ],
)
def test_a_doubtful_picture_is_noted(picture, notes):
    assert require_film(Image.fromarray(picture.astype(np.uint8))) == notes


def test_noise_is_refused_and_what_is_close_to_it_noted():
    noise = np.random.default_rng(3).integers(0, 256, (96, 96))
    with pytest.raises(DataError, match="the picture is noise") as caught:
        require_film(Image.fromarray(noise.astype(np.uint8)))
    assert caught.value.reason is Reason.CORRUPT
    mixed = 0.7 * SMOOTH + 0.25 * noise
    (note,) = require_film(Image.fromarray(mixed.astype(np.uint8)))
    assert note.startswith("close to noise: neighbouring pixels correlate by 0.")


def test_stripes_are_noise_in_one_direction_only():
    assert neighbour_correlation(np.tile(X[0] % 2 * 255, (96, 1)).astype(np.uint8)) < 0
    assert neighbour_correlation(np.tile(X[0], (96, 1)).astype(np.uint8)) == pytest.approx(1)


@pytest.mark.parametrize("is_negative", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_every_pose_of_a_real_film_is_known(film, turns, is_negative):
    shown = np.rot90(255 - film if is_negative else film, turns)
    pose = estimate_pose(shown)
    assert (pose.quarter_turns, pose.is_negative) == (turns, is_negative)
    assert pose.is_sure
    rotated = {1: "90 degrees counter-clockwise", 2: "180 degrees", 3: "90 degrees clockwise"}
    expected = [f"likely rotated by {rotated[turns]}"] if turns else []
    expected += ["likely a negative: dense tissue is dark"] if is_negative else []
    assert pose_notes(Image.fromarray(shown)) == expected


def test_window_gamma_size_and_mirror_make_no_difference(film):
    bright = (255 * (film / 255) ** 0.5).astype(np.uint8)
    wide = np.asarray(Image.fromarray(film).resize((900, 500)))
    for shown in (bright, film // 2 + 60, wide, film[:, ::-1]):
        assert estimate_pose(shown)[:2] == (0, False)
        assert estimate_pose(shown).is_sure


def test_ranks_share_their_mean_and_turn_round_with_the_film(film):
    flat = rank_grid(np.zeros((100, 80), np.uint8))
    assert (flat == 0).all()
    assert np.allclose(rank_grid(255 - film), -rank_grid(film), atol=0.02)


def notes_but_text(path) -> list[str]:
    """Return the notes on a film, but for that on text: some of these do have some (test_burned_text.py)."""
    return [note for note in load_image(Source(path), "voi", InputSettings()).notes if "letters in a line" not in note]


def test_real_films_upright_and_really_turned(shared):
    folder = shared / "data" / "nih_rotation"
    wrong = []
    for row in map(json.loads, (folder / "index.jsonl").read_text().strip().split("\n")):
        notes = notes_but_text(folder / row["file"])
        expected = ["likely rotated by 90 degrees counter-clockwise"] if row["rotated_90_ccw"] else []
        wrong += [] if notes == expected else [row["file"]]
    assert wrong == []


def test_few_false_alarms_on_real_films(shared):
    folder = shared / "data" / "radiographs"
    rows = [json.loads(line) for line in (folder / "index.jsonl").read_text().strip().split("\n")]
    rows = [row for row in rows if row["split"] == "val"][::4]
    noted = [row["file"] for row in rows if notes_but_text(folder / row["file"])]
    assert len(noted) <= 0.01 * len(rows), noted


def test_a_lateral_film_has_no_upright_pose_to_be_held_against(dataset_of, file_bytes, film, tmp_path):
    for view, expected in (("LL", []), ("PA", ["likely rotated by 180 degrees"])):
        path = tmp_path / "film.dcm"
        path.write_bytes(file_bytes(dataset_of(np.ascontiguousarray(film[::-1, ::-1]), ViewPosition=view)))
        assert load_image(Source(path), "voi", InputSettings()).notes == expected
