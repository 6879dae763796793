"""Radiographs and what holds them: DICOM, DICOMDIR, pictures, archives, structured reports, requests."""

from __future__ import annotations

import base64
import io
import json
import shutil
import zipfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
from damage import BYTES, DICOM, JSON, ZIP
from numpy.typing import NDArray
from parser import Parser, Picture, written
from PIL import Image
from pydantic import ValidationError
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from chexmix_cli.core.data.presets import ResolvedPreset, resolve_preset
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.data.studies.file_sets import listed_files
from chexmix_cli.core.data.studies.ids import IdMaker
from chexmix_cli.core.data.studies.inputs import Refusal, discover, load_pixels, study_of_file
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.present.documents.read import sr_records
from chexmix_cli.core.settings.dicom_node import ReceiveSettings
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.settings.model import ImageSettings
from chexmix_cli.core.vocab import compact
from chexmix_cli.serve.http.errors import RefusedError

SETTINGS = InputSettings(max_file_mb=16, max_pixels=4_000_000)
CR = "1.2.840.10008.5.1.4.1.1.1"


@cache
def _preset() -> ResolvedPreset:
    return resolve_preset("voi", ImageSettings(resolution_px=64, intensity="voi", geometry="pad"), 1)


@cache
def _levels() -> NDArray[np.uint16]:
    """Return every tenth pixel of the real film that pydicom-data brings, even sides, 15 bits."""
    found = pydicom.dcmread(str(get_testdata_file("RG1_UNCR.dcm", download=False))).pixel_array
    return np.ascontiguousarray(found[: 194 * 10 : 10, : 184 * 10 : 10])


def film(encoding: str = "native") -> bytes:
    """Return a sound chest film in an encoding, the same bytes in every run: numbers of inputs mean nothing else."""
    if encoding in ("jpeg-ls", "lossless jpeg"):
        name = "MR_small_jpeg_ls_lossless.dcm" if encoding == "jpeg-ls" else "JPGLosslessP14SV1_1s_1f_8b.dcm"
        dataset = pydicom.dcmread(str(get_testdata_file(name, download=False)))
        dataset.SOPClassUID, dataset.Modality, dataset.BodyPartExamined = CR, "CR", "CHEST"
    else:
        dataset = _dataset(_levels() if encoding != "jpeg" else (_levels() >> 7).astype(np.uint8))
    if encoding == "jpeg":
        stream = io.BytesIO()
        Image.fromarray((_levels() >> 7).astype(np.uint8)).save(stream, "JPEG")
        dataset.PixelData = encapsulate([stream.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    elif encoding in ("rle", "jpeg2000"):
        dataset.compress(RLELossless if encoding == "rle" else JPEG2000Lossless)
    elif encoding in ("implicit", "deflated"):
        dataset.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if encoding == "implicit" else DeflatedExplicitVRLittleEndian
        )
    for number, keyword in enumerate(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")):
        setattr(dataset, keyword, f"1.2.3.{number}")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _dataset(pixels: NDArray[Any]) -> Dataset:
    dataset, meta = Dataset(), FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CR, ExplicitVRLittleEndian
    dataset.file_meta, dataset.SOPClassUID = meta, CR
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", "PA"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored, dataset.PixelRepresentation = (15, 0) if pixels.dtype.itemsize == 2 else (8, 0)
    dataset.HighBit = dataset.BitsStored - 1
    if pixels.dtype.itemsize == 2:
        dataset.WindowCenter, dataset.WindowWidth = 15000, 30000
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    return dataset


def _picture(form: str, mode: str = "L", **options: Any) -> bytes:
    image, stream = Image.fromarray((_levels() >> 7).astype(np.uint8)).resize((92, 97)), io.BytesIO()
    if mode == "I;16":
        image = Image.fromarray(_levels()[::2, ::2].astype(np.uint16))
    elif mode != "L":
        image = image.convert(mode)
    image.save(stream, form, **options)
    return stream.getvalue()


def _archive(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name.replace("__", "/").replace("_", ".")), content)
    return stream.getvalue()


def _film_seeds(encoding: str) -> Any:
    return lambda folder: written(folder, {"film.dcm": film(encoding)})


def _read_film(path: Path) -> Picture:
    study = study_of_file(path, SETTINGS, "x")
    if isinstance(study, Refusal):
        raise study.error
    pixels, notes = load_pixels(study.chosen, _preset())
    assert pixels.shape == (1, 64, 64), pixels.shape
    assert pixels.min() >= -1, pixels.min()
    assert pixels.max() <= 1, pixels.max()
    return Picture(pixels, tuple(notes))


def _picture_seeds(folder: Path) -> list[Path]:
    return written(
        folder,
        {
            "grey.png": _picture("PNG"), "deep.png": _picture("PNG", "I;16"), "colour.png": _picture("PNG", "RGB"),
            "palette.png": _picture("PNG", "P"), "grey.jpg": _picture("JPEG"), "colour.jpg": _picture("JPEG", "RGB"),
            "progressive.jpg": _picture("JPEG", progressive=True), "grey.tif": _picture("TIFF"),
            "deep.tif": _picture("TIFF", "I;16"), "lzw.tif": _picture("TIFF", compression="tiff_lzw"),
            "deflated.tif": _picture("TIFF", "RGB", compression="tiff_adobe_deflate"),
        },
    )  # fmt: skip


def _read_studies(path: Path) -> None:
    before, refused, num_read = set(path.parent.iterdir()), None, 0
    for study in discover([str(path)], SETTINGS):
        if isinstance(study, Refusal):
            refused = study.error
            continue
        try:
            load_pixels(study.chosen, _preset())
            num_read += 1
        except DataError as error:
            refused = error
    assert set(path.parent.iterdir()) == before, "files were made"
    if refused is not None and num_read == 0:
        raise refused


def _archive_seeds(folder: Path) -> list[Path]:
    png = _picture("PNG")
    inner = _archive(film_png=png)
    return written(
        folder,
        {
            "pictures.zip": _archive(a_png=png, b__c_png=_picture("JPEG")),
            "studies.zip": _archive(one__film_dcm=film(), one__other_dcm=film("rle")),
            "nested.zip": _archive(inner_zip=inner, d_png=png),
        },
    )


def _file_set_seeds(folder: Path) -> list[Path]:
    source = Path(str(get_testdata_file("DICOMDIR", download=False)))
    return written(folder, {"DICOMDIR": source.read_bytes()})


def _read_file_set(path: Path) -> None:
    for listed in listed_files(Source(path), SETTINGS):
        assert listed is None or (not listed.is_absolute() and ".." not in listed.parts), listed
    for study in discover([str(path.parent)], SETTINGS):
        assert isinstance(study, Refusal)  # the files are not there


def _sr_seeds(folder: Path) -> list[Path]:
    from pydicom.uid import UID

    def item(kind: str, name: tuple[str, str, str], *content: Dataset, text: str | None = None) -> Dataset:
        found, entry = Dataset(), Dataset()
        found.RelationshipType, found.ValueType = "CONTAINS", kind
        entry.CodeValue, entry.CodingSchemeDesignator, entry.CodeMeaning = name
        found.ConceptNameCodeSequence = [entry]
        if content:
            found.ContentSequence = list(content)
        if text is not None:
            found.TextValue = text
        return found

    texts = [item("TEXT", ("121071", "DCM", "Finding"), text=text) for text in ("Lungs clear.", "Heart normal.")]
    root = item(
        "CONTAINER",
        ("18748-4", "LN", "Report"),
        item("CONTAINER", ("59776-5", "LN", "Findings"), texts[0], item("CONTAINER", ("8", "SCT", "Heart"), texts[1])),
        item("CONTAINER", ("X", "99HOS", "CONCLUSION"), item("TEXT", ("121077", "DCM", "C"), text="Normal.")),
    )
    root.StudyInstanceUID, root.PatientID, root.SOPInstanceUID = "1.2.3", "p", "1.2.4"
    root.SOPClassUID, root.Modality = "1.2.840.10008.5.1.4.1.1.88.11", "SR"
    root.file_meta = FileMetaDataset()
    root.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    root.file_meta.MediaStorageSOPClassUID = UID(root.SOPClassUID)
    root.file_meta.MediaStorageSOPInstanceUID = UID("1.2.4")
    stream = io.BytesIO()
    root.save_as(stream, enforce_file_format=True)
    return written(folder, {"report.dcm": stream.getvalue()})


def _read_sr(path: Path) -> None:
    for _, record in sr_records(path):
        json.dumps(record, allow_nan=False).encode("ascii")
        assert all(isinstance(record[name], str) for name in record if name != "id")


def _store_seeds(folder: Path) -> list[Path]:
    return written(
        folder, {"received.dcm": film(), "1/received.dcm": film("jpeg2000"), "2/received.dcm": film("implicit")}
    )


@cache
def _receiver(folder: Path) -> Any:
    from chexmix_cli.serve.dicom.peers import read_peers
    from chexmix_cli.serve.dicom.queue import StudyQueue
    from chexmix_cli.serve.dicom.receiver import Receiver

    shutil.rmtree(folder / "queue", ignore_errors=True)
    queue = StudyQueue(folder / "queue", salt_mark="a")
    settings = ReceiveSettings(least_free_mb=0)
    peers = read_peers(["*@*"], "--allow")
    said: list[dict[str, Any]] = []
    receiver = Receiver(
        queue, IdMaker(), settings, ae_title="CHEXMIX", peers=peers, max_bytes=16 << 20,
        note=lambda event, **about: said.append({"event": event, **about}),
    )  # fmt: skip
    return receiver, queue, said


class _Association:
    """What the receiver asks of pynetdicom's."""

    requestor = SimpleNamespace(ae_title="PEER", address="127.0.0.1")


def _receive(path: Path) -> None:
    """Give a data set to the receiver as an association would, then to the node's reader of studies."""
    receiver, queue, said = _receiver(path.parent.parent)
    data = path.read_bytes()
    request = SimpleNamespace(AffectedSOPInstanceUID="1.2.3.2", AffectedSOPClassUID=CR)
    event = SimpleNamespace(assoc=_Association(), encoded_dataset=lambda: data, request=request)
    status = receiver._on_store(event)
    last = said[-1]
    assert "bug" not in str(last.get("reason", "")), last
    if status:
        raise RefusedError(f"status {status:04X}", "refused")
    queue.end({last["id"]})
    while (study := queue.claim(0)) is not None:
        assert list(discover([str(study)], SETTINGS))
        queue.refuse(study, "X", "")
        shutil.rmtree(queue.folder / "quarantine" / study.name)
    queue._known.clear()


def _request_seeds(folder: Path) -> list[Path]:
    urls = [
        f"data:image/png;base64,{base64.b64encode(_picture('PNG')).decode()}",
        f"data:image/jpeg;base64,{base64.b64encode(_picture('JPEG')).decode()}",
        f"data:application/dicom;base64,{base64.b64encode(film()).decode()}",
    ]
    content = [{"type": "text", "text": "Report."}, {"type": "image_url", "image_url": {"url": urls[0]}}]
    chat = {
        "model": "m", "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": content}],
        "temperature": 0.5, "top_p": 0.9, "max_tokens": 20, "n": 1, "stream": True, "seed": 3,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    bodies = {
        "ChatRequest.json": chat, "FilmRequest.json": {"image": urls[1], "id": "a"},
        "EmbedRequest.json": {"image": urls[2], "layers": [0, 1]},
        "InpaintRequest.json": {"image": urls[0], "box": [10, 10, 40, 50], "seed": 1},
    }  # fmt: skip
    return written(folder, {name: json.dumps(body) for name, body in bodies.items()})


def _read_request(path: Path) -> None:
    from chexmix_cli.library.films import FilmReader
    from chexmix_cli.serve.http import schemas
    from chexmix_cli.serve.http.completions import _image_of
    from chexmix_cli.serve.http.images import read_data_url

    try:
        body = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # FastAPI answers 422 and 400
        raise RefusedError("BAD_REQUEST", "no JSON") from None
    request = getattr(schemas, path.stem).model_validate(body)
    url = _image_of(request) if path.stem == "ChatRequest" else request.image
    if path.stem == "ChatRequest":
        request.unsupported()
    data = read_data_url(url, "image")
    reader = FilmReader(
        input=SETTINGS,
        preset=_preset(),
        vocabulary=compact(num_text=64, num_codes=8, tokens_per_image=16),
        codebook_hash="a",
    )
    reader.bytes_job(data, "image").prepare()


PARSERS = [
    *(
        Parser(name=f"DICOM, {encoding}", seeds=_film_seeds(encoding), read=_read_film, changes=DICOM)
        for encoding in ("native", "implicit", "deflated", "rle", "jpeg2000", "jpeg", "jpeg-ls", "lossless jpeg")
    ),
    Parser(name="DICOMDIR", seeds=_file_set_seeds, read=_read_file_set, changes=DICOM),
    Parser(name="DICOM SR", seeds=_sr_seeds, read=_read_sr, changes=DICOM),
    Parser(name="C-STORE data sets", seeds=_store_seeds, read=_receive, changes=DICOM, refusals=(RefusedError,)),
    Parser(name="PNG, JPEG, TIFF", seeds=_picture_seeds, read=_read_film, changes=BYTES),
    Parser(name="zip archives", seeds=_archive_seeds, read=_read_studies, changes=ZIP),
]
REQUESTS = Parser(
    name="HTTP request bodies", seeds=_request_seeds, read=_read_request, changes=JSON,
    refusals=(RefusedError, ValidationError),
)  # fmt: skip
