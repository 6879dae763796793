"""Files that lie on purpose are refused with the reason, in little memory, and docs/robustness.md says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from film_lies import LIES as FILM_LIES
from lies import HEAD, MOST_MIB, answer, forget_sound_files, row
from stored_lies import LIES as STORED_LIES

LIES = (*STORED_LIES, *FILM_LIES)
pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is bounded through /proc")


@pytest.fixture(scope="module", autouse=True)
def sound_files():
    yield
    forget_sound_files()


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: f"{lie.file}, {lie.lie}")
def test_a_lie_is_refused_with_the_reason_and_in_little_memory(lie, tmp_path):
    found = answer(lie, tmp_path)
    assert found.code == lie.code, found
    assert lie.said in found.message
    assert found.mib < lie.most_mib <= MOST_MIB
    assert not Path("/tmp/chexmix-was-here").exists(), "a pickle ran"


def test_the_page_has_every_lie(repository):
    page = (repository / "docs" / "robustness.md").read_text(encoding="utf-8")
    assert HEAD in page
    missing = [row(lie) for lie in LIES if row(lie) not in page]
    assert not missing, "python tests/fuzz --lies"
