"""A report as A4 pages with the film, and those as a DICOM object: Encapsulated PDF (PS3.3 A.45.1).

matplotlib draws the pages, as it draws all pictures here. They bear the patient's name and number where the film's
header has them: a page that leaves the screen has to say whose it is.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage

from chexmix_cli.core.data.dicom.file import quiet
from chexmix_cli.core.present.documents.capture import source_image
from chexmix_cli.core.present.documents.findings import FindingScore, finding_scores
from chexmix_cli.core.present.documents.header import (
    MANUFACTURER,
    Maker,
    StudyHeader,
    code,
    finish_document,
    new_document,
)
from chexmix_cli.core.present.documents.text_report import TITLE, report_sections
from chexmix_cli.core.present.picture import WARNING_COLOUR, wrap
from chexmix_cli.core.text.disclaimer import GENERATED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLE = "Chest radiograph: draft report"
#: A4, in inches.
_WIDTH, _HEIGHT = 8.27, 11.69
_MARGIN = 0.75
_FILM = 3.6
_LINE, _POINTS, _SMALL = 0.2, 10.0, 8.0
#: Where the text of a page begins and ends, from its top.
_TOP, _BOTTOM = 1.2, _HEIGHT - 0.95
_DPI = 72
#: Of the film, along its longer side: 300 an inch.
_FILM_PX = 1080


class _Line(NamedTuple):
    text: str
    weight: str = "normal"
    colour: str = "black"


def report_pdf(record: Mapping[str, Any], study: StudyHeader, maker: Maker, film: NDArray[np.uint8]) -> bytes:
    """Return a report as a PDF file. The same arguments give the same bytes.

    Args:
        record: of ``chexmix generate-report``.
        study: whose it is; named on the page.
        maker: who made it.
        film: the radiograph, uint8 grey (Y, X) or RGB (Y, X, 3).

    Raises:
        DataError: if the record has no report.
    """
    import matplotlib
    from matplotlib.backends.backend_pdf import PdfPages

    written = io.BytesIO()
    # Letters as text that can be searched and copied, not as drawings (type 3 holds 256 of them).
    with matplotlib.rc_context({"pdf.fonttype": 42}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        first = _page()
        top = _draw_film(first, record, study, film)
        pages = _paged(_lines(record, first), top)
        figures = [first, *(_page() for _ in pages[1:])]
        for number, (figure, lines) in enumerate(zip(figures, pages, strict=True), start=1):
            _draw_lines(figure, lines, top if number == 1 else _TOP)
            _draw_foot(figure, study, maker, f"page {number} of {len(pages)}")
        told = {"Title": _TITLE, "Subject": GENERATED, "Creator": f"{MANUFACTURER} {maker.version}"}
        with PdfPages(written, metadata={**told, "CreationDate": None}) as file:
            for figure in figures:
                file.savefig(figure)
    return written.getvalue()


@quiet()
def encapsulated_pdf(record: Mapping[str, Any], study: StudyHeader, maker: Maker, film: NDArray[np.uint8]) -> Dataset:
    """Return :func:`report_pdf` as Encapsulated PDF, finished; arguments and errors are its.

    Raises:
        DataError: if the source's header cannot be written, too.
    """
    content = report_pdf(record, study, maker, film)
    dataset = new_document(study, maker, EncapsulatedPDFStorage, "DOC", "Draft report with film, unverified")
    dataset.ConversionType = "WSD"
    dataset.AcquisitionDateTime = None
    # What a film shows is unknown unless its header says; so only a page that names nobody counts as free of names.
    is_free = study.film.get("BurnedInAnnotation") == "NO" and not _whose(study)
    dataset.BurnedInAnnotation = "NO" if is_free else "YES"
    dataset.DocumentTitle = _TITLE
    dataset.ConceptNameCodeSequence = [code(*TITLE)]
    dataset.VerificationFlag = "UNVERIFIED"
    if study.image is not None:
        dataset.SourceInstanceSequence = [source_image(study.image.sop_class, study.image.instance)]
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocumentLength = len(content)
    dataset.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    return finish_document(dataset, record)


def _page() -> Figure:
    """Return an empty page with the title and, across it, the mark."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    _write(figure, _MARGIN, 0.55, _TITLE, size=15, weight="bold")
    band = figure.add_axes((0.0, 1 - 1.0 / _HEIGHT, 1.0, 0.28 / _HEIGHT))
    band.set_facecolor(WARNING_COLOUR)
    band.set(xticks=[], yticks=[])
    for spine in band.spines.values():
        spine.set_visible(False)
    band.text(0.5, 0.46, GENERATED, size=10.5, weight="bold", color="white", ha="center", va="center")
    return figure


def _draw_film(figure: Figure, record: Mapping[str, Any], study: StudyHeader, film: NDArray[np.uint8]) -> float:
    """Draw whose the film is, the film, and the probabilities beside it; return where text may begin."""
    top = 1.3
    for name, value in _whose(study):
        _write(figure, _MARGIN, top, name, size=_SMALL, color="#555555")
        _write(figure, _MARGIN + 1.2, top, value, size=_POINTS)
        top += _LINE
    top += 0.15
    picture = Image.fromarray(film)
    picture.thumbnail((_FILM_PX, _FILM_PX))
    axes = figure.add_axes((_MARGIN / _WIDTH, 1 - (top + _FILM) / _HEIGHT, _FILM / _WIDTH, _FILM / _HEIGHT))
    axes.imshow(np.asarray(picture), cmap="gray", vmin=0, vmax=255, interpolation="none")
    axes.set_anchor("NW")
    axes.set_axis_off()
    _draw_scores(figure, finding_scores(record), top)
    return top + _FILM + 0.3


def _draw_scores(figure: Figure, scores: Sequence[FindingScore], top: float) -> None:
    left = _MARGIN + _FILM + 0.3
    if scores:
        _write(figure, left, top + 0.08, "Classifier", size=_POINTS, weight="bold")
        _write(figure, left + 1.6, top + 0.08, "probability", size=_SMALL, color="#555555")
        _write(figure, left + 2.3, top + 0.08, "present from", size=_SMALL, color="#555555")
    # What does not fit beside the film stands in the other documents, whole.
    for number, score in enumerate(scores[: int(_FILM / _LINE) - 1], start=1):
        y, weight = top + 0.08 + number * _LINE, "bold" if score.is_present else "normal"
        _write(figure, left, y, score.name.replace("_", " "), size=_SMALL, weight=weight)
        _write(figure, left + 1.6, y, f"{score.probability:.2f}", size=_SMALL, weight=weight)
        if score.threshold is not None:
            _write(figure, left + 2.3, y, f"{score.threshold:.2f}", size=_SMALL, color="#555555")


def _whose(study: StudyHeader) -> list[tuple[str, str]]:
    """Return what the header says of patient and study, as far as it says anything."""
    elements = study.elements
    name = elements.get("PatientName")
    born, date = (_shown_date(str(elements.get(keyword) or "")) for keyword in ("PatientBirthDate", "StudyDate"))
    found = [
        ("Patient", "" if not name else (name.alphabetic or str(name)).replace("^", " ").strip()),
        ("Patient ID", str(elements.get("PatientID") or "")),
        ("Born, sex", ", ".join(part for part in (born, str(elements.get("PatientSex") or "")) if part)),
        ("Study", date),
        ("Accession", str(elements.get("AccessionNumber") or "")),
    ]
    return [(label, text) for label, text in found if text]


def _shown_date(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if date else ""


def _lines(record: Mapping[str, Any], figure: Figure) -> list[_Line]:
    """Return the report in lines that fit the page, its headings, and its conflicts in the colour of the mark."""
    canvas: Any = figure.canvas
    renderer, width_px = canvas.get_renderer(), (_WIDTH - 2 * _MARGIN) * _DPI
    found: list[_Line] = []
    for name, text in report_sections(record):
        if name != "preamble":
            found.append(_Line(name.replace("_", " ").capitalize(), "bold"))
        found += [_Line(line) for line in wrap(text, renderer, width_px, _POINTS)]
        found.append(_Line(""))
    for conflict in record.get("conflicts", []):
        found += [
            _Line(line, colour=WARNING_COLOUR) for line in wrap(f"Conflict: {conflict}", renderer, width_px, _POINTS)
        ]
    return found


def _paged(lines: list[_Line], top: float) -> list[list[_Line]]:
    """Return the lines by page; the first begins lower, under the film."""
    first, later = int((_BOTTOM - top) / _LINE), int((_BOTTOM - _TOP) / _LINE)
    rest = lines[first:]
    return [lines[:first], *(rest[start : start + later] for start in range(0, len(rest), later))]


def _draw_lines(figure: Figure, lines: Sequence[_Line], top: float) -> None:
    for number, line in enumerate(lines):
        _write(figure, _MARGIN, top + number * _LINE, line.text, size=_POINTS, weight=line.weight, color=line.colour)


def _draw_foot(figure: Figure, study: StudyHeader, maker: Maker, page: str) -> None:
    whose = ", ".join(value for _, value in _whose(study)[:2])
    made = f"{MANUFACTURER} {maker.version}, model {maker.model}, weights {maker.weights_hash[:16]}"
    _write(figure, _MARGIN, _HEIGHT - 0.6, GENERATED, size=_SMALL, color=WARNING_COLOUR)
    _write(figure, _WIDTH - _MARGIN, _HEIGHT - 0.6, whose, size=_SMALL, ha="right")
    _write(figure, _MARGIN, _HEIGHT - 0.42, f"{made}; {page}", size=_SMALL, color="#555555")


def _write(figure: Figure, left: float, top: float, text: str, **style: Any) -> None:
    """Write a line, its place in inches from the page's upper left corner."""
    figure.text(left / _WIDTH, 1 - top / _HEIGHT, text, va="center", parse_math=False, **style)
