"""Wording of the template reports: our own sentences, as data. ``templates.py`` chooses among them.

``[a|b]`` is a choice, nestable, either side may be empty. ``{np}``, ``{a}``, ``{b}``, ``{view}``, ``{adjective}`` and
``{patient}`` are filled in by the writer. No phrase names a side, a place, a size, a device, a severity or an earlier
study: labels say none of these. Sides and zones come from boxes alone, in the words of ``places.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NO_FINDING = "No Finding"
#: What radiologists of the RSNA set were asked for: opacity that may be a pneumonia. NIH's labels have no such finding.
LUNG_OPACITY = "Lung Opacity"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wording:
    """How one finding is spoken of.

    Attributes:
        nouns: bare singular noun phrases, fit for every frame and for lists.
        present: whole sentences that state it, beside the frames.
        own: share of its statements that use ``present`` rather than a frame.
        absent: noun phrases for "No ...", or empty when its absence is said by ``absent_sentences`` alone.
        absent_sentences: whole sentences that deny it.
        weight: how often its absence is worth a word, 0 never.
        hidden_by: findings beside which denying it would read as a contradiction.
    """

    nouns: tuple[str, ...]
    present: tuple[str, ...] = ()
    own: float = 0.4
    absent: tuple[str, ...] = ()
    absent_sentences: tuple[str, ...] = ()
    weight: float = 0.0
    hidden_by: frozenset[str] = frozenset()


LIKELY = "[consistent with|compatible with|in keeping with|suggestive of|suspicious for]"
OPACITY = "[airspace|pulmonary|parenchymal|lung] [opacity|opacification]"
SEEN = "[seen|present|noted|identified|demonstrated|visible]"

_OPACITIES = frozenset(
    {LUNG_OPACITY, "Pneumonia", "Consolidation", "Infiltration", "Edema", "Atelectasis", "Mass", "Fibrosis"}
)
#: Findings that a box says nothing of that a reader would: the heart has one place, a hernia is in no lung.
UNPLACED = frozenset({"Cardiomegaly", "Hernia"})

WORDINGS: Mapping[str, Wording] = {
    "Atelectasis": Wording(
        nouns=("atelectasis", "atelectatic change", "volume loss from atelectasis"),
        present=("[Loss of lung volume|Volume loss] is " + SEEN + ", " + LIKELY + " atelectasis.",),
        absent=("atelectasis",),
        weight=0.5,
        hidden_by=_OPACITIES,
    ),
    "Cardiomegaly": Wording(
        nouns=("cardiomegaly", "enlargement of the cardiac silhouette", "cardiac enlargement"),
        present=(
            "[The heart|The cardiac silhouette|The heart shadow] is enlarged.",
            "[Heart size|Cardiac size] is [increased|above normal].",
        ),
        absent=("cardiomegaly", "cardiac enlargement"),
        absent_sentences=(
            "[The heart|The cardiac silhouette] is [normal in size|of normal size|not enlarged].",
            "[Heart size|Cardiac size|The heart size] is [normal|within normal limits].",
        ),
        weight=1.6,
    ),
    "Effusion": Wording(
        nouns=("pleural effusion", "pleural fluid", "pleural effusion"),
        present=("Fluid is " + SEEN + " in the pleural space.",),
        absent=("pleural effusion", "pleural effusion", "pleural fluid", "effusion"),
        absent_sentences=("The pleural spaces are free of fluid.",),
        weight=2.0,
        hidden_by=frozenset({"Pleural_Thickening"}),
    ),
    "Infiltration": Wording(
        nouns=("pulmonary infiltrate", "infiltrate", "lung infiltrate"),
        present=("Infiltrative " + OPACITY + " is " + SEEN + ".",),
        absent=("infiltrate", "pulmonary infiltrate"),
        weight=0.6,
        hidden_by=_OPACITIES,
    ),
    "Mass": Wording(
        nouns=("a pulmonary mass", "a lung mass", "a mass"),
        present=("Mass-like opacity is " + SEEN + ".",),
        absent=("mass", "pulmonary mass"),
        weight=0.5,
        hidden_by=frozenset({"Nodule", "Consolidation"}),
    ),
    "Nodule": Wording(
        nouns=("a pulmonary nodule", "a lung nodule", "a nodule"),
        present=("Nodular opacity is " + SEEN + ".",),
        absent=("nodule", "pulmonary nodule"),
        weight=0.5,
        hidden_by=frozenset({"Mass"}),
    ),
    "Pneumonia": Wording(
        nouns=("pneumonia",),
        own=0.8,
        present=(
            "[There is|Note is made of|The radiograph shows|The image shows] " + OPACITY + " " + LIKELY + " {np}.",
            "[Abnormal |]" + OPACITY + " is " + SEEN + ", " + LIKELY + " {np}.",
            "[Findings|The findings|Appearances|The lung findings] are " + LIKELY + " {np}.",
            OPACITY + " [raises concern for|raises suspicion of|suggests] {np}.",
            "The lungs are not clear, with [opacity|opacification] " + LIKELY + " {np}.",
        ),
        absent=("pneumonia",),
        absent_sentences=(
            "No [focal |]" + OPACITY + " to suggest pneumonia [is seen|is present|is identified|].",
            "[The lungs|Both lungs] show no [sign|evidence] of pneumonia.",
        ),
        weight=1.2,
        hidden_by=_OPACITIES,
    ),
    "Pneumothorax": Wording(
        nouns=("pneumothorax", "a pneumothorax"),
        present=("[Pleural air|Air in the pleural space] is " + SEEN + ", " + LIKELY + " pneumothorax.",),
        absent=("pneumothorax",),
        weight=2.0,
    ),
    "Consolidation": Wording(
        nouns=("consolidation", "airspace consolidation", "parenchymal consolidation"),
        present=("[The radiograph|The image] shows consolidated lung.", "Consolidative opacity is " + SEEN + "."),
        absent=("focal consolidation", "consolidation", "airspace consolidation"),
        weight=1.6,
        hidden_by=_OPACITIES,
    ),
    "Edema": Wording(
        nouns=("pulmonary edema", "lung edema", "edema"),
        present=("[Findings|Appearances|The lung findings] are " + LIKELY + " pulmonary edema.",),
        absent=("pulmonary edema", "edema"),
        weight=1.2,
        hidden_by=frozenset({"Infiltration"}),
    ),
    "Emphysema": Wording(
        nouns=("emphysema", "emphysematous change"),
        present=("[The lungs show emphysematous change|Emphysematous lung change is " + SEEN + "].",),
        absent=("emphysema",),
        weight=0.25,
    ),
    "Fibrosis": Wording(
        nouns=("pulmonary fibrosis", "fibrotic change", "lung fibrosis"),
        present=("[The lungs show fibrotic change|Fibrotic lung change is " + SEEN + "].",),
        absent=("fibrosis", "fibrotic change"),
        weight=0.25,
        hidden_by=_OPACITIES,
    ),
    "Pleural_Thickening": Wording(
        nouns=("pleural thickening", "thickening of the pleura"),
        own=0.0,
        absent=("pleural thickening",),
        weight=0.4,
        hidden_by=frozenset({"Effusion"}),
    ),
    "Hernia": Wording(
        nouns=("a hernia", "a diaphragmatic hernia"),
        own=0.0,
        absent=("hernia",),
        weight=0.15,
    ),
    LUNG_OPACITY: Wording(
        nouns=("lung opacity", "pulmonary opacity", "airspace opacity"),
        own=0.2,
        present=("[The lungs|The lung fields] are not clear, with {np}.",),
        absent=("lung opacity", "focal lung opacity", "airspace opacity", "focal opacity"),
        absent_sentences=("The lungs are free of [focal |]opacity.",),
        weight=1.6,
        hidden_by=_OPACITIES | {"Nodule"},
    ),
    "COVID-19": Wording(
        nouns=("COVID-19", "COVID-19 infection"),
        own=1.0,
        present=(
            "[The findings|Findings|Appearances|The appearances|Radiographic appearances] are "
            "[consistent with|compatible with|in keeping with] COVID-19[ infection|].",
            "[Findings|Appearances] [of|related to|attributed to] COVID-19 [infection |]are " + SEEN + ".",
            "The [radiograph|image|study] is [that of|from] a patient with COVID-19[ infection|].",
        ),
    ),
}

#: Causes of a pneumonia: they qualify it and are never denied.
CAUSES: Mapping[str, str] = {"Bacterial": "bacterial", "Viral": "viral"}
CAUSED = (
    "{cause} pneumonia",
    "pneumonia, [likely|probably|favored to be] {cause}",
    "pneumonia of [likely |probable |]{cause} [cause|origin|etiology]",
)
CAUSE_SENTENCES = (
    "The [pattern|appearance] [favors|suggests|is more typical of] "
    "[a {cause} cause|a {cause} etiology|{cause} infection|a {cause} origin].",
    "A {cause} [cause|etiology|origin] is [favored|suspected|most likely|likely].",
    "[Appearances|Findings] [favor|are more typical of] {cause} [infection|disease].",
)

#: A lung opacity and the pneumonia that it is taken for.
OPACITY_OF_PNEUMONIA = (
    "There is {np}, " + LIKELY + " {disease}.",
    "{np} is " + SEEN + ", " + LIKELY + " {disease}.",
    "{np} [raises concern for|raises suspicion of|suggests] {disease}.",
)
PRESENT_FRAMES = (
    "There is {np}.",
    "{np} is " + SEEN + ".",
    "Note is made of {np}.",
    "The [radiograph|study|image|film] [shows|demonstrates|depicts] {np}.",
)
PRESENT_PAIR_FRAMES = (
    "There is {a} [and|with|as well as|together with] {b}.",
    "{a} and {b} are " + SEEN + ".",
    "Note is made of {a} and {b}.",
    "{a} is " + SEEN + ", [with|as is|along with] {b}.",
)
ABSENT_FRAMES = (
    "No {np}.",
    "There is no {np}.",
    "No {np} is [seen|identified|present|evident].",
    "[There is no|No] [evidence|sign|radiographic evidence] of {np}.",
)
CLEAR_LUNGS = (
    "[The lungs|Both lungs|The lung fields] are [clear|free of focal opacity|free of abnormal opacity].",
    "Clear lungs.",
    "No focal [airspace disease|airspace opacity|lung opacity|opacity] is [seen|identified|present].",
    "The lungs show no [focal |abnormal |]opacity.",
)

NORMAL_IMPRESSIONS = (
    "No [acute |]abnormality [identified|seen|detected].",
    "Unremarkable [chest radiograph|radiograph of the chest|examination|{adjective}chest radiograph].",
    "No acute [finding|findings|abnormality|disease].",
    "[No radiographic abnormality|No abnormal finding][ is seen| is identified|].",
    "[Clear lungs|The lungs are clear].",
)
NORMAL_HEART_LUNG_IMPRESSIONS = (
    "No [acute|radiographic evidence of acute|evidence of acute] cardiopulmonary [abnormality|disease|process].",
    "No acute cardiopulmonary [finding|findings|abnormality|process].",
)
#: Of a film without lung opacity that is not normal, with nothing known of what else it shows.
ABNORMAL_IMPRESSIONS = (
    "Abnormal [chest radiograph|radiograph of the chest|examination] without {np}.",
    "No {np}, but the [radiograph|examination|film] is not normal.",
)
IMPRESSION_FRAMES = (
    "{np}.",
    "[Findings|Appearances|Radiographic findings] [consistent with|compatible with|in keeping with] {np}.",
    "[Radiographic |Imaging |][findings|appearances] of {np}.",
    "{np}, as described.",
)

VIEW_SENTENCES = (
    "[Single |]{view} [view|radiograph|projection] of the chest{patient}[ was obtained| is reviewed|].",
    "{adjective}[chest radiograph|chest film|radiograph of the chest]{patient}, {view} [view|projection].",
    "{view} {adjective}chest radiograph{patient}.",
    "Chest, {view} [view|projection].",
)
PLAIN_SENTENCES = (
    "{adjective}[chest radiograph|radiograph of the chest]{patient}.",
    "A [chest radiograph|radiograph of the chest]{patient} is reviewed.",
)
VIEW_NAMES: Mapping[str, tuple[str, ...]] = {
    "PA": ("PA", "PA", "frontal PA", "posteroanterior"),
    "AP": ("AP", "AP", "frontal AP", "anteroposterior"),
    "LATERAL": ("lateral",),
}
ADJECTIVES: Mapping[str, tuple[str, ...]] = {"child": ("pediatric ",), "adult": ("adult ",)}
PATIENTS: Mapping[str, tuple[str, ...]] = {
    "child": (" in a child", " in a pediatric patient"),
    "adult": (" in an adult", " in an adult patient"),
}
