"""Names, labels, reports and headers that are markup, script or a formula: text in every page and table."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import pydicom
import pytest
from PIL import Image

from tests.cli.conftest import film_pixels

#: Each would make an element, an attribute or a script of its own where a page does not escape it.
MARKUP = (
    "<xss-probe>",
    '"><xss-probe>',
    "'><xss-probe>",
    '" onxss="1',
    "' onxss='1",
    "</script><xss-probe>",
    "</style><xss-probe>",
    "</textarea></title><xss-probe>",
    "<!--<script>",
    "--><xss-probe>",
    "{{ 7 * 7 }}<xss-probe>",
    "javascript:xss()",
    "\u2028<xss-probe>\u2029",
)
#: A spreadsheet would compute them.
FORMULAS = ("=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1+1", "\r=1+1")
TEXTS = (*MARKUP, *FORMULAS)
SHORT = ("--set", "decode.max_new_tokens=6")
FEW = ("--set", "bootstrap.resamples=0")


class Page(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, and the text of its scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[tuple[dict[str, str | None], list[str]]] = []
        self.text: list[str] = []
        self._inside = False
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append((dict(attrs), []))
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._inside = False

    def handle_data(self, data: str) -> None:
        (self.scripts[-1][1] if self._inside else self.text).append(data)

    def require_clean(self, where: str) -> None:
        """Hold that none of the texts became more than text, and that some of them are there."""
        assert "xss-probe" not in self.elements, where
        assert not [name for name, _ in self.attributes if name.startswith("on")], where
        for name, value in self.attributes:
            assert name not in ("href", "src", "action") or not (value or "").startswith("javascript:"), where
        for attributes, parts in self.scripts:
            script = "".join(parts)
            if attributes.get("type") == "application/json":
                json.loads(script)
            else:
                assert "xss" not in script, where
        # Written by a script, or as it is: the texts are in the page, so there was something to escape.
        assert "xss" in "".join(self.text) + "".join("".join(parts) for _, parts in self.scripts), where


def text_of(number: int) -> str:
    return TEXTS[number % len(TEXTS)]


@pytest.fixture
def hostile(tmp_path, make_dicom):
    """Return a folder of films whose names are payloads, good ones and broken ones, and one with a hostile header."""
    folder = tmp_path / "films <xss-probe>"
    folder.mkdir()
    for number, text in enumerate(TEXTS):
        name = f"{text.replace('/', chr(0x2215))}.png"
        if number % 3:
            (folder / name).write_bytes(b"\x89PNG\r\n\x1a\nnothing")
        else:
            Image.fromarray(film_pixels(number, 64)).save(folder / name)
    dataset = pydicom.dcmread(make_dicom(folder / "film<xss-probe>.dcm"))
    dataset.StudyDescription = dataset.SeriesDescription = dataset.PatientName = MARKUP[0]
    dataset.save_as(folder / "film<xss-probe>.dcm")
    return folder


@pytest.fixture
def manifest(tmp_path):
    """Return a manifest with the payloads as ids, patients, labels and reports."""
    lines = []
    for number in range(2 * len(TEXTS)):
        Image.fromarray(film_pixels(number, 64)).save(tmp_path / f"{number}.png")
        text = text_of(number)
        labels = {"Mass": number // 2 % 2, MARKUP[0]: number % 2}
        line = {"id": f"{text}{number}", "file": f"{number}.png", "patient": f"{text}{number}", "labels": labels}
        lines.append({**line, "split": "val" if number % 3 == 2 else "train", "findings": f"A mass. {text} {number}"})
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    "words",
    [
        "generate-report FILMS -o TABLE --paths --html PAGE --explain",
        "classify FILMS -o TABLE --paths --html PAGE",
        "inpaint FILMS --block 0.2 -o OUT --html PAGE",
        "review FILMS -o PAGE",
    ],
)
def test_names_of_films_are_text_in_every_page_and_table(call, hostile, debug_weights, tmp_path, words):
    page, table = tmp_path / "page.html", tmp_path / "table.csv"
    named = {"FILMS": hostile, "PAGE": page, "TABLE": table, "OUT": tmp_path / "out"}
    model = () if words.startswith("classify") else ("--weights", debug_weights)
    short = SHORT if words.startswith(("generate", "review")) else ()
    done = call(*(named.get(word, word) for word in words.split()), *model, *short)
    assert done.code == 3, done.stderr
    Page(page).require_clean(words)
    if "TABLE" in words:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            cells = [cell for row in csv.reader(stream) for cell in row]
        assert any("=1+1" in cell for cell in cells)
        for cell in cells:
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) or is_number(cell), cell


@pytest.mark.parametrize(
    "words",
    [
        "evaluate report MANIFEST --references MANIFEST --html PAGE --set external.run=false",
        "evaluate classification --manifest MANIFEST --html PAGE --mask-ratio 0 --set probe.c=[0.1]",
        "evaluate retrieval --manifest MANIFEST --html PAGE",
        "evaluate inpainting --manifest MANIFEST --html PAGE --set images=2",
    ],
)
def test_rows_of_a_manifest_are_text_in_every_page(call, manifest, debug_weights, tmp_path, words):
    page = tmp_path / "page.html"
    named = {"MANIFEST": manifest, "PAGE": page}
    model = () if words.startswith("evaluate report") else ("--weights", debug_weights)
    few = () if "inpainting" in words else FEW
    done = call(*(named.get(word, word) for word in words.split()), *model, *few)
    assert done.code == 0, done.stderr
    Page(page).require_clean(words)


def test_what_an_index_holds_is_text_in_the_page_of_a_query(call, hostile, manifest, debug_weights, tmp_path):
    index, page = tmp_path / "index", tmp_path / "page.html"
    made = call("retrieve", "index", manifest, "-o", index, "--with-text", "--weights", debug_weights)
    assert made.code == 0, made.stderr
    done = call("retrieve", "query", index, hostile, "-k", 2, "--html", page, "--weights", debug_weights)
    assert done.code == 3, done.stderr
    Page(page).require_clean("query")


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_a_page_that_escapes_nothing_would_be_seen(tmp_path):
    for text in (text for text in MARKUP if "probe" in text or "onxss" in text):
        path = tmp_path / "page.html"
        quote = "'" if text.startswith("'") else '"'
        path.write_text(f"<p title={quote}{text}{quote}>{text.replace('--', '')}</p><script>let a = '{text}'</script>")
        with pytest.raises(AssertionError):
            Page(path).require_clean("made")
