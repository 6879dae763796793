"""The page of an evaluation in a real browser; `make browser`, outside `make test` because it needs Chromium."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.browser

#: Runs when everything is loaded and leaves what it saw in the document, where --dump-dom shows it.
_PROBE = """<script>window.addEventListener('load', () => {
  const images = [...document.images].map(i => i.naturalWidth);
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  const loaded = performance.getEntriesByType('resource').map(r => r.name).filter(n => !n.startsWith('data:'));
  const rows = document.querySelectorAll('tbody tr').length;
  const seen = {images, wide, loaded, rows, title: document.title, quirks: document.compatMode};
  document.body.dataset.seen = JSON.stringify(seen);
});</script>"""


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on PATH (Debian: apt install chromium)")
    return found


@pytest.fixture(scope="session")
def page(tmp_path_factory) -> Path:
    """Return the page that a real command writes: inpainting of a few films with the embedded model."""
    from chexmix_cli.__main__ import run

    folder = tmp_path_factory.mktemp("browser")
    rng = np.random.default_rng(0)
    lines = []
    for index in range(4):
        y, x = np.mgrid[0:160, 0:160] / 160
        centre = rng.uniform(0.3, 0.7, 2)
        values = 60 + 120 * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 0.1)
        Image.fromarray(values.astype(np.uint8)).save(folder / f"{index}.png")
        lines.append(
            json.dumps({"id": f"film<{index}>", "file": f"{index}.png", "split": "val", "patient": str(index)})
        )
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    target = folder / "page.html"
    code = run(
        ["evaluate", "inpainting", "--manifest", str(folder / "manifest.jsonl"), "--mask-ratio", "0.2,0.5"]
        + ["--patterns", "random,block", "--html", str(target), "-o", str(folder / "result.json"), "--quiet"]
    )
    assert code == 0
    return target


def browse(chromium: str, page: Path, folder: Path, width: int) -> dict:
    """Open the page at a width, save a screenshot beside it, return what the probe saw."""
    probed = folder / f"probed-{width}.html"
    probed.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{_PROBE}</body>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--disable-quic", f"--user-data-dir={folder / 'profile'}"]
    flags += [f"--window-size={width},1400", "--virtual-time-budget=4000"]
    shot = folder / f"page-{width}.png"
    subprocess.run(
        [chromium, *flags, f"--screenshot={shot}", f"file://{probed}"], check=True, capture_output=True, timeout=120
    )
    done = subprocess.run(
        [chromium, *flags, "--dump-dom", f"file://{probed}"], check=True, capture_output=True, text=True, timeout=120
    )
    seen = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert seen is not None, "the page did not load to its end"
    return json.loads(html.unescape(seen[1]))


@pytest.mark.parametrize("width", [420, 1280])
def test_the_page_shows_everything_at_any_width_and_loads_nothing(chromium, page, tmp_path, width):
    seen = browse(chromium, page, tmp_path, width)
    assert seen["title"] == "chexmix evaluation: inpainting"
    assert seen["quirks"] == "CSS1Compat"
    assert seen["loaded"] == []
    assert seen["images"]
    assert min(seen["images"]) > 0, "a picture is broken"
    assert seen["rows"] > 8
    assert not seen["wide"], "the page scrolls sideways"
    picture = np.asarray(Image.open(tmp_path / f"page-{width}.png").convert("L"))
    assert picture.std() > 10, "the screenshot is blank"
    print(f"screenshot: {tmp_path / f'page-{width}.png'}")
