"""``chexmix inpaint``: records, pictures, masks, errors."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.evals.metrics.images import psnr_db


def opened(path) -> Image.Image:
    """Return a picture that holds no file open."""
    return Image.open(io.BytesIO(Path(path).read_bytes()))


@pytest.fixture
def fill(call, debug_weights):
    """Return a function that runs the command with the tiny model."""
    return lambda *arguments, **options: call("inpaint", *arguments, "--weights", debug_weights, **options)


@pytest.fixture
def side(debug_weights):
    from chexmix_cli.core.weights import open_weights

    return open_weights(debug_weights).settings.image.resolution_px


def test_a_record_and_its_pictures(fill, films, tmp_path, side):
    out = tmp_path / "new" / "out.png"
    done = fill(films / "a.png", "--mask-ratio", 0.3, "-o", out)
    assert done.code == 0, done.stderr
    (record,) = done.records
    assert record["id"] == "a.png"
    assert set(record["psnr"]) == {"masked", "whole"}
    assert set(record["psnr"]["masked"]) == set(record["ssim"]["whole"]) == {"original", "roundtrip"}
    assert set(record["ceiling"]["psnr"]) == {"masked", "whole"}
    assert record["mask"] | {"share": 0} == {
        "kind": "ratio", "pattern": "random", "ratio": 0.3, "seed": 0, "share": 0, "ring": 1, "blank": "mean",
    }  # fmt: skip
    assert (record["joined"], record["protocol"], record["strategy"]) == ("blend", "leak-free", "single")
    assert record["audit"]["ring"]["codes"] > 0
    assert "leak audit: " in done.stderr
    # The numbers are those of the very file: the original, fitted, against the rows above the mark.
    picture = np.asarray(opened(out))
    assert picture.shape[1] == side < picture.shape[0]
    original = np.asarray(opened(films / "a.png").resize((side, side), Image.Resampling.LANCZOS))
    assert record["psnr"]["whole"]["original"] == pytest.approx(psnr_db(picture[:side], original))
    assert opened(out).text["DigitalSourceType"]
    assert record["panels"] == str(out.with_name("out-panels.png"))
    assert opened(record["panels"]).size[0] > 1000
    assert sorted(path.name for path in out.parent.iterdir()) == ["out-panels.png", "out.png"]


def test_hidden_pixels_of_the_file_change_nothing_of_the_result(fill, tmp_path, side):
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (side // 2, side // 2), dtype=np.uint8), np.ones((4, 4), np.uint8))
    written = []
    for number in range(2):
        Image.fromarray(pixels).save(tmp_path / "film.png")
        out = tmp_path / f"{number}.png"
        assert fill(tmp_path / "film.png", "--box", "3,4,9,8", "-o", out).code == 0
        written.append(np.asarray(opened(out)))
        pixels[4:12, 3:12] = 255 - pixels[4:12, 3:12]
    assert np.array_equal(*written)


def test_many_films_go_into_a_folder_and_one_that_does_not_fit_stops_nothing(fill, films, tmp_path):
    blocks = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(np.kron(blocks, np.ones((4, 4), np.uint8))).save(films / "b.png")
    done = fill(films, "--box", "50,50,20,20", "-o", tmp_path / "out", "--set", "picture.panels=false")
    assert done.code == 3
    assert [record["status"] for record in done.records] == ["ok", "error", "ok"]
    assert done.records[1]["error"]["code"] == "BAD_RECORD"
    assert "leaves the film" in done.records[1]["error"]["message"]
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert done.records[0]["picture"] != done.records[2]["picture"]


def test_seeds_samples_and_strategies(fill, films, tmp_path):
    def run(*arguments):
        (record,) = fill(films / "a.png", "--block", 0.3, *arguments).records
        return record["psnr"]["masked"]["original"]

    assert run("--seed", 1) == run("--seed", 1) != run("--seed", 2)
    assert run("--strategy", "iterative") != run("--strategy", "autoregressive")
    done = fill(films / "a.png", "--block", 0.3, "--samples", 2, "-o", tmp_path / "o.png")
    (record,) = done.records
    assert record["choice"] == "sample"
    assert len(record["samples"]) == 2
    assert opened(record["samples"][1]["picture"]).text["DigitalSourceType"]


def test_a_mask_picture_and_the_papers_protocol(fill, films, tmp_path):
    mask = np.zeros((96, 96), np.uint8)
    mask[30:60, 30:70] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (free,) = fill(films / "a.png", "--mask", tmp_path / "mask.png").records
    (paper,) = fill(films / "a.png", "--mask", tmp_path / "mask.png", "--paper-protocol").records
    assert (free["protocol"], paper["protocol"]) == ("leak-free", "paper")
    assert "ring" not in paper["mask"]
    assert paper["audit"]["filled"] == paper["audit"]["touched"] < free["audit"]["filled"]
    assert "picture" not in free


def test_the_ways_to_join_a_fill_to_the_film(fill, films):
    def run(*assignments):
        sets = [word for one in assignments for word in ("--set", one)]
        (record,) = fill(films / "a.png", "--box", "30,30,40,30", *sets).records
        return record

    whole, paste, blend = (run(f"picture.join={join}") for join in ("none", "paste", "blend"))
    assert [one["joined"] for one in (whole, paste, blend)] == ["none", "paste", "blend"]
    assert whole["psnr"]["masked"] == paste["psnr"]["masked"] != blend["psnr"]["masked"]
    assert whole["psnr"]["whole"] != paste["psnr"]["whole"]
    assert run("picture.detail=0")["psnr"] != blend["psnr"] == run()["psnr"]


def test_a_derived_dicom_image(fill, make_dicom, tmp_path, planted):
    import pydicom

    source = make_dicom(tmp_path / "film.dcm")
    out = tmp_path / "out.dcm"
    done = fill(source, "--box", "20,30,25,25", "-o", out, "-v")
    assert done.code == 0, done.stderr
    given, found = pydicom.dcmread(source), pydicom.dcmread(out)
    kept = np.ones((96, 96), bool)
    kept[30:55, 20:45] = False
    assert np.array_equal(found.pixel_array[:96][kept], given.pixel_array[kept])
    assert not np.array_equal(found.pixel_array[:96], given.pixel_array)
    assert (found.PatientName, found.SyntheticData) == (given.PatientName, "YES")
    assert "not for clinical use" in found.DerivationDescription
    # The file is the patient's; what is said about it is not.
    for secret in planted:
        assert secret not in done.stdout + done.stderr
    in_folder = fill(source, "--block", 0.2, "-o", tmp_path / "many", "--set", "picture.format=dicom")
    assert in_folder.records[0]["picture"].endswith(".dcm")
    assert pydicom.dcmread(in_folder.records[0]["picture"]).ImageType[0] == "DERIVED"


def test_a_picture_gives_no_dicom_image_and_codes_no_film(fill, call, films, tmp_path, debug_weights):
    done = fill(films / "a.png", "--block", 0.2, "-o", tmp_path / "out.dcm")
    assert done.code == 1
    assert "no DICOM image can be derived" in done.records[0]["error"]["message"]
    codes = call("tokenize", films / "a.png", "--weights", debug_weights).stdout
    done = fill("-", "--block", 0.2, stdin=codes)
    assert "codes without a film" in done.records[0]["error"]["message"]
    line = json.dumps({"id": "mine", "file": str(films / "a.png")})
    assert fill("-", "--block", 0.2, stdin=line).records[0]["id"] == "mine"


def test_the_input_is_never_replaced(fill, films):
    before = (films / "a.png").read_bytes()
    done = fill(films / "a.png", "--block", 0.2, "-o", films / "a.png")
    assert done.code == 2
    assert "is the input itself" in done.stderr
    assert (films / "a.png").read_bytes() == before


def test_a_result_is_whole_or_not_there(fill, films, tmp_path, monkeypatch):
    out = tmp_path / "out.png"
    out.write_bytes(b"before")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    done = fill(films / "a.png", "--block", 0.2, "-o", out)
    assert done.code == 4
    assert out.read_bytes() == b"before"
    assert list(tmp_path.glob(".*partial")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing says what is hidden"),
        (["--block", "0.2", "--box", "1,2,3,4"], "--block and --box"),
        (["--mask-ratio", "1.5"], "above 0 and below 1"),
        (["--block", "0"], "above 0 and below 1"),
        (["--box", "1,2,3"], "x,y,w,h"),
        (["--mask", "none.png"], "--mask: cannot be read"),
        (["--block", "0.2", "--strategy", "guess"], "single, autoregressive, iterative"),
        (["--block", "0.2", "--set", "fill.samples=2"], "fill.samples"),
        (["--block", "0.2", "--set", "picture.join=glue"], "blend, paste, none"),
        (["--block", "0.2", "--set", "picture.detail=2"], "picture.detail"),
    ],
)
def test_wrong_usage_exits_2(fill, films, arguments, message):
    done = fill(films / "a.png", *arguments)
    assert done.code == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_grey_scales_that_hang_on_hidden_pixels_are_noted(fill, films):
    (fixed,) = fill(films / "a.png", "--block", 0.2).records
    (stretched,) = fill(films / "a.png", "--block", 0.2, "--image-preset", "percentile").records
    deep = films / "deep.png"
    Image.fromarray(np.asarray(Image.open(films / "a.png")).astype(np.uint16) * 200).save(deep)
    (by_percentiles,) = fill(deep, "--block", 0.2).records
    note = "the grey scale is that of the whole film, hidden pixels included"
    assert note not in fixed.get("notes", [])
    assert stretched["notes"][-1] == note
    assert any("percentiles" in found for found in by_percentiles["notes"])
    assert by_percentiles["notes"][-1] == note


def test_a_person_reads_the_numbers_and_the_audit(debug_weights, films, monkeypatch, capsys):
    import sys

    from chexmix_cli.__main__ import run

    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    assert run(["inpaint", str(films / "a.png"), "--block", "0.2", "--weights", str(debug_weights)]) == 0
    for words in ("hidden part", "whole film", "leak audit", "ceiling", "film's pixels kept"):
        assert words in shown.getvalue()


def test_weights_that_saw_whole_images_in_training_see_them_here(fill, call, films, debug_weights, tmp_path):
    import torch

    from chexmix_cli.core.weights import open_weights, save_model

    causal = open_weights(debug_weights)
    assert not causal.sees_whole_image
    decoder, vqgan = causal.load_decoder("cpu", torch.float32), causal.load_vqgan("cpu", torch.float32)
    settings = replace(causal.settings, decoder=replace(causal.settings.decoder, attention="bidirectional"))
    save_model(tmp_path / "both", settings, decoder=decoder, vqgan=vqgan)
    assert open_weights(tmp_path / "both").sees_whole_image
    arguments = (films / "a.png", "--block", 0.3)
    (first,) = fill(*arguments).records
    (second,) = call("inpaint", *arguments, "--weights", tmp_path / "both").records
    assert first["psnr"]["masked"]["original"] != second["psnr"]["masked"]["original"]
    assert first["psnr"]["masked"]["roundtrip"] is not None
    assert first["ceiling"] == second["ceiling"]
