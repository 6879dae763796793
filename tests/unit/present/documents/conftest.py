"""A record, a film's file and a maker, for every kind of document."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from document_parts import MAKER, RECORD, film_file

from chexmix_cli.core.present.documents.header import Maker, StudyHeader


@pytest.fixture
def study() -> StudyHeader:
    return StudyHeader.of_file(film_file())


@pytest.fixture
def maker() -> Maker:
    return MAKER


@pytest.fixture
def record() -> dict[str, Any]:
    return copy.deepcopy(RECORD)
