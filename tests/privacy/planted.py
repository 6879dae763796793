"""A made patient, and small inputs of every kind that are full of her."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pydicom
from dataset_trees import write_csv
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.cli.conftest import PLANTED as OF_HEADER
from tests.cli.conftest import film_pixels, write_dicom

#: What was planted, by its kind. None of it is a word of chexmix, of its models or of English.
PLANTED: dict[str, tuple[str, ...]] = {
    "name": ("Zephyranthes",),
    "number": ("PID-99471", "ACC-55193"),
    "date": ("19590723", "1959-07-23", "1959XX23"),
    "uid": ("1.2.826.0.1.3680043.8.498.77",),
    "institution": ("Hollowbrook",),
    "private": ("Quagmyre", "Sparrowfen"),
    "path": ("Folder-Isolde", "File-Tamsin"),
    "picture name": ("Ottoline",),
    "manifest patient": ("MRN-40417",),
    "manifest study": ("STU-60718",),
    "report": ("Thistlewick",),
    "picture metadata": ("Wrenfield", "Larksong"),
}
assert {*OF_HEADER} <= {text for texts in PLANTED.values() for text in texts}

#: What a derived object copies of her from the header.
HEADER = frozenset({"name", "number", "date", "uid"})

_NAME = PLANTED["name"][0]


def write_film(path: Path, number: int, **fields: str) -> Path:
    """Write a DICOM film with the header's plants, private tags and a sequence."""
    write_dicom(path, number, study=str(number), **fields)
    dataset = pydicom.dcmread(path)
    block = dataset.private_block(0x0011, "CHEXMIX TEST", create=True)
    block.add_new(0x01, "LO", PLANTED["private"][0])
    block.add_new(0x02, "UN", PLANTED["private"][1].encode() + b"\0")
    dataset.ReferringPhysicianName = f"{_NAME}^Referrer"
    dataset.PatientComments = f"{PLANTED['private'][0]} said {_NAME}"
    dataset.save_as(path)
    return path


def write_picture(path: Path, number: int) -> Path:
    """Write a PNG film with text chunks of each kind, and Exif."""
    known, hidden = PLANTED["picture metadata"]
    chunks = PngInfo()
    chunks.add_text("Title", f"{_NAME} {known}")
    chunks.add_text("Comment", f"{hidden} " * 40, zip=True)
    chunks.add_itxt("Description", f"{known} {PLANTED['date'][1]}")
    exif = Image.Exif()
    exif[0x010E] = f"{_NAME} at {PLANTED['institution'][0]}"
    Image.fromarray(film_pixels(number)).save(path, pnginfo=chunks, exif=exif)
    return path


def write_manifest(path: Path, folder: Path, count: int = 12) -> Path:
    """Write films, DICOM and PNG by turns, and rows of them; the ids alone are not of her."""
    lines = []
    for number in range(count):
        kind = "dcm" if number % 2 else "png"
        film = folder / f"{PLANTED['path'][1]}-{number}.{kind}"
        (write_film if kind == "dcm" else write_picture)(film, 100 + number)
        lines.append(row(f"row-{number}", str(film.relative_to(path.parent)), number))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def row(row_id: str, file: str, number: int) -> dict[str, object]:
    """Return a row of a manifest: every third is for validation, two of four have a mass."""
    return {
        "id": row_id,
        "file": file,
        "patient": f"{PLANTED['manifest patient'][0]}-{number}",
        "study": f"{PLANTED['manifest study'][0]}-{number}",
        "split": "val" if number % 3 == 2 else "train",
        "labels": {"Mass": number // 2 % 2, "Edema": None},
        "findings": f"{PLANTED['report'][0]} has a mass, number {number}.",
        "impression": f"No effusion in {PLANTED['report'][0]}.",
    }


class Ward:
    """The inputs.

    Attributes:
        studies: a folder of DICOM files: three that can be read, and one of each kind of bad one.
        good: one of the good ones.
        pictures: a folder of a PNG film, and of a damaged one.
        archive: a zip of a good film, a damaged one and one that is no film.
        manifest: of films that are all good.
        wrong: lines of a manifest, each wrong in another way; ``refused`` has them behind two good ones.
        reports: JSON Lines of ids and reports, and ``bad_reports`` with wrong lines.
        rexrank: JSON of studies, one of whose image is not there.
        tree: a folder with a table, as ``data import folder`` reads it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.studies = root / PLANTED["path"][0] / "studies"
        self.pictures = root / PLANTED["path"][0] / "pictures"
        self.tree = root / PLANTED["path"][0] / "tree"
        for folder in (self.studies, self.pictures, self.tree, root / PLANTED["path"][0] / "films"):
            folder.mkdir(parents=True)
        self._write_studies()
        write_picture(self.pictures / "p1.png", 20)
        broken = write_picture(self.pictures / "p2.png", 21)
        broken.write_bytes(broken.read_bytes()[:-1500])
        self.archive = root / PLANTED["path"][0] / f"{PLANTED['path'][1]}.zip"
        with zipfile.ZipFile(self.archive, "w", zipfile.ZIP_DEFLATED) as file:
            member = f"{PLANTED['path'][0]}/{_NAME}"
            file.write(self.good, f"{member}-1.dcm")
            file.writestr(f"{member}-2.dcm", self.good.read_bytes()[:-2000])
            file.writestr(f"{member}-3.dcm", _NAME)
        self.manifest = write_manifest(root / "manifest.jsonl", root / PLANTED["path"][0] / "films")
        self._write_lines()
        self._write_tree()
        self._write_studies_of_a_benchmark()

    def _film(self, number: int) -> Path:
        return self.studies / f"{PLANTED['path'][1]}-{_NAME}-{number}.dcm"

    def _write_studies(self) -> None:
        self.good = write_film(self._film(1), 1)
        write_film(self._film(2), 2, body_part="HIP")
        write_film(self._film(3), 3, view="LL")
        cut = write_film(self._film(4), 4)
        cut.write_bytes(cut.read_bytes()[:-4000])
        head = write_film(self._film(5), 5)
        head.write_bytes(head.read_bytes()[:300])
        self._film(6).write_text(f"PatientName {_NAME}")
        # Values that break the rules of their kind, about which DICOM libraries like to warn, quoting them.
        odd = write_film(self._film(7), 7)
        date, odd_date = PLANTED["date"][0], PLANTED["date"][2]
        odd.write_bytes(odd.read_bytes().replace(date.encode(), odd_date.encode()).replace(b"^Ada", b"\xff\x1b\\a"))
        odder = write_film(self._film(8), 8)
        odder.write_bytes(odder.read_bytes().replace(b"Chest for", b"\\\\\\\\\x00\x01for"))

    def _write_lines(self) -> None:
        good = self.manifest.read_text().splitlines()
        film = json.loads(good[0])["file"]
        wrong = [
            row("absent", f"{PLANTED['path'][0]}/{_NAME}.png", 1),
            {**row("field", film, 2), "reader": _NAME},
            {**row("view", film, 3), "view": _NAME},
            {**row("split", film, 4), "split": _NAME},
            {**row("label", film, 5), "labels": {"Mass": _NAME}},
            {**row("kind", film, 6), "findings": {PLANTED["report"][0]: 1}},
            {**row("age", film, 7), "age": int(PLANTED["date"][0])},
            {**row("codes", film, 8), "codes": [PLANTED["report"][0]]},
            [_NAME],
        ]
        self.wrong = [*map(json.dumps, wrong), f'{{"id": "{_NAME}', _NAME]
        # On stdin a path is read from where the command runs.
        whole = [json.dumps({**json.loads(line), "file": str(self.root / json.loads(line)["file"])}) for line in good]
        lines = [*whole[:2], *self.wrong]
        self.refused = self.root / "refused.jsonl"
        self.refused.write_text("".join(f"{line}\n" for line in lines))
        self.reports = self.root / "reports.jsonl"
        rows = [json.loads(line) for line in good]
        said = [{"id": one["id"], "report": f"{one['findings']} {PLANTED['report'][0]}."} for one in rows]
        self.reports.write_text("".join(json.dumps(one) + "\n" for one in said))
        self.bad_reports = self.root / "bad-reports.jsonl"
        bad = [said[0], {"id": "unknown", "report": _NAME}, {"id": "list", "report": [_NAME]}, {"report": _NAME}]
        self.bad_reports.write_text("".join(json.dumps(one) + "\n" for one in bad) + f"{_NAME}\n")

    def _write_studies_of_a_benchmark(self) -> None:
        folder, name = PLANTED["path"]
        self.rexrank = self.root / "rexrank.json"
        good = {"key_image_path": f"{folder}/films/{name}-0.png", "image_path": [], "report": PLANTED["report"][0]}
        gone = {"key_image_path": f"{folder}/{_NAME}.png", "image_path": [], "context": {"Age": PLANTED["date"][0]}}
        self.rexrank.write_text(json.dumps({"study-1": good, "study-2": gone}))

    def _write_tree(self) -> None:
        rows = []
        for number in range(4):
            name = f"{PLANTED['picture name'][0]}-{number}.png"
            write_picture(self.tree / name, 40 + number)
            rows.append((name, f"{PLANTED['manifest patient'][0]}-{number}", "PA", 1, f"{PLANTED['report'][0]} lungs."))
        rows.append(("absent.png", PLANTED["manifest patient"][0], "PA", 0, _NAME))
        rows.append((f"{PLANTED['picture name'][0]}-0.png", PLANTED["manifest patient"][0], _NAME, _NAME, _NAME))
        write_csv(self.tree / "films.csv", ["file", "patient", "view", "Edema", "findings"], rows)
