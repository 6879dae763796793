"""Template reports say what the labels say, and no more: judged by a reader of their text that is written apart."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from chexmix_cli.core.errors import DataError
from chexmix_cli.core.text import phrases
from chexmix_cli.core.text.labelling.labeller import label_report
from chexmix_cli.core.text.places import SIDES, ZONES, Place
from chexmix_cli.core.text.templates import UNIVERSES, write_report

#: finding -> how a reader recognises that a sentence speaks of it.
MENTIONS = {
    "Atelectasis": r"atelecta|loss of lung volume|volume loss",
    "Cardiomegaly": r"cardiomegaly|cardiac|heart",
    "Effusion": r"effusion|fluid",
    "Infiltration": r"infiltrat",
    "Mass": r"\bmass",
    "Nodule": r"nodul",
    "Pneumonia": r"pneumonia",
    "Pneumothorax": r"pneumothorax|pleural air|air in the pleural",
    "Consolidation": r"consolidat",
    "Edema": r"edema",
    "Emphysema": r"emphysem",
    "Fibrosis": r"fibro",
    "Pleural_Thickening": r"thickening",
    "Hernia": r"hernia",
    "COVID-19": r"covid",
    "Bacterial": r"bacterial",
    "Viral": r"viral",
}
DENIAL = re.compile(r"\bno\b|\bnot enlarged|heart size is (normal|within)|size is (normal|within)|normal (in )?size")
DENIAL_MORE = re.compile(r"of normal size|silhouette is (normal|not)\b|spaces are free")
UNSAYABLE = re.compile(
    r"\b(left|right|bilateral|upper|lower|middle|lobe|basal|apical|tube|catheter|line|pacemaker|wires?|mm|cm|prior|"
    r"previous|compar\w+|interval|new|increas(ing)|unchanged|stable|improv\w+|worsen\w+|mild|moderate|severe|small|large|"
    r"today|he|she|male|female|year|portable)\b|\d(?<!COVID-1)(?<!COVID-19)",
    re.IGNORECASE,
)
SINGLES = [
    (name, (finding,))
    for name, universe in UNIVERSES.items()
    for finding in sorted(universe - {"Bacterial", "Viral", "Lung Opacity"})
    if name != "rsna_normal" or finding == "No Finding"
]
PAIRS = [("nih14", pair) for pair in itertools.combinations(sorted(UNIVERSES["nih14"] - {"No Finding"}), 2)]
CASES = [*SINGLES, *PAIRS, ("kermany", ("Pneumonia", "Bacterial")), ("kermany", ("Pneumonia", "Viral")),
         ("nih14", ("Atelectasis", "Cardiomegaly", "Edema", "Effusion", "Nodule", "Pneumonia"))]  # fmt: skip


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=\.) ", text) if part]


def readings(text: str) -> tuple[set[str], set[str]]:
    """Return the findings a text states and those it denies, by key words."""
    stated, denied = set(), set()
    for sentence in sentences(text.lower()):
        named = {finding for finding, words in MENTIONS.items() if re.search(words, sentence)}
        (denied if DENIAL.search(sentence) or DENIAL_MORE.search(sentence) else stated).update(named)
    return stated, denied


def reports(name: str, labels: tuple[str, ...], count: int = 40):
    for seed in range(count):
        view, age_group = (("PA", "adult"), ("AP", "child"), (None, None), ("AP", None))[seed % 4]
        age_group = "child" if name == "kermany" and age_group else age_group
        yield write_report(
            labels, universe=UNIVERSES[name], view=view, age_group=age_group, rng=random.Random(f"{name}{labels}{seed}")
        )


@pytest.mark.parametrize(
    ("name", "labels"), CASES, ids=lambda value: value if isinstance(value, str) else "+".join(value)
)
def test_a_report_states_its_labels_and_denies_only_what_the_source_looked_for(name, labels):
    absent = UNIVERSES[name] - set(labels)
    for findings, impression in reports(name, labels):
        for text in (findings, impression):
            stated, denied = readings(text)
            assert stated == set(labels) - {"No Finding"}, text
            assert denied <= absent - {"Bacterial", "Viral"}, text
        assert not UNSAYABLE.search(f"{findings} {impression}"), f"{findings} {impression}"


@pytest.mark.parametrize(("name", "labels"), CASES[::7], ids=str)
def test_a_report_is_well_formed(name, labels):
    for findings, impression in reports(name, labels):
        assert 2 <= len(sentences(findings)) <= 6, findings
        assert 1 <= len(sentences(impression)) <= 2, impression
        for sentence in [*sentences(findings), *sentences(impression)]:
            assert re.fullmatch(r"[A-Z][\w ,'-]*\.", sentence), sentence
            assert "  " not in sentence
            assert " ," not in sentence
            assert not re.search(r"\b(\w+) \1\b", sentence), sentence


def test_the_reader_of_these_tests_sees_an_unsupported_statement():
    assert readings("Chest radiograph. There is no effusion. Cardiomegaly.") == ({"Cardiomegaly"}, {"Effusion"})
    for text in ("Opacity in the left lung.", "A 3 cm mass.", "Unchanged effusion."):
        assert UNSAYABLE.search(text)
    assert not UNSAYABLE.search("COVID-19.")


def test_the_same_random_state_gives_the_same_report_and_others_differ():
    def write(seed: int) -> tuple[str, str]:
        return write_report(
            ["Pneumonia", "Effusion"],
            universe=UNIVERSES["nih14"],
            view="PA",
            age_group="adult",
            rng=random.Random(seed),
        )

    assert write(5) == write(5)
    assert len({write(seed) for seed in range(200)}) > 190


def test_label_order_does_not_matter():
    one, other = (
        write_report(labels, universe=UNIVERSES["nih14"], view="PA", age_group=None, rng=random.Random(1))
        for labels in (["Edema", "Mass"], ["Mass", "Edema"])
    )
    assert one == other


def test_view_and_age_are_stated_only_when_known():
    def openings(view: str | None, age_group: str | None) -> list[str]:
        universe = UNIVERSES["kermany"]
        return [
            write_report(["No Finding"], universe=universe, view=view, age_group=age_group, rng=random.Random(seed))[0]
            for seed in range(100)
        ]

    known, unknown = openings("AP", "child"), openings(None, None)
    view, age = re.compile(r"\bAP\b|nteroposterior"), re.compile(r"child|ediatric")
    assert 50 < sum(bool(view.search(text)) for text in known) < 100
    assert 20 < sum(bool(age.search(text)) for text in known) < 80
    assert not any(view.search(text) or age.search(text) or "PA" in text for text in unknown)


@pytest.mark.parametrize(
    ("labels", "universe", "view", "message"),
    [
        ([], "nih14", None, "expected findings"),
        (["No Finding", "Mass"], "nih14", None, "alone"),
        (["Effusion"], "kermany", None, "'Effusion' is not among the source's"),
        (["Viral"], "kermany", None, "beside Pneumonia"),
        (["Pneumonia", "Viral", "Bacterial"], "kermany", None, "at most one cause"),
        (["Pneumonia"], "kermany", "LL", "view 'LL'; expected PA, AP, LATERAL"),
    ],
)
def test_what_cannot_be_written_is_refused(labels, universe, view, message):
    with pytest.raises(DataError, match=message):
        write_report(labels, universe=UNIVERSES[universe], view=view, age_group=None, rng=random.Random(0))


def test_a_finding_without_wording_is_refused():
    with pytest.raises(DataError, match="no wording for finding 'Fracture'"):
        write_report(["Mass"], universe={"Mass", "Fracture"}, view=None, age_group=None, rng=random.Random(0))


def test_every_phrase_has_balanced_choices():
    frames = [value for value in vars(phrases).values() if isinstance(value, tuple)]
    texts = [text for group in frames for text in group if isinstance(text, str)]
    texts += [text for wording in phrases.WORDINGS.values() for text in (*wording.present, *wording.absent_sentences)]
    assert len(texts) > 60
    for text in texts:
        assert text.count("[") == text.count("]"), text


ADULT = sorted(UNIVERSES["rsna_normal"])
CLAIM_OPACITY = {"Pneumonia", "Consolidation", "Infiltration"}


def film(seed: int):
    """Return labels, universe, places and generator of an adult film of which experts and texts know something each."""
    rng = random.Random(f"film {seed}")
    findings = [name for name in ADULT if name not in ("No Finding", "Lung Opacity")]
    opacity = rng.choice((1, 0, None))
    labels = set(rng.sample(findings, rng.choice((0, 1, 2, 3, 5))))
    unknown = set(rng.sample(findings, 2)) - labels
    if opacity == 1:
        labels.add("Lung Opacity")
    elif opacity == 0:
        unknown |= labels & CLAIM_OPACITY
        labels -= CLAIM_OPACITY
    if opacity is None:
        unknown.add("Lung Opacity")
        labels = labels or {"No Finding"}
    elif not labels and rng.random() < 0.7:
        unknown |= set(rng.choice(((), ("No Finding",))))
    elif not labels:
        labels = {"No Finding"}
    everywhere = [Place(side, zone) for side in SIDES for zone in ZONES]
    places = {name: rng.sample(everywhere, rng.choice((1, 1, 2, 3))) for name in sorted(labels) if rng.random() < 0.4}
    return labels, set(ADULT) - unknown, places, rng


def write_film(seed: int):
    labels, universe, places, rng = film(seed)
    view, age_group = rng.choice(("PA", "AP", None)), rng.choice(("adult", None))
    texts = write_report(labels, universe=universe, view=view, age_group=age_group, rng=rng, places=places)
    return labels, universe, places, *texts


def test_findings_and_impression_are_read_as_labelled_and_never_contradict_each_other():
    for seed in range(500):
        labels, universe, _, findings, impression = write_film(seed)
        whole = label_report(f"FINDINGS: {findings}\nIMPRESSION: {impression}", ADULT)
        said, concluded = label_report(findings, ADULT), label_report(impression, ADULT)
        assert {name for name in universe if whole[name] == 1} == labels, (labels, findings, impression)
        assert -1 not in whole.values(), (findings, impression)
        # A pneumonia is told from an opacity, an infiltrate is one: what is not labelled may be read, not the contrary.
        extra = {name for name, label in whole.items() if label == 1} - labels
        assert extra <= ({"Lung Opacity", "No Finding"} - universe), (labels, findings, impression)
        for name in set(ADULT) - {"No Finding"}:
            assert {said[name], concluded[name]} != {0, 1}, (name, findings, impression)


def test_a_film_without_opacity_of_which_nothing_else_is_known_is_not_called_normal():
    seen = set()
    for seed in range(200):
        known = ("No Finding", "Lung Opacity", "Effusion") if seed % 2 else ("Lung Opacity", "Effusion")
        text = ["FINDINGS: {}\nIMPRESSION: {}".format(*write_report(
            [], universe=known, view="PA", age_group=None, rng=random.Random(seed)))][0]  # fmt: skip
        assert label_report(text, ["Lung Opacity"]) == {"Lung Opacity": 0}, text
        assert not re.search(r"(?<!not )normal|unremarkable|clear|no acute", text.lower().replace("abnormal", "")), text
        seen.add((seed % 2, label_report(text, ["No Finding"])["No Finding"]))
    assert seen == {(1, 0), (0, 1)}


def read_places(text: str) -> set[Place]:
    """Return every place a text names, apart from the writer's own code."""
    found = set()
    for part in re.findall(r"in ((?:the|both) (?:[a-z]+,? )*?(?:zones?(?: of both lungs)?|lung)(?: and the [a-z ,]+?"
                           r"(?:zones?|lung))?)", text):  # fmt: skip
        named = [(side, zones) for side, zones in re.findall(r"(right|left) ((?:(?:upper|mid|lower|and)[ ,]*)+)", part)]
        for side, zones in named or [(side, part) for side in SIDES]:
            found |= {Place(side, zone) for zone in ZONES if zone in zones}
    return found


def test_places_are_named_as_given_and_never_otherwise():
    told = 0
    for seed in range(500):
        _, _, places, findings, impression = write_film(seed)
        expected = {place for name, where in places.items() if name not in phrases.UNPLACED for place in where}
        if "No Finding" in places:
            expected = set()
        assert read_places(findings) == expected, (places, findings)
        assert read_places(impression) <= expected, (places, impression)
        assert ("bilateral" not in findings.lower()) or {place.side for place in expected} == set(SIDES), findings
        told += bool(expected)
        if not expected:
            assert not UNSAYABLE.search(f"{findings} {impression}"), findings
    assert told > 150


@pytest.mark.parametrize("age_group", ["adult", None, "child"])
def test_only_a_childs_pneumonia_has_a_cause(age_group):
    for cause in ("Bacterial", "Viral"):
        for seed in range(100):
            rng = random.Random(seed)
            arguments = {"universe": UNIVERSES["kermany"], "view": "AP", "age_group": age_group, "rng": rng}
            if age_group == "adult":
                with pytest.raises(DataError, match="children's films"):
                    write_report(["Pneumonia", cause], **arguments)
            else:
                assert cause.lower() in " ".join(write_report(["Pneumonia", cause], **arguments)).lower()
    for seed in range(300):
        assert not re.search("bacterial|viral", " ".join(write_film(seed)[-2:]).lower())
