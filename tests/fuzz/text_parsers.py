"""Text that people and programmes give: manifests, records, tables, XML, settings, request bodies."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from damage import JSON, TEXT, XML
from parser import Parser, written

from chexmix_cli.core.data.adapters.datasets import openi
from chexmix_cli.core.data.adapters.entry import Rejection
from chexmix_cli.core.data.lines import read_json_lines
from chexmix_cli.core.data.manifest import read_manifest, row_line
from chexmix_cli.core.data.report_files import read_reports, read_scores
from chexmix_cli.core.data.tables import read_table
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.core.settings.datasets import ListedImport
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.settings.load import read_preset, read_toml, resolve
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.weights.hub.registry import read_registry

_ROWS = [
    {"id": "a", "file": "a.png", "split": "train", "view": "PA", "labels": {"Edema": 1, "Effusion": None}, "age": 61.5},
    {
        "id": "b",
        "file": "b.png",
        "patient": "p",
        "study": "s",
        "sex": "F",
        "findings": "Clear.",
        "impression": "Normal.",
    },
    {"id": "ä", "file": "c/d.png", "split": "val", "view": "LATERAL", "notes": {"view": "projection"}, "source": "x"},
]
_REPORTS = [{"id": "a", "report": "FINDINGS: Clear.\nIMPRESSION: Normal."}, {"id": "b", "findings": "An effusion."}]
_CSV = 'id,report,score\na,"Clear, and\nnormal.",0.5\nb,An effusion.,1\nc,,\n'
_XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR1"/><MedlineCitation><Article><Abstract>
<AbstractText Label="FINDINGS">The heart is <b>normal</b> in size.</AbstractText>
<AbstractText Label="IMPRESSION">No acute disease.</AbstractText></Abstract></Article></MedlineCitation>
<MeSH><major>Cardiomegaly/borderline</major><major>normal</major></MeSH>
<parentImage id="CXR1_1_IM-0001-3001"/><parentImage id="CXR1_1_IM-0001-4001"/></eCitation>
"""


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _manifest_seeds(folder: Path) -> list[Path]:
    lines = _lines(_ROWS)
    return written(folder, {"manifest.jsonl": lines, "manifest.jsonl.gz": gzip.compress(lines, mtime=0)})


def _read_rows(path: Path) -> None:
    for row in read_manifest(path):
        row_line(row).encode("utf-8")


def _record_seeds(folder: Path) -> list[Path]:
    lines = _lines(_REPORTS)
    contents = {
        "a.jsonl": lines,
        "b.jsonl": lines.decode().encode("utf-16"),
        "c.jsonl.gz": gzip.compress(lines, mtime=0),
    }
    rexrank = {"a": {"report": "Clear.", "model_prediction": "Normal."}}
    return written(folder, {**contents, "d.json": json.dumps(_REPORTS), "e.json": json.dumps(rexrank)})


def _read_records(path: Path) -> None:
    for _, record in [] if path.suffix == ".json" else read_json_lines(path):
        assert isinstance(record, dict)
    for report in read_reports(path, prefers="prediction"):
        report.text("both")


def _table_seeds(folder: Path) -> list[Path]:
    tabs = _CSV.replace(",", "\t")
    packed = gzip.compress(_CSV.encode(), mtime=0)
    contents = {"a.csv": _CSV, "b.tsv": tabs, "c.csv.gz": packed, "d.csv": _CSV.encode("utf-16")}
    return written(folder, contents)


def _read_table(path: Path) -> None:
    for row in read_table(path):
        row.check()
    if path.suffix != ".gz":
        reports = read_reports(path, prefers="prediction")
        read_scores(path, [report.id for report in reports])


def _read_xml(path: Path) -> None:
    for entry in openi.read(path.parent, ListedImport()):
        text = str(entry)
        assert "root:x" not in text, "a file was read through an entity"
        assert len(text) < 1 << 20, "an entity was expanded"
        if isinstance(entry, Rejection):
            raise DataError(Reason(entry.code), entry.message)


def _settings_seeds(folder: Path) -> list[Path]:
    presets = Path(read_preset.__code__.co_filename).parent / "presets"
    registry = Path(read_preset.__code__.co_filename).parents[3] / "weights.toml"
    contents: dict[str, bytes | str] = {"config.toml": '[input]\nmax_file_mb = 12\nviews = "all"\nframe = 1\n'}
    contents["model.toml"] = (presets / "model" / "debug.toml").read_bytes()
    contents["weights.toml"] = registry.read_bytes()
    return written(folder, contents)


def _read_settings(path: Path) -> None:
    if path.name == "weights.toml":
        for entry in read_registry(path).values():
            assert entry.preset is None or entry.model_settings()
    elif path.name == "model.toml":
        resolve(ModelSettings, [(str(path), read_toml(path))]).to_json()
    else:
        resolve(InputSettings, [(str(path), read_toml(path).get("input", {}))]).to_json()


PARSERS = [
    Parser(name="manifests", seeds=_manifest_seeds, read=_read_rows, changes=JSON),
    Parser(name="JSON Lines, JSON", seeds=_record_seeds, read=_read_records, changes=JSON),
    Parser(name="CSV, TSV", seeds=_table_seeds, read=_read_table, changes=TEXT),
    Parser(
        name="Open-i XML",
        seeds=lambda folder: written(folder, {"1.xml": _XML}),
        read=_read_xml,
        changes=XML,
    ),
    Parser(name="TOML settings", seeds=_settings_seeds, read=_read_settings, changes=TEXT),
]
