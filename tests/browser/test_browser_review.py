"""Going through studies in a real browser: keys, filters, edits, exports, a thousand films."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from PIL import Image

from chexmix_cli.core.present.pages import ReviewStudy, review_page
from tests.browser.conftest import drawn_film
from tests.review_exports import CSV, FINDINGS, JSON_LINES, NASTY, RECORDS

pytestmark = pytest.mark.browser

#: What a page of 1,000 studies is allowed, in seconds.
_MOST_S = 3.0
_CATCH = """(() => {
  window.caught = [];
  URL.createObjectURL = (blob) => { window.caught.push(blob.text()); return "data:,"; };
})()"""


@pytest.fixture
def review(browser, page_of):
    """Return the browser with the page open, nothing decided."""
    browser.open(page_of("review"))
    browser.run("localStorage.clear()")
    browser.reload()
    browser.problems.clear()
    yield browser
    assert browser.problems == []


def shown(browser) -> list[str]:
    return browser.run("view.list.map((study) => study.id)")


def choose(browser, name: str, value: str) -> None:
    browser.run(
        f"(() => {{ const one = byId('{name}'); one.value = {json.dumps(value)};"
        "one.dispatchEvent(new Event(one.type === 'search' ? 'input' : 'change')); })()"
    )


def test_filters_search_and_order(review):
    ids = [*(record["id"] for record in RECORDS), "input 6"]
    assert shown(review) == ids
    for value, expected in (("conflicts", ["=b"]), ("unlike", ["=b"]), ("refused", ["input 6"]), ("accepted", [])):
        choose(review, "filter", value)
        assert shown(review) == expected, value
        assert review.run("byId('grid').children.length") == len(expected)
    choose(review, "filter", "all")
    choose(review, "search", "CLEAR and")
    assert shown(review) == ["'-e"]
    choose(review, "search", "")
    choose(review, "sort", "conflicts")
    assert shown(review)[0] == "=b"
    choose(review, "sort", "id")
    assert shown(review) == sorted(ids)
    choose(review, "sort", "p:Pneumonia")
    assert shown(review)[-1] == "input 6"


def test_decisions_by_key_survive_a_reload_and_leave_as_lines_and_as_a_table(review):
    for key in ("Enter", "a", "j", "e"):
        review.press(key)
    text = json.dumps(NASTY)
    review.run(f"(() => {{ byId('edited').value = {text}; }})()")
    review.run("byId('save').click()")
    for name, value in (("Pneumonia", "1"), ("Pleural Effusion", "0")):
        review.run(
            f"(() => {{ const one = document.querySelector('select[aria-label^=\"{name}:\"]'); one.value = '{value}';"
            "one.dispatchEvent(new Event('change')); })()"
        )
    for key in ("ArrowRight", "r", "j", "a", "u", "j", "a", "j", "a"):
        review.press(key)
    # Opened by its address it may get another process, to which Chromium hands what is stored in its own time.
    review.reload()
    assert "2 accepted \u00b7 1 edited \u00b7 1 rejected \u00b7 1 undecided" in review.run("byId('counts').textContent")
    review.run(_CATCH)
    review.run("byId('export-jsonl').click()")
    review.run("byId('export-csv').click()")
    lines, table = review.run("Promise.all(window.caught)")
    assert lines == JSON_LINES
    # Blob.text() takes the byte order mark for one.
    assert table == CSV.removeprefix("\ufeff")
    assert review.run("new Blob([asCsv(edits.lines(studies))]).arrayBuffer().then((b) => new Uint8Array(b)[0])") == 0xEF


def test_an_edit_is_not_lost_by_accepting_or_taking_back(review):
    review.press("e")
    review.run("(() => { byId('edited').value = 'Other.'; byId('save').click(); })()")
    for key in ("u", "a"):
        review.press(key)
    assert review.run("edits.of(studies[0].id)") == {"report": "Other.", "decision": "edited"}
    review.press("e")
    review.run("(() => { byId('edited').value = studies[0].report; byId('save').click(); })()")
    assert review.run("edits.of(studies[0].id)") == {"decision": "accepted"}


def test_keys_count_as_soon_as_an_edit_is_saved(review):
    """Before the next frame, in which the browser itself takes the focus from the field that is gone."""
    review.press("e")
    focused = review.run("(() => { byId('save').click(); return document.activeElement.tagName; })()")
    assert focused == "BODY"


def test_keys_typed_into_a_field_decide_nothing(review):
    review.press("/")
    for key in "ara":
        review.press(key)
    assert review.run("byId('search').value") == "ara"
    assert review.run("edits.all.size") == 0
    review.press("Escape")
    assert review.run("document.activeElement === byId('search')") is False


def canvas(review) -> np.ndarray:
    review.run("new Promise((done) => setTimeout(done, 150))")
    values = review.run(
        "(() => { const film = byId('film'), copy = document.createElement('canvas');"
        "const context = copy.getContext('2d', { willReadFrequently: true }); copy.width = copy.height = 80;"
        "context.drawImage(film, 40 - film.width / 2, 40 - film.height / 2);"
        "return [...context.getImageData(0, 0, 80, 80).data].filter((_, place) => place % 4 === 0); })()"
    )
    return np.array(values)


def test_the_film_is_zoomed_moved_and_windowed(review):
    review.press("Enter")
    before = canvas(review)
    assert before.std() > 3, "no film is drawn"
    x, y = review.run("(() => { const b = byId('film').getBoundingClientRect(); return [b.x + 90, b.y + 90]; })()")
    review.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-600)
    assert review.run("film.zoom") == pytest.approx(np.exp(0.9), rel=0.01)
    zoomed = canvas(review)
    assert (zoomed != before).mean() > 0.5
    review.drag((int(x), int(y)), (int(x) + 60, int(y) + 30))
    assert (canvas(review) != zoomed).mean() > 0.5
    review.press("0")
    assert (canvas(review) == before).all()
    review.press("w")
    review.drag((int(x), int(y)), (int(x) - 90, int(y) + 30))
    look = review.run("film.look")
    assert (look["width"], look["level"]) == (pytest.approx(195, rel=0.01), pytest.approx(117.5, rel=0.01))
    assert float(review.run("byId('width').value")) == pytest.approx(195, abs=1)
    assert canvas(review).std() > before.std(), "a narrower window shows more contrast"
    review.run("byId('window-reset').click()")
    review.press("i")
    assert canvas(review) == pytest.approx(255 - before, abs=1)


def test_two_fingers_zoom(review):
    review.press("Enter")
    x, y = review.run("(() => { const b = byId('film').getBoundingClientRect(); return [b.x + 150, b.y + 150]; })()")
    for kind, apart in (("touchStart", 20), ("touchMove", 40), ("touchMove", 60)):
        points = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        review.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    review.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert review.run("film.zoom") == pytest.approx(3, rel=0.1)


def test_a_thousand_studies_open_in_time(browser, tmp_path):
    films = [drawn_film(seed, 512, "WEBP") for seed in range(20)]
    trips = [drawn_film(seed, 128, "WEBP") for seed in range(20)]
    report = "FINDINGS: " + "The lungs are clear, and the heart is not enlarged. " * 8
    head = {"probabilities": dict.fromkeys((*FINDINGS, *map(str, range(12))), 0.3)}
    studies = [
        ReviewStudy(
            record={"id": f"study-{number:04d}", "status": "ok", "view": "PA", "report": report, "head": head},
            film=films[number % 20],
            roundtrip=trips[number % 20],
            file=f"{number:04d}.dcm",
        )
        for number in range(1000)
    ]
    page = tmp_path / "thousand.html"
    page.write_text(review_page(studies, model="mini", film_px=512), encoding="utf-8")
    seconds = sorted(browser.open(page) for _ in range(3))
    size_mb = page.stat().st_size / 1e6
    started = time.monotonic()
    browser.run("window.scrollTo(0, document.documentElement.scrollHeight)")
    browser.run("new Promise((done) => setTimeout(done, 500))")
    assert browser.run("cardOf.get(studies[999]).firstChild.complete"), "the last film is not shown"
    scrolled_s = time.monotonic() - started - 0.5
    choose(browser, "search", "study-0999")
    assert shown(browser) == ["study-0999"]
    figures = f"{size_mb:.1f} MB: {', '.join(f'{one:.2f}' for one in seconds)} s; to the end in {scrolled_s:.2f} s"
    print(f"\n1,000 studies, {figures}")
    assert seconds[-1] < _MOST_S, figures
    assert browser.problems == []
    picture = np.asarray(Image.open(browser.picture(tmp_path / "page.png")).convert("L"))
    assert picture.std() > 10


def test_the_keyboard_reaches_everything_and_its_focus_is_seen(review):
    seen = []
    for _ in range(30):
        review.press("Tab")
        seen.append(review.run("document.activeElement.id || document.activeElement.className"))
    assert {"search", "filter", "sort", "export-csv", "study"} <= set(seen)
    assert seen.count("study") <= 3, "one stop for the grid, not one for each study"
    assert review.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
