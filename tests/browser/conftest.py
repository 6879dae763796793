"""Chromium, and the pages that are opened in it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.present.pages import Picture, ReviewStudy, records_page, review_page
from tests.browser.devtools import Browser
from tests.review_exports import FILES, FINDINGS, NASTY, RECORDS


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Browser]:
    """Return Chromium with one tab, or skip where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on PATH (Debian: apt install chromium)")
    with Browser(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


def drawn_film(seed: int, size: int, kind: str = "PNG") -> bytes:
    """Return a picture as busy as a film: a soft body, and grain that does not pack away."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    body = 60 + 120 * np.exp(-((y - rng.uniform(0.3, 0.7)) ** 2 + (x - rng.uniform(0.3, 0.7)) ** 2) / 0.1)
    written = io.BytesIO()
    grain = rng.normal(0, 6, (size, size))
    Image.fromarray((body + grain).clip(0, 255).astype(np.uint8)).save(written, format=kind, quality=75)
    return written.getvalue()


def evaluation(folder: Path) -> Path:
    """Return the page of a real evaluation: inpainting of a few films with the embedded model."""
    from chexmix_cli.__main__ import run

    lines = []
    for index in range(4):
        (folder / f"{index}.png").write_bytes(drawn_film(index, 160))
        lines.append(
            json.dumps({"id": f"film<{index}>", "file": f"{index}.png", "split": "val", "patient": str(index)})
        )
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    target = folder / "evaluation.html"
    code = run(
        ["evaluate", "inpainting", "--manifest", str(folder / "manifest.jsonl"), "--mask-ratio", "0.2,0.5"]
        + ["--patterns", "random,block", "--html", str(target), "-o", str(folder / "result.json"), "--quiet"]
    )
    assert code == 0
    return target


def records(folder: Path) -> Path:
    """Return a page of records, with texts that would be markup."""
    shown = [
        {"id": f"film <{index}>", "status": "ok", "view": "PA", "report": NASTY, "notes": [NASTY],
         "head": {"probabilities": FINDINGS, "threshold": dict.fromkeys(FINDINGS, 0.5)},
         "a long name without any blank in it": "x" * 200} for index in range(5)
    ]  # fmt: skip
    failed = {"id": "bad", "status": "error", "error": {"code": "CORRUPT", "message": NASTY}}
    pictures = {str(one["id"]): [Picture("film", drawn_film(1, 96))] * 2 for one in shown}
    page = folder / "records.html"
    page.write_text(records_page("classify", [*shown, failed], pictures), encoding="utf-8")
    return page


def review(folder: Path) -> Path:
    """Return a page to review, with what speaks against the drafts, and a refused file."""
    head = {"probabilities": FINDINGS, "threshold": dict.fromkeys(FINDINGS, 0.5)}
    head["agreement"] = {"Pneumonia": "conflicts"}
    sentence = {"text": "Opacity, right.", "badge": "rests on the image (0.41 nats)", "text_prior_only": False}
    sentences = [sentence | {"drop_blocks": [[0, 0.4], [0, 0]], "is_located": True}]
    common = {"status": "ok", "view": "PA", "notes": [NASTY], "head": head}
    extra = {"=b": {"conflicts": [NASTY], "sentences": sentences, "typicality": {"score": 3.0, "threshold": 1.0}}}
    studies = [
        ReviewStudy(
            record={**common, **record, **extra.get(record["id"], {})},
            film=drawn_film(number, 256),
            roundtrip=drawn_film(number, 64),
            file=FILES[record["id"]],
        )
        for number, record in enumerate(RECORDS)
    ]
    refused = {"id": "input 6", "status": "error", "error": {"code": "CORRUPT", "message": NASTY}}
    page = folder / "review.html"
    studies.append(ReviewStudy(record=refused, file="broken.dcm"))
    page.write_text(review_page(studies, model="mini", film_px=256), encoding="utf-8")
    return page


@pytest.fixture(scope="session")
def page_of(tmp_path_factory) -> Callable[[str], Path]:
    """Return what makes a page of a kind, once."""
    makers = {make.__name__: make for make in (evaluation, records, review)}
    return lru_cache(lambda name: makers[name](tmp_path_factory.mktemp(name)))
