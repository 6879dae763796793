"""PS3.3's tables for dicom-validator, from the JSON that highdicom brings: the validator itself would fetch them.

Conditions are not in that JSON: what is conditional may be there or not, whatever else the file says. SR Document
Content is all condition, and contains itself: its macros stand here, written from PS3.3 C.17.3.2 and 8.8.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import highdicom
from dicom_validator.validator.dicom_info import DicomInfo
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import keyword_dict

_TABLES = Path(highdicom.__file__).parent / "_standard"
_ANYHOW = {"type": "U"}
_CODE_SEQUENCE = {
    "CodeValue": "1C",
    "LongCodeValue": "1C",
    "CodingSchemeDesignator": "1",
    "CodingSchemeVersion": "1C",
    "CodeMeaning": "1",
}
_SOP_REFERENCE = {"ReferencedSOPClassUID": "1", "ReferencedSOPInstanceUID": "1"}
#: Value Type -> the attributes that an item of that type has, and no other.
_CONTENT_MACROS: dict[str, dict[str, Any]] = {
    "CONTAINER": {
        "ContinuityOfContent": "1",
        "ContentTemplateSequence": ("1C", {"MappingResource": "1", "TemplateIdentifier": "1"}),
    },
    "TEXT": {"TextValue": "1"},
    "CODE": {"ConceptCodeSequence": ("1", _CODE_SEQUENCE)},
    "UIDREF": {"UID": "1"},
    "IMAGE": {"ReferencedSOPSequence": ("1", _SOP_REFERENCE)},
    "NUM": {
        "MeasuredValueSequence": (
            "2",
            {
                "NumericValue": "1",
                "FloatingPointValue": "1C",
                "MeasurementUnitsCodeSequence": ("1", _CODE_SEQUENCE),
            },
        )
    },
}


@cache
def modules_of(iod: str) -> dict[str, str]:
    """Return the modules of an IOD and their usage: M, C or U."""
    return {module["key"]: module["usage"] for module in _read("iod_module_map")[iod]}


@cache
def attributes_of(module: str) -> dict[str, str]:
    """Return the attributes of a module, outside of sequences, and their types."""
    return {row["keyword"]: row["type"] for row in _read("module_attribute_map")[module] if not row["path"]}


@cache
def dicom_info(sop_class: str) -> DicomInfo:
    """Return what the validator has to know to check files of one class."""
    iod = _read("sop_class_iod_map")[sop_class]
    usages = modules_of(iod)
    modules = {
        key: {"ref": key, "use": usage} | ({"cond": _ANYHOW} if usage == "C" else {}) for key, usage in usages.items()
    }
    trees = {key: _tree(key) for key in usages} | {name: _rows(rows) for name, rows in _CONTENT_MACROS.items()}
    if "sr-document-content" in usages:
        trees |= {"sr-document-content": _content_item({}), "item": _content_item({"RelationshipType": "1"})}
    return DicomInfo(
        {_tag(tag): {"name": row[2], "vr": row[0]} for tag, row in DicomDictionary.items()},
        {sop_class: {"title": iod, "modules": modules, "group_macros": {}}},
        trees,
    )


def _content_item(more: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a content item, the macro of its value type and further items included."""
    value_type = {"index": 0, "tag": _tag(keyword_dict["ValueType"])}
    item = _rows({**more, "ValueType": "1", "ConceptNameCodeSequence": ("1C", _CODE_SEQUENCE)})
    # All but a reference has to be named (C.17.3.2.2).
    named = {**value_type, "type": "MU", "op": "!=", "values": ["IMAGE", "CONTAINER"]}
    item[_tag(keyword_dict["ConceptNameCodeSequence"])]["cond"] = named
    item[_tag(keyword_dict["ContentSequence"])] = {
        "name": "ContentSequence", "type": "1C", "cond": _ANYHOW, "items": {"include": [{"ref": "item"}]},
    }  # fmt: skip
    item["include"] = [
        {"ref": name, "cond": {**value_type, "type": "MN", "op": "=", "values": [name]}} for name in _CONTENT_MACROS
    ]
    return item


def _rows(rows: dict[str, Any]) -> dict[str, Any]:
    """Return rows of a table, keyword to type or to type and the rows of its items, as the validator has them."""
    found = {}
    for keyword, row in rows.items():
        kind, items = row if isinstance(row, tuple) else (row, None)
        entry: dict[str, Any] = {"name": keyword, "type": kind}
        entry |= {"cond": _ANYHOW} if kind.endswith("C") else {}
        found[_tag(keyword_dict[keyword])] = entry | ({} if items is None else {"items": _rows(items)})
    return found


def _tree(module: str) -> dict[str, Any]:
    """Return a module's attributes by tag, those of sequences inside them."""
    root: dict[str, Any] = {}
    for row in _read("module_attribute_map")[module]:
        level = root
        for keyword in row["path"]:
            level = level.setdefault(_tag(keyword_dict[keyword]), {}).setdefault("items", {})
        if row["keyword"] in keyword_dict:
            entry = level.setdefault(_tag(keyword_dict[row["keyword"]]), {})
            entry |= {"name": row["keyword"], "type": row["type"]}
            entry |= {"cond": _ANYHOW} if row["type"].endswith("C") else {}
    return root


def _tag(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


@cache
def _read(name: str) -> Any:
    return json.loads((_TABLES / f"{name}.json").read_text(encoding="utf-8"))
