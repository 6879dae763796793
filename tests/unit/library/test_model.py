"""The verbs of a model: what one film may come as, single and many forms agree, failures keep their place."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image

import chexmix_cli as chexmix
from chexmix_cli.core.settings.inference import DecodeSettings, InputSettings


@pytest.fixture(scope="module")
def model(debug_weights) -> chexmix.Model:
    return chexmix.load(debug_weights, device="cpu", batch_size=2)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(5)
    for number in range(3):
        patches = np.kron(rng.integers(0, 255, (12, 12)), np.ones((8, 8), int))
        pixels = patches[: 80 + number].astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"film-{number}.png")
    return sorted(folder.iterdir())


def test_a_film_is_the_same_whatever_it_comes_as(model, films):
    path = films[0]
    codes = model.tokenize(path).codes
    study = next(iter(chexmix.studies(path)))
    line = {"id": "row", "file": str(path)}
    record = {"id": "coded", "codes": codes}
    with Image.open(path) as picture:
        picture.load()
    for source in (str(path), study, line, record, picture, model.film(path)):
        assert model.tokenize(source).codes == codes, source
    assert model.film(line).id == "row"
    with pytest.raises(TypeError, match="int"):
        model.film(3)


def test_a_file_in_memory_is_the_same_film_and_is_not_kept(model, films):
    reader = model.reader(keeps_picture=True)
    path = films[0]
    job = pickle.loads(pickle.dumps(reader.bytes_job(path.read_bytes(), path.name)))
    film, read = job.prepare(), model.film(path)
    assert (film.id, film.fields) == (read.id, read.fields)
    np.testing.assert_array_equal(film.pixels, read.pixels)
    assert film.picture.tobytes() == read.picture.tobytes()
    assert path.read_bytes() not in pickle.dumps(film)
    with pytest.raises(chexmix.DataError, match="UNKNOWN_FORMAT|neither DICOM nor a picture"):
        reader.bytes_job(b"no film at all", "x").prepare()


def test_many_films_give_what_single_ones_do_and_failures_keep_their_place(model, films):
    seen = []
    sources = [films[0], films[0].with_name("missing.png"), films[1], films[2]]
    found = list(model.embed_many(sources, layer=1, progress=lambda done, total: seen.append((done, total))))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert isinstance(found[1], chexmix.Failure)
    assert found[1].code == "NOT_FOUND"
    for place in (0, 2, 3):
        np.testing.assert_allclose(found[place], model.embed(sources[place], layer=1), rtol=2e-5, atol=1e-5)


def test_a_film_is_read_once_for_all_verbs(debug_weights, films, monkeypatch):
    keeping = chexmix.load(debug_weights, device="cpu")
    plain = chexmix.Model(keeping.weights, keeping.device, InputSettings(prefix_memory_mb=0))
    settings, last = DecodeSettings(max_new_tokens=8, min_new_tokens=8), keeping.weights.settings.decoder.num_layers
    film, other = (keeping.film(path) for path in films[:2])
    encoded = []
    encode = keeping.images.encode
    monkeypatch.setattr(keeping.images, "encode", lambda pixels: encoded.append(len(pixels)) or encode(pixels))
    vector = keeping.embed(film, layer=last)
    reports = keeping.reporter(decode=settings)([film, other, film])
    length, stats = keeping.weights.settings.vocabulary.prompt_length, keeping.reports.engine.stats
    assert (stats.num_prompt_tokens, stats.num_reused_tokens, len(keeping.prefixes)) == (length, 2 * length, 2)
    assert encoded == [1, 1], "the film's codes are known"
    assert (len(keeping.known_codes), len(plain.known_codes)) == (2, 0)
    expected = [plain.reporter(decode=settings)([one])[0] for one in (film, other, film)]
    assert [one.report.token_ids for one in reports] == [one.report.token_ids for one in expected]
    np.testing.assert_array_equal(keeping.embed(film, layer=last), vector)
    np.testing.assert_allclose(vector, plain.embed(film, layer=last), rtol=2e-5, atol=1e-5)
    assert (len(plain.prefixes), plain.prefixes.held_bytes) == (0, 0)
    keeping.forget()
    assert (len(keeping.prefixes), len(keeping.known_codes)) == (0, 0)
    assert keeping.tokenize(film).codes == keeping.tokenize(film).codes
    assert encoded == [1, 1, 1]


def test_a_path_to_several_studies_says_so(model, films):
    with pytest.raises(chexmix.DataError, match="several studies") as caught:
        model.film(films[0].parent)
    assert "chexmix.studies" in caught.value.hint


def test_a_picture_that_is_no_8_bit_film_is_refused(model):
    with pytest.raises(chexmix.DataError, match="mode I;16"):
        model.tokenize(Image.new("I;16", (64, 64)))


def test_a_report_has_the_fields_of_a_record(model, films):
    result = model.reporter(decode=DecodeSettings(max_new_tokens=12))([model.film(films[0])])[0]
    record = json.loads(json.dumps(result.fields()))
    assert record["report"] == result.text
    assert record["token_ids"] == result.report.token_ids
    assert "unverified" in record["mark"]


def test_settings_and_seeds_may_change_from_call_to_call(model, films):
    film, decode = model.film(films[0]), DecodeSettings(max_new_tokens=12, temperature=1.0)
    one, other = model.reporter().under(decode)([film, film], seeds=[3, 4])
    for result, seed in ((one, 3), (other, 4)):
        alone = model.reporter(decode=decode, seed=seed)([film])[0]
        assert alone.report.token_ids == result.report.token_ids
    assert one.report.token_ids != other.report.token_ids


def test_an_inpainted_box_changes_nothing_else(model, films):
    film = model.film(films[0])
    filled = model.inpaint(film, box=(10, 10, 16, 12))
    hidden = filled.encoded.film.is_hidden_YX
    assert 0 < hidden.sum() < hidden.size
    assert filled.picture_YX[~hidden].tolist() == filled.encoded.original_YX[~hidden].tolist()
    with pytest.raises(chexmix.SettingsError, match="box, block or mask_ratio"):
        model.inpaint(film)


def test_reports_are_evaluated_from_texts_records_and_files(tmp_path):
    predictions = {"a": "No pleural effusion.", "b": "Small pleural effusion.", "extra": "Normal."}
    references = [{"id": "a", "report": "No effusion."}, {"id": "b", "report": "Pleural effusion."}]
    found = chexmix.evaluate.report(predictions, references)
    assert [one["id"] for one in found.failed] == ["extra"]
    file = tmp_path / "predictions.jsonl"
    file.write_text("".join(json.dumps({"id": name, "report": text}) + "\n" for name, text in predictions.items()))
    again = chexmix.evaluate.report(file, references)
    assert [one.to_dict() for one in again.measurements] == [one.to_dict() for one in found.measurements]
    differences = chexmix.evaluate.diff(found, again)
    assert {one["difference"] for one in differences} <= {0.0, None}
