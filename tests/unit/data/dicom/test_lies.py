"""A file and a lie: for each attribute or table that rendering reads, a real film whose header lies about it.

The film is shown as it is, with a note; or refused with a reason; or, where a lie cannot be seen through, shown as the
header wants it, with a note. Never a wrong picture without a word.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.rendering.loaded_image import LoadedImage
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.settings.inference import InputSettings

#: Pearson correlation with the film, for lossless and for lossy files.
EXACT, LOSSY = 0.999, 0.99


@pytest.fixture(scope="module")
def film(small_film) -> np.ndarray:
    """Return a real chest film, bone bright, 12 bits in 16, darkest 200: (194, 184)."""
    dark = (small_film.max() - small_film).astype(np.float64)
    return (200 + 3800 * (dark - dark.min()) / np.ptp(dark)).round().astype(np.uint16)


def grey_of(film: np.ndarray, **attributes: Any):
    return lambda dataset_of: dataset_of(film, **{"BitsStored": 12, **attributes})


def lut(entries: np.ndarray, said: list[int], vr: str = "US") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if min(said) < 0 else "US", said)
    words = np.asarray(entries).astype(np.uint16)
    value: Any = words.tobytes() if vr in ("OW", "UN") else words.view(np.int16 if vr == "SS" else np.uint16).tolist()
    item.add_new("LUTData", vr, value)
    return item


RAMP12 = np.arange(4096)
#: Name: (attributes or what makes the data set of the film; expected note, or reason code in capitals).
LIES: dict[str, tuple[Any, str]] = {
    # Rows, Columns, frames
    "rows and columns exchanged": ({"Rows": 184, "Columns": 194}, "Rows and Columns are the other way round"),
    "a row too few": ({"Rows": 193}, "longer than the header says"),
    "half of the rows": ({"Rows": 97}, "longer than the header says"),
    "a row too many": ({"Rows": 195}, "SHORT_PIXELS"),
    "a column too few": ({"Columns": 183}, "CORRUPT"),
    "a column too many": ({"Columns": 185}, "SHORT_PIXELS"),
    "half of the columns": ({"Columns": 92}, "CORRUPT"),
    "other factors of the size": ({"Rows": 388, "Columns": 92}, "CORRUPT"),
    "two frames said": ({"NumberOfFrames": 2}, "SHORT_PIXELS"),
    "no rows": ({"Rows": 0}, "CORRUPT"),
    # bits
    "two bits too few": ({"BitsStored": 10}, "values of 12 bits, where the header says 10"),
    "one bit too few": ({"BitsStored": 11}, "values of 12 bits, where the header says 11"),
    "more bits than stored": ({"BitsStored": 16}, "no window in the header"),
    "more bits stored than allocated": ({"BitsStored": 17}, "CORRUPT"),
    "high bit above": ({"HighBit": 15}, "UNSUPPORTED_PIXELS"),
    "high bit below": ({"HighBit": 7}, "UNSUPPORTED_PIXELS"),
    "8 bits allocated of 16": ({"BitsAllocated": 8, "BitsStored": 8}, "CORRUPT"),
    "32 bits allocated of 16": ({"BitsAllocated": 32}, "SHORT_PIXELS"),
    "bytes in the other order": (
        lambda film: lambda dataset_of: dataset_of(film, BitsStored=12, PixelData=film.byteswap().tobytes()),
        "the bytes are in the other order",
    ),
    # sign
    "signed said": ({"PixelRepresentation": 1}, "the header says signed"),
    "unsigned said": (
        lambda film: grey_of(((film.astype(np.int32) - 2048) & 0x0FFF).astype(np.uint16), PixelRepresentation=0),
        "the header says unsigned",
    ),
    "unsigned said, sign filled up": (
        lambda film: grey_of((film.astype(np.int32) - 2048).astype(np.uint16), PixelRepresentation=0),
        "signed values of 16 bits, where the header says 12",
    ),
    "signed in fewer bits than said": (
        lambda film: grey_of(
            ((film.astype(np.int32) - 2048) & 0x0FFF).astype(np.uint16), PixelRepresentation=1, BitsStored=16
        ),
        "signed in 12 bits",
    ),
    "undeclared overlay in the upper bits": (
        lambda film: grey_of(film | (0x8000 * (np.indices(film.shape).sum(axis=0) % 9 == 0)).astype(np.uint16)),
        "bits above the 12 stored ones are set, and left out",
    ),
    # photometric interpretation, samples, planes
    "MONOCHROME1 said": ({"PhotometricInterpretation": "MONOCHROME1"}, "likely a negative"),
    "lower case": ({"PhotometricInterpretation": "monochrome2"}, "no window in the header"),
    "blanks inside": ({"PhotometricInterpretation": "MONOCHROME 2"}, "no window in the header"),
    "RGB said": ({"PhotometricInterpretation": "RGB"}, "UNSUPPORTED_PIXELS"),
    "an unknown term": ({"PhotometricInterpretation": "GREYISH"}, "UNSUPPORTED_PIXELS"),
    "three samples said": ({"SamplesPerPixel": 3}, "UNSUPPORTED_PIXELS"),
    "inverse shape said": ({"PresentationLUTShape": "INVERSE"}, "likely a negative"),
    # rescale
    "slope 0": ({"RescaleSlope": 0, "RescaleIntercept": 0}, "the rescale is impossible"),
    "slope alone": ({"RescaleSlope": 1}, "the rescale has no intercept"),
    "intercept alone": ({"RescaleIntercept": -1024}, "the rescale has no slope"),
    "negative slope": ({"RescaleSlope": -1, "RescaleIntercept": 4095}, "likely a negative"),
    # window
    "window off the data": ({"WindowCenter": 40_000, "WindowWidth": 400}, "the window misses the data"),
    "width 0": ({"WindowCenter": 2000, "WindowWidth": 0}, "the window misses the data"),
    "window without width": ({"WindowCenter": 2000}, "no window in the header"),
    "window far too narrow": ({"WindowCenter": 1800, "WindowWidth": 20}, "of the picture is"),
    "window far too wide": ({"WindowCenter": 2000, "WindowWidth": 40_000}, "hardly any grey levels"),
    "window of the stored values": (
        {"WindowCenter": 2000, "WindowWidth": 4000, "RescaleSlope": 1, "RescaleIntercept": -3000},
        "the window clips",
    ),
    "an unknown function": ({"WindowCenter": 2100, "WindowWidth": 4000, "VOILUTFunction": "LOG"}, "is not known"),
    # VOI LUT
    "VOI LUT, bits overstated": ({"VOILUTSequence": [lut(RAMP12 * 4, [4096, 0, 16])]}, "reach 14 bits"),
    "VOI LUT, stored size said": ({"VOILUTSequence": [lut(RAMP12, [4096, 0, 16])]}, "reach 12 bits"),
    "VOI LUT, bits understated": ({"VOILUTSequence": [lut(RAMP12, [4096, 0, 10])]}, "reach 12 bits"),
    "VOI LUT, no bits": ({"VOILUTSequence": [lut(RAMP12, [4096, 0, 0])]}, "reach 12 bits"),
    "VOI LUT, fewer entries said": (
        {"VOILUTSequence": [lut(RAMP12, [256, 0, 12])]},
        "4096 entries, its",
    ),
    "VOI LUT, more entries said": (
        {"VOILUTSequence": [lut(RAMP12, [65535, 0, 12])]},
        "4096 entries, its",
    ),
    "VOI LUT, cut": ({"VOILUTSequence": [lut(RAMP12[:2000], [4096, 0, 12])]}, "the VOI LUT is damaged"),
    "VOI LUT, first value said too high": ({"VOILUTSequence": [lut(RAMP12, [4096, 2500, 12])]}, "lie outside"),
    "VOI LUT, first value said too low": ({"VOILUTSequence": [lut(RAMP12, [4096, -2500, 12])]}, "lie outside"),
    # modality LUT
    "modality LUT, bits understated": ({"ModalityLUTSequence": [lut(RAMP12, [4096, 0, 8])]}, "reach 12 bits"),
    "modality LUT, cut": ({"ModalityLUTSequence": [lut(RAMP12[:2000], [4096, 0, 12])]}, "CORRUPT"),
    "modality LUT, first value too high": ({"ModalityLUTSequence": [lut(RAMP12, [4096, 2500, 12])]}, "lie outside"),
    "modality LUT, no descriptor": ({"ModalityLUTSequence": [Dataset()]}, "CORRUPT"),
    # orientation, spacing, padding
    "mirrored said": ({"PatientOrientation": ["R", "F"]}, "turned as its patient orientation says"),
    "upside down said": ({"PatientOrientation": ["R", "H"]}, "the patient orientation contradicts"),
    "lying said": ({"PatientOrientation": ["F", "L"]}, "the patient orientation contradicts"),
    "spacing of another ratio": ({"PixelSpacing": [0.1, 0.2]}, "pixels are not square"),
    "padding of a value that occurs": (
        {"PixelPaddingValue": 200, "PixelPaddingRangeLimit": 1500},
        "padding is left out of the grey scale",
    ),
}
#: What the header does not let be seen through: the picture is not the film's, and the note says why.
WRONG_BUT_NOTED = {
    "half of the rows", "a row too few", "MONOCHROME1 said", "inverse shape said", "negative slope",
    "window far too narrow", "window of the stored values", "mirrored said", "spacing of another ratio",
    "padding of a value that occurs", "VOI LUT, first value said too high", "VOI LUT, first value said too low",
    "modality LUT, first value too high",
}  # fmt: skip


def loaded(dataset: Dataset, file_bytes, path) -> LoadedImage:
    path.write_bytes(file_bytes(dataset))
    return load_image(Source(path), "voi", InputSettings())


def likeness(image: Image.Image, film: np.ndarray) -> float:
    shown = np.asarray(image.convert("L"))
    return float(np.corrcoef(shown.ravel(), film.ravel())[0, 1]) if shown.shape == film.shape else 0.0


@pytest.mark.parametrize("name", LIES)
def test_a_lying_header_is_seen_through_or_said(name, film, dataset_of, file_bytes, tmp_path):
    lie, expected = LIES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = grey_of(film, **lie)(dataset_of) if isinstance(lie, dict) else lie(film)(dataset_of)
        if expected.isupper():
            with pytest.raises(DataError) as caught:
                loaded(dataset, file_bytes, tmp_path / "film.dcm")
            assert caught.value.code == expected
            return
        result = loaded(dataset, file_bytes, tmp_path / "film.dcm")
    assert any(expected in note for note in result.notes), result.notes
    is_right = likeness(result.image, film) >= EXACT * 0.998  # percentiles clip one pixel in a hundred
    assert is_right != (name in WRONG_BUT_NOTED), likeness(result.image, film)


def test_the_film_without_a_lie(film, dataset_of, file_bytes, tmp_path):
    result = loaded(grey_of(film, WindowCenter=2100.5, WindowWidth=4000)(dataset_of), file_bytes, tmp_path / "film.dcm")
    assert likeness(result.image, film) >= EXACT
    assert result.notes == []


@pytest.mark.parametrize("vr", ["US", "SS", "OW", "UN"])
@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
def test_lut_entries_are_unsigned_whatever_their_vr(film, dataset_of, file_bytes, tmp_path, vr, sequence):
    dataset = grey_of(film, **{sequence: [lut(RAMP12 * 16, [4096, 0, 16], vr)]})(dataset_of)
    result = loaded(dataset, file_bytes, tmp_path / "film.dcm")
    assert likeness(result.image, film) >= EXACT * 0.998
    assert result.notes in ([], ["no window in the header: percentiles instead"])


@pytest.mark.parametrize("first", [63_488, -2048])
def test_first_value_of_a_lut_in_either_signedness(film, dataset_of, file_bytes, tmp_path, first):
    signed = (film.astype(np.int32) - 2048).astype(np.int16)
    dataset = dataset_of(signed, VOILUTSequence=[lut(RAMP12, [4096, first, 12])])
    result = loaded(dataset, file_bytes, tmp_path / "film.dcm")
    assert likeness(result.image, film) >= EXACT
    assert result.notes == []


def compressed(film: np.ndarray, kind: str, dataset_of, **header: Any) -> Dataset:
    stream = BytesIO()
    shown = Image.fromarray((film >> 4).astype(np.uint8)) if kind == "jpeg" else Image.fromarray(film)
    shown.save(stream, "JPEG" if kind == "jpeg" else "JPEG2000", **({"quality": 95} if kind == "jpeg" else {}))
    dataset: Dataset = dataset_of(film, **header)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if kind == "jpeg" else JPEG2000Lossless
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    return dataset


@pytest.mark.parametrize(
    ("kind", "header", "expected"),
    [
        ("jpeg", {"BitsAllocated": 16, "BitsStored": 8}, None),
        ("jpeg", {"BitsAllocated": 16, "BitsStored": 12}, "the compressed frame has 8 bits, the header says 12"),
        ("jpeg", {"BitsAllocated": 16, "BitsStored": 16}, "the compressed frame has 8 bits, the header says 16"),
        ("jpeg", {"BitsAllocated": 8, "BitsStored": 8, "Rows": 190}, "CORRUPT"),
        ("jpeg", {"BitsAllocated": 8, "BitsStored": 8, "SamplesPerPixel": 3, "PlanarConfiguration": 0}, "UNSUPPORTED"),
        ("j2k", {"BitsStored": 8}, "values of 12 bits, where the header says 8"),
        ("j2k", {"BitsAllocated": 8, "BitsStored": 8}, "values of 12 bits, where the header says 8"),
        ("j2k", {"BitsStored": 12, "PixelRepresentation": 1}, "the header says signed"),
        ("j2k", {"BitsStored": 12, "Rows": 184, "Columns": 194}, "CORRUPT"),
    ],
)
def test_the_stream_knows_better_than_the_header(film, dataset_of, file_bytes, tmp_path, kind, header, expected):
    dataset = compressed(film, kind, dataset_of, **header)
    if expected is not None and expected.isupper():
        with pytest.raises(DataError) as caught:
            loaded(dataset, file_bytes, tmp_path / "film.dcm")
        assert caught.value.code.startswith(expected)
        return
    result = loaded(dataset, file_bytes, tmp_path / "film.dcm")
    assert likeness(result.image, film) >= LOSSY
    assert expected is None or any(expected in note for note in result.notes), result.notes


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("is_planar", [False, True])
@pytest.mark.parametrize("stated", [None, 0, 1])
def test_colour_by_pixel_or_by_planes_as_the_data_show(film, dataset_of, file_bytes, tmp_path, bits, is_planar, stated):
    grey = film if bits == 16 else (film >> 4).astype(np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=2)
    stored = colour.transpose(2, 0, 1) if is_planar else colour
    dataset = dataset_of(colour, PixelData=np.ascontiguousarray(stored).tobytes(), PlanarConfiguration=stated)
    result = loaded(dataset, file_bytes, tmp_path / "film.dcm")
    assert likeness(result.image, film) >= EXACT * 0.998
    said = any("colour is read by" in note for note in result.notes)
    assert said == (stated is None or bool(stated) != is_planar)


def test_grey_in_ybr_or_rgb_under_the_other_name(film, dataset_of, file_bytes, tmp_path):
    grey = (film >> 4).astype(np.uint8)
    alike = np.repeat(grey[..., None], 3, axis=2)
    neutral = np.stack([grey, np.full_like(grey, 128), np.full_like(grey, 128)], axis=2)
    for pixels, name, note in ((alike, "YBR_FULL", "channels are alike"), (neutral, "RGB", "constant at half")):
        result = loaded(dataset_of(pixels, PhotometricInterpretation=name), file_bytes, tmp_path / "film.dcm")
        assert likeness(result.image, film) >= EXACT
        assert any(note in each for each in result.notes)


def test_words_of_other_encodings_are_held_against_the_header_too(film, dataset_of, file_bytes, tmp_path):
    big = dataset_of(film, BitsStored=10, PixelData=film.astype(">u2").tobytes())
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    packed = dataset_of(film, BitsStored=12)
    packed.compress(RLELossless)
    packed.BitsStored, packed.HighBit = 10, 9
    for dataset in (big, packed):
        result = loaded(dataset, file_bytes, tmp_path / "film.dcm")
        assert likeness(result.image, film) >= EXACT * 0.998
        assert "values of 12 bits, where the header says 10; read whole" in result.notes


def test_a_palette_that_says_16_bits_and_has_8(film, dataset_of, file_bytes, tmp_path):
    dataset = dataset_of((film >> 4).astype(np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", np.arange(256, dtype=np.uint16).tobytes())
    result = loaded(dataset, file_bytes, tmp_path / "film.dcm")
    assert likeness(result.image, film) >= EXACT
    assert "the palette has 8 bits, its descriptor says 16" in result.notes
