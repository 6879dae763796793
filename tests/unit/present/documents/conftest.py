"""A record, a film's file and a maker, for every kind of document."""

from __future__ import annotations

from typing import Any

import pytest
from document_parts import FINDINGS, IMPRESSION, film_file

from chexmix_cli.core.present.documents.header import Maker, StudyHeader


@pytest.fixture
def study() -> StudyHeader:
    return StudyHeader.of_file(film_file())


@pytest.fixture
def maker() -> Maker:
    return Maker(model="chexmix-mini", weights_hash="ab" * 32)


@pytest.fixture
def record() -> dict[str, Any]:
    """Return a record as ``generate-report`` writes it, of the fields that documents read."""
    return {
        "id": "case 1",
        "status": "ok",
        "view": "PA",
        "report": f"FINDINGS: {FINDINGS}\nIMPRESSION: {IMPRESSION}",
        "sections": {"findings": FINDINGS, "impression": IMPRESSION},
        "head": {
            "probabilities": {"Pneumonia": 0.9912717160690142, "Edema": 0.043999663854906064},
            "threshold": {"Pneumonia": 0.5884132981300354, "Edema": 0.24426625669002533},
            "agreement": {"Pneumonia": "agrees", "Edema": "silent"},
        },
        "finish": "next_image",
        "mark": "AI-generated, preliminary, unverified; not for clinical use",
    }
