"""Every page in a real browser; `make browser`, outside `make test` because it needs Chromium."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.browser

_SEEN = """(() => {
  const root = document.documentElement;
  return {
    wide: root.scrollWidth - root.clientWidth,
    broken: [...document.images].filter((one) => one.src && one.complete && !one.naturalWidth).length,
    images: document.images.length,
    quirks: document.compatMode,
    markup: document.querySelectorAll("main b b, img[onerror]").length,
    small: [...document.querySelectorAll("button, select, input")]
      .filter((one) => one.offsetWidth && one.offsetHeight < 24 && one.type !== "range").length,
  };
})()"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("name", ["evaluation", "records", "review"])
def test_a_page_is_whole_at_any_width_asks_for_nothing_and_says_nothing_on_the_console(
    browser, page_of, tmp_path, name, width, dark
):
    browser.problems.clear()
    browser.open(page_of(name), width=width, dark=dark)
    views = (
        ["undefined"] if name != "review" else ["undefined", "open(1)", "document.querySelector('.sentence').click()"]
    )
    for view in views:
        browser.run(view)
        seen = browser.run(_SEEN)
        assert seen["wide"] <= 0, "the page scrolls sideways"
        assert (seen["broken"], seen["quirks"], seen["markup"], seen["small"]) == (0, "CSS1Compat", 0, 0)
        assert seen["images"] or view != "undefined"
        # The canvas is drawn when its picture is decoded.
        browser.run("new Promise((done) => setTimeout(done, 200))")
        picture = np.asarray(Image.open(browser.picture(tmp_path / "page.png")).convert("L")).astype(int)
        assert picture.std() > 10, "the page is blank"
        assert (np.median(picture) < 100) == dark, "the page is not in the colours that were asked for"
    assert browser.problems == []
    assert browser.requests == []


@pytest.mark.parametrize("name", ["evaluation", "records", "review"])
def test_a_script_that_was_not_there_when_the_page_was_made_does_not_run(browser, page_of, tmp_path, name):
    changed = tmp_path / "changed.html"
    page = page_of(name).read_text(encoding="utf-8")
    changed.write_text(page.replace("</main>", "<script>window.ran = 1</script></main>"), encoding="utf-8")
    browser.open(changed)
    assert browser.run("window.ran") is None
    assert any("Content Security Policy" in problem for problem in browser.problems)
    browser.problems.clear()
