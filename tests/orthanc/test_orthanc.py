"""Studies through a real Orthanc and back: ``make orthanc``. Figures of the last run stand in docs/reliability.md."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_peers import associated, film, running_node, send
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from chexmix_cli.core.data.dicom.file import parse_whole
from chexmix_cli.core.present.documents.read import read_text_sr

NUM_STUDIES, NUM_KILLS = 200, 8


def study_of(picture: Image.Image, number: int) -> Dataset:
    """Return a film as a study of its own: shifted and dimmed by a little, so that no two are the same."""
    draw = random.Random(number)
    pixels = np.asarray(picture, dtype=np.float32) * draw.uniform(0.7, 1.0)
    pixels = np.roll(pixels, (draw.randrange(-8, 9), draw.randrange(-8, 9)), (0, 1)).astype(np.uint8)
    dataset = film(number)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.tobytes()
    return dataset


@pytest.fixture
def picture(repository: Path) -> Image.Image:
    with Image.open(repository / "docs" / "images" / "demo-film.jpg") as found:
        return found.convert("L").resize((256, 256))


def value(entry: dict[str, Any], tag: str) -> Any:
    """Return the first value of an element in DICOM JSON."""
    return entry[tag]["Value"][0]


def reports_of(orthanc: Any, study: str) -> list[dict[str, Any]]:
    """Return the SR instances of a study by QIDO-RS."""
    return orthanc.get(f"studies/{study}/instances?Modality=SR")


def test_a_study_sent_in_comes_back_as_a_report_under_it(orthanc, picture, tmp_path, repository):
    """Film to Orthanc by DCMTK, from there to the node, its report back; found and fetched by DICOMweb."""
    if shutil.which("storescu") is None:
        pytest.skip("DCMTK is not installed (Debian: dcmtk)")
    there, one = orthanc(), study_of(picture, 1)
    one.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    arguments = ["--queue", str(tmp_path / "queue"), "--send-to", f"ORTHANC@127.0.0.1:{there.dicom_port}"]
    arguments += ["--port", str(there.node_port), "--allow", "ORTHANC@127.0.0.1", "--set", "receive.quiet_seconds=0.5"]
    with running_node(arguments, repository) as node:
        node.wait_for("started")
        command = ["storescu", "-aec", "ORTHANC", "127.0.0.1", str(there.dicom_port), str(tmp_path / "film.dcm")]
        subprocess.run(command, check=True, timeout=30)
        study = one.StudyInstanceUID
        (entry,) = there.wait_for(f"studies/{study}/instances?Modality=SR", lambda found: len(found) == 1)
        node.wait_for("sent")
        assert node.end(signal.SIGTERM)[0] == 0
    series, instance = value(entry, "0020000E"), value(entry, "00080018")
    answer = subprocess.run(
        ["curl", "-sf", "-H", "Accept: multipart/related; type=application/dicom",
         f"{there.url}/dicom-web/studies/{study}/series/{series}/instances/{instance}"],
        capture_output=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    document = parse_whole(answer[answer.index(b"\r\n\r\n") + 4 :].rsplit(b"\r\n--", 1)[0], 1 << 20)
    assert document.text("PatientID") == "PID-1"
    command = [sys.executable, "-m", "chexmix_cli", "generate-report", str(tmp_path / "film.dcm"), "--json"]
    record = json.loads(subprocess.run(command, capture_output=True, check=True, cwd=repository).stdout)
    assert read_text_sr(document)["report"].split() == record["report"].split()
    assert {value(found, "00080060") for found in there.get(f"studies/{study}/series")} == {"CR", "SR"}


class Sender:
    """Sends each film until it is told success, as modalities do.

    Attributes:
        waiting: films that are not known to have arrived.
        num_sent: C-STORE requests.
    """

    def __init__(self, films: list[Dataset], draw: random.Random) -> None:
        self.waiting, self.num_sent, self._draw = list(films), 0, draw

    def send_some(self, port: int) -> None:
        """Send up to five films in one association; then wait a little, as a machine that takes pictures does."""
        with associated(port, self.waiting[:1]) as association:
            for one in self.waiting[: self._draw.randint(1, 5)] if association.is_established else ():
                self.num_sent += 1
                if association.send_c_store(one).get("Status") != 0x0000:
                    break
                self.waiting.remove(one)
        time.sleep(0.1)


# pynetdicom leaves the socket of a failed connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_killed_in_the_middle_of_200_studies_it_loses_none_and_doubles_none(
    orthanc, picture, tmp_path, repository, debug_weights
):
    """The node is killed eight times; in the end the sender has lost its memory, and sends everything once more."""
    there, queue, draw = orthanc(routes=False), tmp_path / "queue", random.Random(0)
    films = [study_of(picture, number) for number in range(NUM_STUDIES)]
    sender, kills, started = Sender(films, draw), [], time.perf_counter()
    arguments = ["--queue", str(queue), "--send-to", f"ORTHANC@127.0.0.1:{there.dicom_port}"]
    arguments += ["--weights", str(debug_weights), "--set", "decode.max_new_tokens=16"]
    arguments += ["--set", "receive.quiet_seconds=0", "--set", "send.first_wait_seconds=0.1"]
    for _ in range(NUM_KILLS):
        with running_node(arguments, repository) as node:
            node.wait_for("started")
            # In the middle of whatever it is doing then: receiving, reporting, sending.
            killing = threading.Timer(draw.uniform(0.2, 3), node.process.kill)
            killing.start()
            while node.process.poll() is None:
                sender.send_some(node.port)
            killing.join()
            kills.append([len(node.named(name)) for name in ("received", "reported", "sent")])
    with running_node(arguments, repository) as node:
        while sender.waiting:
            sender.send_some(node.port)
        assert set(send(node.port, films)) == {0}
        limit = time.monotonic() + 600
        while len(list((queue / "done").glob("*.json"))) < NUM_STUDIES:
            assert time.monotonic() < limit, node.events[-5:]
            time.sleep(0.2)
        seconds = round(time.perf_counter() - started, 1)
        assert node.end(signal.SIGTERM)[0] == 0
    found = there.get(f"instances?Modality=SR&limit={3 * NUM_STUDIES}")
    counts = Counter(value(entry, "0020000D") for entry in found)
    figures = {"studies": NUM_STUDIES, "received, reported, sent before each kill": kills, "seconds": seconds}
    lost = {one.StudyInstanceUID for one in films} - set(counts)
    figures |= {"C-STORE requests": sender.num_sent + len(films), "lost": len(lost)}
    print(json.dumps({**figures, "doubled": sum(counts.values()) - len(counts)}))
    assert set(counts) == {one.StudyInstanceUID for one in films}
    assert set(counts.values()) == {1}
    left = [list((queue / name).iterdir()) for name in ("receiving", "working", "sending", "quarantine")]
    assert left == [[], [], [], []]


def test_studies_are_read_from_and_stored_to_orthanc_by_dicomweb(orthanc, picture, tmp_path, repository, debug_weights):
    """Inputs by query and by UID, fetched as they are stored; documents by STOW-RS; twice the same, once there."""
    there = orthanc(routes=False)
    films = [study_of(picture, number) for number in range(3)]
    rle = study_of(picture, 3)
    rle.compress(RLELossless)
    lateral = study_of(picture, 0)
    lateral.StudyInstanceUID, lateral.ViewPosition = films[0].StudyInstanceUID, "LL"
    ct = study_of(picture, 0)
    ct.StudyInstanceUID, ct.Modality = films[0].StudyInstanceUID, "CT"
    for number, one in enumerate([*films, rle, lateral, ct]):
        one.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    command = ["storescu", "-aec", "ORTHANC", "-R", "127.0.0.1", str(there.dicom_port)]
    subprocess.run([*command, *map(str, sorted(tmp_path.glob("[01245].dcm")))], check=True, timeout=60)
    upload = ["curl", "-sf", "-X", "POST", f"{there.url}/instances", "--data-binary", f"@{tmp_path / '3.dcm'}"]
    subprocess.run(upload, check=True, capture_output=True, timeout=60)

    def run(*arguments: str) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "chexmix_cli", *arguments, "--weights", str(debug_weights), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository)
        return [json.loads(line) for line in done.stdout.splitlines()]

    service = f"dicomweb+{there.url}/dicom-web"
    by_id = {record["id"]: record for record in run("tokenize", *(str(tmp_path / f"{n}.dcm") for n in range(5)))}
    found = run("tokenize", f"{service}/studies?StudyDate=20240229&limit=10")
    assert {record["id"]: record for record in found} == by_id
    assert len(by_id) == 4
    (one,) = run("tokenize", f"{service}/studies/{rle.StudyInstanceUID}")
    assert by_id[one["id"]] == one

    for _ in range(2):
        records = run("generate-report", f"{service}/studies?PatientID=PID-1", "--store", f"{there.url}/dicom-web")
        assert [record["status"] for record in records] == ["ok"]
    (entry,) = reports_of(there, films[1].StudyInstanceUID)
    assert value(entry, "00080016") == "1.2.840.10008.5.1.4.1.1.88.11"
    assert not list(Path(tempfile.gettempdir()).glob("chexmix-*/*/*.dcm")), "what was fetched is gone with the process"
