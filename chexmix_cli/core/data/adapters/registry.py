"""The kinds of data sets that ``chexmix data import`` knows. One table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chexmix_cli.core.data.adapters.datasets import (
    chexpert,
    chexpert_plus,
    mimic,
    nih14,
    openi,
    padchest,
    plain,
    r2gen,
    rexgradient,
)
from chexmix_cli.core.data.adapters.entry import Entry, Rejection
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.datasets import (
    ChexpertPlusImport,
    ImportSettings,
    ListedImport,
    MimicImport,
    TableImport,
)
from chexmix_cli.core.settings.load import nearest_hint


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of data set.

    Attributes:
        title: for people.
        settings: the settings root of its import.
        read: gives its images, from the data set's folder and the settings.
    """

    title: str
    settings: type[ImportSettings]
    read: Callable[[Path, Any], Iterator[Entry | Rejection]]


KINDS: Mapping[str, Kind] = {
    "mimic-cxr": Kind("MIMIC-CXR, DICOM", MimicImport, mimic.read_dicom),
    "mimic-cxr-jpg": Kind("MIMIC-CXR-JPG", MimicImport, mimic.read_jpg),
    "chexpert": Kind("CheXpert", ImportSettings, chexpert.read),
    "chexpert-plus": Kind("CheXpert Plus", ChexpertPlusImport, chexpert_plus.read),
    "rexgradient": Kind("ReXGradient-160K", ImportSettings, rexgradient.read),
    "padchest": Kind("PadChest", ListedImport, padchest.read),
    "openi": Kind("Open-i / Indiana University", ListedImport, openi.read),
    "nih14": Kind("NIH ChestX-ray14", ImportSettings, nih14.read),
    "r2gen": Kind("R2Gen's annotation.json", ImportSettings, r2gen.read),
    "folder": Kind("images and a CSV of your own", TableImport, plain.read),
}


def kind_of(name: str) -> Kind:
    """Return a kind by name.

    Raises:
        SettingsError: if there is none; the message lists them.
    """
    if name not in KINDS:
        hint = nearest_hint(name, KINDS)
        raise SettingsError(f"unknown kind of data set {name!r}", where="KIND", expected=", ".join(KINDS), hint=hint)
    return KINDS[name]
