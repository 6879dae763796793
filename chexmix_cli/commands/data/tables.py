"""The results of ``chexmix data`` as tables, for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chexmix_cli.commands.shared.wrapping import draw_table
from chexmix_cli.core.errors import counted

Record = Mapping[str, Any]


def import_tables(record: Record) -> str:
    """Return what an import wrote and what it left out."""
    parts = [f"{record['id']}: {counted(record['rows'], 'image')} of {record['kind']}"]
    if record["without_patient"]:
        parts.append(f"{record['without_patient']} of no known patient: each was drawn a split of its own")
    parts.append(f"{record['without_report']} without a report")
    columns = ("splits", "split_sources", "views", "view_sources", "label_sources", "report_sources")
    rows = [(name.replace("_", " "), value, str(count)) for name in columns for value, count in record[name].items()]
    parts.append(draw_table(("", "", "images"), _grouped(rows)))
    if record["rejected"]:
        rows = [(code, str(found["count"]), ", ".join(found["examples"])) for code, found in record["rejected"].items()]
        parts.append(draw_table(("not written", "images", "the first of them"), rows))
    return "\n\n".join(parts)


def check_tables(record: Record) -> str:
    """Return what a check found: problems first."""
    problems = record["problems"]
    head = f"{record['id']}: {counted(record['rows'], 'image')}, {counted(record['patients'], 'patient')}"
    parts = [f"{head}; " + ("no problem found" if not problems else f"{len(problems)} kinds of problems")]
    if problems:
        rows = [
            (
                item["code"],
                str(item["count"]),
                item["meaning"] + "".join(f"\n  {_plain(one)}" for one in item["examples"]),
            )
            for item in problems
        ]
        parts.append(draw_table(("problem", "count", ""), rows))
    parts.append(draw_table(("", "", "images"), _figures(record)))
    if record["labels"]:
        rows = [
            (name, *(str(counts[value]) for value in ("1", "0", "-1", "null")))
            for name, counts in record["labels"].items()
        ]
        parts.append(draw_table(("label", "1", "0", "-1", "null"), rows))
    parts.append(draw_table(("reports", ""), _report_figures(record["reports"])))
    return "\n\n".join(parts)


def _figures(record: Record) -> list[tuple[str, ...]]:
    named = {"split": record["splits"], "view": record["views"]}
    named |= {name.replace("_", " "): counts for name, counts in record["notes"].items()}
    rows = [(name, value, str(count)) for name, counts in named.items() for value, count in counts.items()]
    rows.append(("without a patient", "", str(record["without_patient"])))
    rows += [("of images", note, str(count)) for note, count in record["images"]["notes"].items()]
    near = record["images"]["near_duplicates_within_a_patient"]["count"]
    rows.append(("near-duplicates", "of one patient, in one split", str(near)))
    return _grouped(rows)


def _report_figures(reports: Record) -> list[tuple[str, ...]]:
    rows = [
        (f"images with {name}" if name != "none" else "images without", str(n))
        for name, n in reports["rows_with"].items()
    ]
    rows += [
        ("studies with a report", str(reports["studies"])),
        ("different reports", str(reports["different"])),
        ("word for word an earlier one", str(reports["repeated"]["count"])),
        ("nearly an earlier one", str(reports["near_duplicates"]["count"])),
    ]
    rows += [(f"with the placeholder {name}", str(count)) for name, count in reports["placeholders"].items()]
    if reports["words"]:
        rows.append(("words, median and most", f"{reports['words']['median']}, {reports['words']['most']}"))
    return [*rows]


def _grouped(rows: Sequence[tuple[str, str, str]]) -> list[tuple[str, ...]]:
    """Return the rows with a name only where it changes."""
    names = [""] + [name for name, _, _ in rows]
    return [
        ("" if name == before else name, value, count)
        for (name, value, count), before in zip(rows, names, strict=False)
    ]


def _plain(example: Any) -> str:
    return example if isinstance(example, str) else json.dumps(example)
