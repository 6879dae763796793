"""One film in every compressed transfer syntax, decoded by the decoder that is taken and by every other one here."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from chexmix_cli.core.data.dicom import decoders
from chexmix_cli.core.data.dicom.codestream import FrameHeader
from chexmix_cli.core.data.dicom.decode import check_layout, decode
from chexmix_cli.core.data.dicom.file import parse_whole
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.inference import InputSettings

#: Of pydicom and pydicom-data: grey, one frame. The bits of a level decide what one grey level of 256 is.
FILES = {
    "JPEG2000.dcm": 0,
    "MR_small_jp2klossless.dcm": 0,
    "RG1_J2KR.dcm": 0,
    "RG3_J2KI.dcm": 0,
    "MR_small_jpeg_ls_lossless.dcm": 0,
    "JPEG-LL.dcm": 0,
    "JPGLosslessP14SV1_1s_1f_8b.dcm": 0,
    "JPGExtended.dcm": 1,
    "SC_rgb_jpeg_dcmtk.dcm": 1,
    "SC_jpeg_no_color_transform_2.dcm": 1,
}


def decoded(path: Path) -> np.ndarray:
    file = parse_whole(path.read_bytes(), 64 << 20)
    return decode(file, check_layout(file, InputSettings()), 0).array


@pytest.mark.parametrize(("name", "tolerance"), FILES.items())
def test_every_decoder_gives_the_same_pixels(name, tolerance):
    """With the extra ``libjpeg-gpl`` it is held against that decoder too."""
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("not among the files of this pydicom")
    dataset = pydicom.dcmread(path)
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    found = decoded(Path(str(path))).astype(int)
    for plugin in decoder.available_plugins:
        if dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit and plugin != "pylibjpeg":
            continue  # pydicom's own do not read 12 bits
        other, _ = decoder.as_array(dataset, index=0, decoding_plugin=plugin)
        assert np.abs(found - other).max() <= tolerance, plugin


@pytest.fixture
def gdcm_file(dataset_of, file_bytes, tmp_path):
    """Return a function that writes pixels through GDCM's encoder of a transfer syntax."""
    gdcm = pytest.importorskip("gdcm")

    def written(pixels: np.ndarray, syntax: str, bits: int) -> Path:
        plain, path = tmp_path / "plain.dcm", tmp_path / "film.dcm"
        plain.write_bytes(file_bytes(dataset_of(pixels, BitsStored=bits)))
        reader = gdcm.ImageReader()
        reader.SetFileName(str(plain))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(path))
        assert writer.Write()
        return path

    return written


@pytest.mark.parametrize(
    ("name", "uid"),
    [
        ("JPEGLosslessProcess14", JPEGLossless),
        ("JPEGLosslessProcess14_1", JPEGLosslessSV1),
        ("JPEGLSLossless", JPEGLSLossless),
        ("JPEG2000Lossless", JPEG2000Lossless),
    ],
)
@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
def test_lossless_syntaxes_give_back_every_value(gdcm_file, small_film, name, uid, bits):
    pixels = (small_film >> (15 - bits)) if bits <= 15 else small_film * 2 + (small_film & 1)
    pixels = pixels.astype(np.uint8 if bits == 8 else np.uint16)
    path = gdcm_file(pixels, name, bits)
    assert pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == uid
    assert np.array_equal(decoded(path), pixels)


@pytest.mark.parametrize(
    ("name", "uid", "bits"),
    [
        ("JPEGBaselineProcess1", JPEGBaseline8Bit, 8),
        ("JPEGExtendedProcess2_4", JPEGExtended12Bit, 12),
        ("JPEGLSNearLossless", JPEGLSNearLossless, 12),
    ],
)
def test_lossy_syntaxes_stay_close(gdcm_file, small_film, name, uid, bits):
    pixels = (small_film >> (15 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    path = gdcm_file(pixels, name, bits)
    assert pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == uid
    grey_level = (1 << bits) / 256
    assert np.abs(decoded(path).astype(int) - pixels).mean() <= grey_level


#: Samples 40 y + 20 x, 64 x 64 px, by OpenJPH: nothing that is installed here writes it.
HIGH_THROUGHPUT = base64.b85decode(
    "|4;u>04YEK0000$0000$00000000000000$0000$0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?kdTm&kdTm&kdTm"
    "wh=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00001C;$QflfVEg0RMlH^hf&H?gD|d0KfnfzyK3~+O+)w0(1bjwe0|-Q~<yL6)*q=SZr"
    ");Y^rgBbpYCG)28jfLILcy0Kfnh@Bjs-G#ZUYqtR&R%6fWn0(byy+1S|F*x1<q{fuCH_A!C%x&Xic7R&$vbU+w}VHk#C7=~dOhGF^t3VM2adU"
    "|?rf_(t8GMP*!lgVT<nM@{=$^QR%V1x(1Vh|qvh(LSxApz{O0l)w*ssI6ZfW{bOj4{R-V~jDz7-Nhv#u#IaG5){&3VM2adU|?#dU|?#dU|?r0"
    "(JpT$8j9TaU92S9LI4S$8j9TaU92S9LI6~|9{&6LI=NL2p;`}Aba)@f$!Kt2ftwm9{q$Md-f24?6U&@*#"
)


@pytest.mark.parametrize("uid", [HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL], ids=lambda uid: uid.name)
def test_high_throughput_jpeg_2000(dataset_of, file_bytes, tmp_path, uid):
    pixels = np.add.outer(np.arange(64) * 40, np.arange(64) * 20).astype(np.uint16)
    dataset = dataset_of(pixels, BitsStored=12, PixelData=encapsulate([HIGH_THROUGHPUT]))
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = uid
    (tmp_path / "film").write_bytes(file_bytes(dataset))
    assert np.array_equal(decoded(tmp_path / "film"), pixels)


def test_complaints_of_the_c_libraries_do_not_reach_the_terminal(rg1_path, capfd):
    path = get_testdata_file("JPGExtended.dcm", download=False)
    decoded(Path(str(path)))  # GDCM asks its 8-bit library first, which says so
    assert capfd.readouterr() == ("", "")


def test_a_closed_stderr_is_no_obstacle(monkeypatch):
    def closed(_: int) -> int:
        raise OSError

    monkeypatch.setattr(os, "dup", closed)
    with decoders.silent_codecs():
        pass


@pytest.mark.parametrize(
    ("uid", "code", "message"),
    [
        ("1.2.840.10008.1.2.4.110", "UNSUPPORTED_PIXELS:JPEG-XL", "JPEG XL Lossless (1.2.840.10008.1.2.4.110) is not"),
        ("1.2.840.10008.1.2.4.111", "UNSUPPORTED_PIXELS:JPEG-XL", "JPEG XL JPEG Recompression (1.2.840"),
        ("1.2.840.10008.1.2.4.112", "UNSUPPORTED_PIXELS:JPEG-XL", "JPEG XL (1.2.840.10008.1.2.4.112) is not"),
        ("1.2.840.10008.1.2.4.94", "UNSUPPORTED_PIXELS", "JPIP Referenced (1.2.840.10008.1.2.4.94) is not decoded"),
        ("1.2.840.10008.1.2.4.66", "UNSUPPORTED_PIXELS", "JPEG Lossless, Hierarchical (Process 29) (1.2.840"),
        ("1.2.840.10008.1.2.8.1", "UNSUPPORTED_PIXELS", "Deflated Image Frame Compression (1.2.840"),
        ("1.2.3.4.5", "UNSUPPORTED_PIXELS", "a transfer syntax without a public name is not decoded"),
        ("", "UNSUPPORTED_PIXELS", "a transfer syntax without a public name is not decoded"),
    ],
)
def test_what_is_not_decoded_is_named(uid, code, message):
    with pytest.raises(DataError) as caught:
        decoders.require_decoder(UID(uid))
    assert caught.value.code == code
    assert str(caught.value).startswith(message)


def test_without_gdcm_the_package_is_named_unless_the_extra_is_there(monkeypatch):
    for available, expected in ((("pillow", "pylibjpeg"), "pylibjpeg"), (("pillow",), None)):
        monkeypatch.setattr(
            decoders, "get_decoder", lambda _, names=available: SimpleNamespace(available_plugins=names)
        )
        if expected:
            assert decoders.plugin_of(JPEGLossless) == expected
        else:
            with pytest.raises(DataError, match="no decoder") as caught:
                decoders.plugin_of(JPEGLossless)
            assert caught.value.code == "NEEDS_PLUGIN:python-gdcm"
            assert caught.value.reason is Reason.NEEDS_PLUGIN


def test_the_stated_syntax_stays_where_the_stream_is_of_its_kind():
    assert decoders.syntax_of(FrameHeader("jpeg-2000", 1, 1, 1, 8), HTJ2K) == HTJ2K
    assert decoders.syntax_of(FrameHeader("jpeg-2000", 1, 1, 1, 8), JPEGLossless).name.startswith("JPEG 2000")
    assert decoders.syntax_of(FrameHeader("jpeg", 1, 1, 1, 12), JPEGBaseline8Bit) == JPEGExtended12Bit
