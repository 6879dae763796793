"""Letters in a line are text, one letter or two are a side marker; what is seen is noted, or refused on request."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from chexmix_cli.core.data.images.burned_text import FEWEST, longest_line
from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.data.studies.inputs import Refusal, Study, study_of_file
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

REFUSING = InputSettings(burned_in_text="refuse")


@pytest.fixture(scope="module")
def film(small_film) -> Image.Image:
    """Return a real film in 8 bits, bone bright, of 512 px."""
    return Image.fromarray((255 - (small_film >> 7)).astype(np.uint8)).resize((512, 512))


def written(film: Image.Image, text: str, place: tuple[int, int], height: int, grey: int) -> Image.Image:
    image = film.copy()
    ImageDraw.Draw(image).text(place, text, fill=grey, font=ImageFont.load_default(height))
    return image


@pytest.mark.parametrize("height", [10, 14, 20, 28])
@pytest.mark.parametrize(("grey", "place"), [(255, (10, 8)), (0, (160, 300))])
def test_a_line_of_text_is_seen(film, height, grey, place):
    assert longest_line(np.asarray(film)) < FEWEST
    shown = written(film, "DOE^JANE 1959-07-23", place, height, grey)
    assert longest_line(np.asarray(shown)) >= FEWEST
    large = shown.resize((2048, 2048), Image.Resampling.BICUBIC)
    assert longest_line(np.asarray(large)) >= FEWEST


@pytest.mark.parametrize("marker", ["L", "R", "AP", "PA"])
def test_a_side_marker_is_none(film, marker):
    image = written(written(film, marker, (12, 10), 40, 255), "JFC", (14, 60), 16, 255)
    assert longest_line(np.asarray(image)) < FEWEST


def test_flat_small_and_empty_pictures_have_none():
    for shape in ((64, 64), (1, 1), (3, 2000)):
        assert longest_line(np.zeros(shape, np.uint8)) < FEWEST


def test_text_is_noted_and_refused_on_request(film, tmp_path):
    path = tmp_path / "film.png"
    film.save(path)
    assert load_image(Source(path), "voi", REFUSING).notes == load_image(Source(path), "voi", InputSettings()).notes
    written(film, "DOE^JANE 1959", (10, 8), 20, 255).save(path)
    (note,) = (note for note in load_image(Source(path), "voi", InputSettings()).notes if "letters" in note)
    assert note.endswith("letters in a line: text may be burned into the pixels")
    assert "DOE" not in note
    with pytest.raises(DataError, match="text may be burned into the pixels; expected no text") as caught:
        load_image(Source(path), "voi", REFUSING)
    assert caught.value.reason is Reason.BURNED_IN_TEXT


def test_a_header_that_states_text_is_refused_on_request(film, dataset_of, file_bytes, tmp_path):
    path = tmp_path / "film.dcm"
    path.write_bytes(file_bytes(dataset_of(np.asarray(film), ViewPosition="PA", BurnedInAnnotation="YES")))
    assert isinstance(study_of_file(path, InputSettings(), "a"), Study)
    refused = study_of_file(path, REFUSING, "a")
    assert isinstance(refused, Refusal)
    assert refused.error.reason is Reason.BURNED_IN_TEXT


def test_no_false_alarm_on_films_with_side_markers_and_wires(shared):
    folder = shared / "data" / "radiographs"
    rows = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "val" and row["dataset"] == "hannover"]
    assert rows
    called = [
        row["file"] for row in rows if longest_line(np.asarray(Image.open(folder / row["file"]).convert("L"))) >= FEWEST
    ]
    assert called == []
