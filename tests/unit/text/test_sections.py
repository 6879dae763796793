"""Sections of free-text reports: usual headings, line breaks kept or lost, and never a word missing."""

from __future__ import annotations

import json

import pytest

from chexmix_cli.core.text.sections import HEADINGS, Sections, read_sections, split_sections

MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with new onset ascites  // eval for infection

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  None.

 FINDINGS:

 There is no focal consolidation, pleural effusion or pneumothorax.  Bilateral
 findings: none that matter.

 IMPRESSION:

 No acute cardiopulmonary process.
"""


def test_a_hospital_report_is_split():
    sections = read_sections(MIMIC)
    assert sections.preamble == "FINAL REPORT"
    assert sections.technique == "CHEST (PA AND LAT)\nChest PA and lateral"
    assert sections.indication == "___F with new onset ascites  // eval for infection"
    assert sections.comparison == "None."
    assert sections.findings is not None
    assert sections.findings.endswith("findings: none that matter.")
    assert sections.impression == "No acute cardiopulmonary process."


@pytest.mark.parametrize(
    "text",
    [
        "FINDINGS: Clear lungs.\nIMPRESSION: Normal.",
        "Findings: Clear lungs. Impression: Normal.",
        "FINDINGS: Clear lungs. IMPRESSION: Normal.",
        "**Findings:** Clear lungs.\n**Impression:** Normal.",
        "**Findings**: Clear lungs.\n**Impression**\nNormal.",
        "## Findings\nClear lungs.\n## Impression\nNormal.",
        "FINDINGS\nClear lungs.\n\nCONCLUSION\nNormal.",
        "Findings - Clear lungs.\r\nOpinion \N{EN DASH} Normal.",
        "1. Findings: Clear lungs.\n2. Impression: Normal.",
        "FINDINGS :Clear lungs.\nIMPRESSION AND RECOMMENDATIONS:Normal.",
        f"Findings: Clear lungs.{' ' * 32}Impression: Normal.",
    ],
)
def test_usual_spellings_give_the_same_sections(text):
    assert read_sections(text) == Sections(findings="Clear lungs.", impression="Normal.")


def test_lost_line_breaks_and_missing_full_stops():
    sections = read_sections("HISTORY: chest pain COMPARISON: none FINDINGS: Clear. Impression: Normal.")
    assert sections == Sections(indication="chest pain", comparison="none", findings="Clear.", impression="Normal.")


@pytest.mark.parametrize(
    "text",
    [
        "There are two findings: one is old.",
        "The main Impression: still unclear",
        "The main Impression: still unclear.",
        "No findings\nof note.",
        "In summary, comparison is limited by technique.",
        "Stable findings since the last\nexamination\nof the chest.",
    ],
)
def test_words_inside_sentences_are_no_headings(text):
    assert read_sections(text) == Sections(preamble=text)


def test_sections_that_come_twice_are_joined_and_empty_ones_are_none():
    sections = read_sections("IMPRESSION: One.\nFINDINGS:\nIMPRESSION: Two.\nADDENDUM: Three.\nNOTIFICATION: Four.")
    assert sections.impression == "One.\nTwo."
    assert sections.findings is None
    assert sections.others == {"addendum": "Three.", "notification": "Four."}


def test_a_stray_full_stop_ends_a_sentence():
    assert read_sections(". Findings: Clear.") == Sections(preamble=".", findings="Clear.")


def test_a_combined_heading_opens_the_findings():
    assert read_sections("FINDINGS AND IMPRESSION: Clear.") == Sections(findings="Clear.")


def test_an_unknown_heading_stays_in_its_section():
    assert read_sections("FINDINGS:\nHEART: normal.\nLUNGS: clear.").findings == "HEART: normal.\nLUNGS: clear."


def test_an_empty_report_has_no_sections():
    assert read_sections("") == read_sections(" \n") == Sections()


@pytest.mark.parametrize("heading", [heading for headings in HEADINGS.values() for heading in headings])
def test_every_heading_of_the_table_is_found_in_three_spellings(heading):
    section = next(name for name, headings in HEADINGS.items() if heading in headings)
    for written in (heading.upper(), heading.capitalize(), heading.title()):
        assert list(split_sections(f"{written}: words")) == [("preamble", ""), (section, "words")]


def test_nothing_is_lost_from_a_long_report():
    body = " ".join(f"word{number}." for number in range(20_000))
    assert read_sections(f"FINDINGS: {body}").findings == body


def test_real_reports_lose_nothing_and_give_their_own_sections(shared):
    with (shared / "data" / "reports" / "iu_reports.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    names = ("indication", "comparison", "findings", "impression")
    headings = {heading for group in HEADINGS.values() for heading in group}
    equal = 0
    for row in rows:
        text = "\n".join(f"{name.upper()}: {row[name]}" for name in names if row[name])
        end = 0
        for _, body in split_sections(text):
            start = text.index(body, end)
            between = {part.strip().lower() for part in text[end:start].split(":")}
            assert between <= headings | {""}, between
            end = start + len(body)
        assert end == len(text.rstrip())
        sections = read_sections(text)
        equal += all(getattr(sections, name) == ((row[name] or "").strip() or None) for name in names)
    assert equal > 0.995 * len(rows), equal
