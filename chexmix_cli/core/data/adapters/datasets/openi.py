"""Open-i / Indiana University: ``ecgen-radiology/*.xml`` with ``NLMCXR_png``, or the two CSVs that Kaggle made of them.

No patient is named: each report is taken for one patient (two visits of one patient would not be noticed). Neither sex
nor age is stated: the texts had them removed. The XML
does not say which image is which view; Kaggle's ``indiana_projections.csv`` tells frontal from lateral and is joined
where it is there. MeSH headings and problems are labels of what is present. ``XXXX`` stands for words that were removed
from the text, and is kept. Reports without an image give no row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from chexmix_cli.core.data.adapters.entry import Entry, Rejection, entries
from chexmix_cli.core.data.adapters.layout import find_file
from chexmix_cli.core.data.adapters.reading import first_view, named_sections, read_view
from chexmix_cli.core.data.adapters.text_store import TextStore
from chexmix_cli.core.data.labels import Label, listed_labels
from chexmix_cli.core.data.tables import match_name, read_table
from chexmix_cli.core.data.views import View
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.datasets import ListedImport

_REPORTS = match_name("indiana_reports")
_PROJECTIONS = match_name("indiana_projections")
_XML_FOLDER = "ecgen-radiology"
#: The images' own numbers, common to the names of both releases: CXR1_1_IM-0001-3001 and 1_IM-0001-3001.dcm.png.
_NUMBERS = re.compile(r"IM-[\w-]+")
_SUFFIXES = re.compile(r"(\.dcm|\.png|\.jpg)+$", re.IGNORECASE)
_NO_LABEL = frozenset({"no indexing", "technical quality of image unsatisfactory"})
_MAX_XML_BYTES = 1 << 20

Views = Mapping[tuple[str, str], View]


def read(root: Path, settings: ListedImport) -> Iterator[Entry | Rejection]:
    """Yield the images of the XML reports or, without them, of the two CSVs."""
    projections = find_file(root, _PROJECTIONS)
    folder = _xml_folder(root)
    if folder is not None:
        views = {} if projections is None else _read_views(projections)
        files = sorted(folder.glob("*.xml"), key=lambda path: (len(path.stem), path.stem))
        for path in files:
            yield from _read_xml(path, views, settings.absent_is_zero)
        return
    reports = find_file(root, _REPORTS)
    if reports is None or projections is None:
        raise DataError(
            Reason.NOT_FOUND,
            "no reports are here",
            where=str(root),
            expected=f"{_XML_FOLDER}/*.xml, or indiana_reports.csv and indiana_projections.csv",
        )
    yield from _read_tables(reports, projections, settings.absent_is_zero)


def _xml_folder(root: Path) -> Path | None:
    places = [root / _XML_FOLDER, *sorted(root.glob(f"*/{_XML_FOLDER}")), root]
    return next((place for place in places if next(place.glob("*.xml"), None) is not None), None)


def _read_xml(path: Path, views: Views, absent_is_zero: tuple[str, ...]) -> Iterator[Entry | Rejection]:
    try:
        tree = _parse(path)
        uid = _attribute(tree, "uId")
        report = named_sections(_section(tree, "FINDINGS"), _section(tree, "IMPRESSION"), source="XML/{}")
        labels = _labels((element.text or "" for element in tree.iterfind(".//MeSH/major")), absent_is_zero)
        names = [image.get("id", "") for image in tree.iterfind(".//parentImage")]
    except DataError as error:
        yield Rejection(path.name, error.code, str(error))
        return
    for name in names:
        view, notes = first_view(("indiana_projections.csv", views.get(_key(uid, name), View.UNKNOWN)))
        yield Entry(
            id=name,
            paths=(f"NLMCXR_png/{name}.png", f"{name}.png", f"images/{name}.png", f"images/NLMCXR_png/{name}.png"),
            study=uid,
            patient=uid,
            source="openi",
            view=view,
            labels=labels,
            **report.fields(**notes, label_source="MeSH"),
        )


def _parse(path: Path) -> ElementTree.Element:
    try:
        if path.stat().st_size > _MAX_XML_BYTES:
            raise DataError(Reason.TOO_LARGE, "the XML is too large", expected=f"at most {_MAX_XML_BYTES} bytes")
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise DataError(Reason.CORRUPT, f"not readable as XML (line {error.position[0]})") from None
    except (LookupError, ValueError):
        raise DataError(Reason.CORRUPT, "not readable as XML (no such encoding)") from None
    except OSError as error:
        raise DataError(Reason.UNREADABLE, f"cannot be read ({error.strerror})") from None


def _attribute(tree: ElementTree.Element, name: str) -> str:
    element = tree.find(f".//{name}")
    value = "" if element is None else element.get("id", "")
    if not value:
        raise DataError(Reason.BAD_RECORD, f"no {name}", expected="a report of Open-i's collection")
    return value


def _section(tree: ElementTree.Element, label: str) -> str | None:
    texts = ("".join(element.itertext()) for element in tree.iterfind(f".//AbstractText[@Label='{label}']"))
    return "\n\n".join(texts) or None


def _labels(headings: Iterable[str], absent_is_zero: tuple[str, ...]) -> dict[str, Label]:
    """Return what MeSH headings such as ``Cardiomegaly/borderline`` say to be present; qualifiers are dropped."""
    names = [heading.partition("/")[0].strip() for heading in headings]
    present = [name for name in dict.fromkeys(names) if name and name.lower() not in _NO_LABEL]
    return listed_labels(present, absent_is_zero) if present else {}


def _key(uid: str, name: str) -> tuple[str, str]:
    numbers = _NUMBERS.search(_SUFFIXES.sub("", name))
    return uid.removeprefix("CXR"), numbers[0] if numbers else name


def _read_views(path: Path) -> dict[tuple[str, str], View]:
    views = {}
    for row in read_table(path, ("uid", "filename", "projection")):
        row.check()
        views[_key(row.cells["uid"].strip(), row.cells["filename"].strip())] = read_view(row.cells["projection"])
    return views


def _read_tables(reports: Path, projections: Path, absent_is_zero: tuple[str, ...]) -> Iterator[Entry | Rejection]:
    with TextStore() as store:
        for row in read_table(reports, ("uid", "findings", "impression")):
            row.check()
            cells = row.cells
            store.put(cells["uid"].strip(), [cells["findings"], cells["impression"], cells.get("Problems")])

        def make(cells: Mapping[str, str]) -> Entry:
            uid, name = cells["uid"].strip(), cells["filename"].strip()
            findings, impression, problems = store.get(uid) or (None, None, None)
            view, notes = first_view(("projection", read_view(cells["projection"])))
            report = named_sections(findings, impression, source="csv/{}")
            return Entry(
                id=_SUFFIXES.sub("", name),
                paths=(f"images/images_normalized/{name}", f"images_normalized/{name}", f"images/{name}", name),
                study=uid,
                patient=uid,
                source="openi",
                view=view,
                labels=_labels((problems or "").split(";"), absent_is_zero),
                **report.fields(**notes, label_source="Problems"),
            )

        yield from entries(read_table(projections, ("uid", "filename", "projection")), make, id_column="filename")
