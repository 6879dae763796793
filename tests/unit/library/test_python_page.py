"""The Python of docs/python.md and of the README runs as it stands there, in order, in one process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import chexmix_cli as chexmix


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with the films that the pages name."""
    folder = tmp_path / "films"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for name in ("first.png", "second.png"):
        ramp = np.linspace(20, 220, 160)[:, None] + np.linspace(-20, 20, 128)[None, :]
        Image.fromarray((ramp + rng.normal(0, 6, ramp.shape)).clip(0, 255).astype(np.uint8)).save(folder / name)
    (tmp_path / "notes.txt").write_text("no film")
    monkeypatch.chdir(tmp_path)
    return folder


def blocks(page: Path) -> str:
    found = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no Python"
    return "\n".join(found)


@pytest.mark.parametrize("page", ["docs/python.md", "README.md"])
def test_the_python_of_a_page_runs(page, repository, films, capsys):
    exec(compile(blocks(repository / page), page, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


def test_importing_the_library_loads_no_torch():
    code = "import sys, chexmix_cli as c; c.studies, c.DataError, c.Failure; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_public_name_is_there_and_has_a_docstring():
    for name in chexmix.__all__:
        found = getattr(chexmix, name)
        assert name == "__version__" or found.__doc__, name
    assert set(chexmix.__all__) <= set(dir(chexmix))
    with pytest.raises(AttributeError, match="no_such_name"):
        chexmix.no_such_name  # noqa: B018
