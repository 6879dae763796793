"""Pages: the policy names what is in them, every text is escaped, nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from PIL import Image

from chexmix_cli.core.evals.result import Case, Curve, Evaluation, Measurement, Series
from chexmix_cli.core.present.pages import Picture, ReviewStudy, evaluation_page, records_page, review_page
from chexmix_cli.core.present.pages.evaluation import headline_metrics
from chexmix_cli.core.present.picture import MARK

HOSTILE = '</script><img src=x onerror=alert(1)> "&amp; \u2028'
CURVE = Curve(
    name="masking",
    title="AUROC under masking",
    x_label="share",
    y_label="AUROC",
    series=[Series(name="m", x=[0], y=[1])],
)
HEAD = {
    "probabilities": {"Pneumonia": 0.91, HOSTILE: 0.2},
    "threshold": {"Pneumonia": 0.5},
    "validation_auroc": {"Pneumonia": 0.97},
    "agreement": {"Pneumonia": "conflicts"},
}


class Elements(HTMLParser):
    """The elements of a page; every one that opens must close."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def png() -> bytes:
    written = io.BytesIO()
    Image.new("L", (4, 4), 90).save(written, format="PNG")
    return written.getvalue()


def an_evaluation(**changes: Any) -> dict[str, Any]:
    evaluation = Evaluation(
        task="report",
        measurements=[
            Measurement(name="bleu", value=0.25, n=3, fields={"ref": "findings"}, interval=(0.1, 0.4)),
            Measurement(name="green", value=None, n=0, reason=f"no judge {HOSTILE}"),
        ],
        model={"name": HOSTILE},
        curves=[CURVE],
        missing=[{"what": "RadGraph", "reason": "not installed"}],
        failed=[{"id": HOSTILE, "code": "CORRUPT", "message": "cut"}],
    )
    return evaluation.to_dict() | changes


def a_study(study_id: str = "film", **changes: Any) -> ReviewStudy:
    record = {"id": study_id, "status": "ok", "view": "PA", "report": f"FINDINGS: Clear. {HOSTILE}", "notes": [HOSTILE]}
    return ReviewStudy(record=record | changes, film=png(), roundtrip=png(), file=f"{study_id}.png")


REFUSED = {"id": "bad", "status": "error", "error": {"code": "CORRUPT", "message": HOSTILE}}
PAGES = {
    "evaluation": evaluation_page(
        an_evaluation(), [Case(id=HOSTILE, group="worst", texts={"report": HOSTILE}, pictures={"film": png()})],
        {"masking": png()},
    ),
    "records": records_page(
        "classify",
        [{"id": HOSTILE, "status": "ok", "view": "PA", "head": HEAD, "report": HOSTILE, "notes": [HOSTILE],
          "results": [{"rank": 1, "id": "near", "score": 0.5, "report": HOSTILE}]}, REFUSED],
        {HOSTILE: [Picture(HOSTILE, png())]},
        found={"near": png()},
        names={HOSTILE: HOSTILE},
    ),
    "review": review_page(
        [a_study(HOSTILE, head=HEAD, conflicts=[HOSTILE]), ReviewStudy(record=REFUSED, file=HOSTILE)],
        model=HOSTILE, film_px=512,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_every_text_is_escaped_and_nothing_comes_from_elsewhere(name):
    page = PAGES[name]
    assert MARK in page
    assert "<img src=x" not in page
    # The hostile text ends no script: as many script elements as the page has, and all it opens it closes.
    found = Elements(page)
    assert len(found.of("script")) == (2 if name == "review" else 0)
    for tag, attributes in found.found:
        assert not [key for key in attributes if key.startswith("on") or key == "style"], tag
        for key in ("src", "href", "action", "data"):
            assert (attributes.get(key) or "data:").startswith("data:"), tag
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)


@pytest.mark.parametrize("name", PAGES)
def test_the_policy_allows_the_page_its_own_style_and_script_and_no_other(name):
    page = PAGES[name]
    policy = next(one for one in Elements(page).of("meta") if one.get("http-equiv") == "Content-Security-Policy")
    rules = dict(part.split(" ", 1) for part in str(policy["content"]).split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"

    def hashed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert rules["style-src"] == hashed(re.search("<style>(.*?)</style>", page, re.DOTALL)[1])
    script = re.search("<script>(.*?)</script>", page, re.DOTALL)
    assert (rules.get("script-src") == hashed(script[1])) if script else "script-src" not in rules
    assert "unsafe" not in policy["content"]


def test_an_evaluation_opens_with_numbers_plots_and_cases_and_folds_signatures_away():
    page = PAGES["evaluation"]
    order = [
        page.index(text) for text in ("0.25", "AUROC under masking", "worst", "All numbers", "bleu|ref:findings|n:3")
    ]
    assert order == sorted(order)
    folded = page[: page.index("bleu|ref:findings|n:3")]
    assert folded.count("<details") > folded.count("</details")
    assert "0.1 to 0.4" in page
    assert f"no judge {html.escape(HOSTILE)}".replace("&quot;", "&#34;") in page


def test_a_headline_says_what_tells_it_from_others_of_its_name():
    def metric(name: str, **fields: str) -> dict[str, Any]:
        found = {"name": name, "value": 0.5, "interval": None, "n": 3, "fields": fields, "signature": name}
        return found | {"headline": True}

    metrics = [metric("auroc", label="Edema", policy="ones"), metric("auroc", label="Mass", policy="ones")]
    page = evaluation_page(an_evaluation(metrics=[*metrics, metric("bleu", ref="findings")]), [], {})
    headlines = page[: page.index("All numbers")]
    assert "label=Edema" in headlines
    assert "policy=ones" not in headlines
    assert "ref=findings" not in headlines
    assert "policy=ones" in page


def test_headlines_are_the_marked_numbers_else_the_first_that_have_a_value():
    metrics = [{"name": str(number), "value": None if number == 0 else number} for number in range(12)]
    assert [one["name"] for one in headline_metrics(metrics)] == [str(number) for number in range(1, 9)]
    assert headline_metrics([*metrics, {"name": "x", "value": 1, "headline": True}])[0]["name"] == "x"


def test_records_show_findings_by_probability_and_what_failed():
    page = PAGES["records"]
    assert "1 of 2 done" in page
    assert page.index("0.910") < page.index("0.200")
    assert "AUROC in validation 0.97" in page
    assert "CORRUPT" in page
    assert page.count("data:image/png;base64,") == 2


def data_of(page: str) -> dict[str, Any]:
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_a_review_has_everything_a_reader_looks_at():
    data = data_of(PAGES["review"])
    study, refused = data["studies"]
    assert study["id"] == HOSTILE
    assert study["report"] == f"FINDINGS: Clear. {HOSTILE}"
    assert study["conflicts"] == [HOSTILE]
    assert study["findings"][0] == {
        "name": "Pneumonia", "p": 0.91, "threshold": 0.5, "auroc": 0.97, "agreement": "conflicts"
    }  # fmt: skip
    assert study["film"].startswith("data:image/png;base64,")
    assert refused["error"] == REFUSED["error"]
    assert "film" not in refused
    assert "1 with conflicts, 1 refused" in PAGES["review"]


def test_a_film_is_unlike_others_beyond_the_threshold_only():
    pages = [
        a_study("a", typicality={"score": 2.0, "threshold": 1.5}),
        a_study("b", typicality={"score": 1, "threshold": 2}),
    ]
    studies = data_of(review_page(pages, model="m", film_px=64))["studies"]
    assert ["unlike" in study for study in studies] == [True, False]


def test_evidence_is_painted_where_it_is_located_only():
    common = {"text": "Clear.", "drop_blocks": [[0.4]], "text_prior_only": False}
    sentences = [common | {"badge": "rests on the image", "is_located": is_located} for is_located in (True, False)]
    shown = data_of(review_page([a_study(sentences=sentences)], model="m", film_px=64))["studies"][0]["sentences"]
    assert [one["badge"] for one in shown] == ["rests on the image"] * 2
    assert ["blocks" in one for one in shown] == [True, False]


def test_decisions_belong_to_the_drafts_they_were_made_on():
    def key(*studies: ReviewStudy) -> str:
        return data_of(review_page(studies, model="m", film_px=64))["key"]

    assert key(a_study()) == key(a_study())
    assert key(a_study()) != key(a_study(report="other"))


def test_images_of_one_patient_have_one_rank():
    studies = [
        ReviewStudy(record={"id": name, "status": "ok"}, keys={"patient": patient})
        for name, patient in (("a", "p"), ("b", "p"), ("c", None))
    ]
    ranks = [one["rank"] for one in data_of(review_page(studies, model="m", film_px=64))["studies"]]
    assert ranks[0] == ranks[1]
    assert sorted(set(ranks)) == [0, 1]
