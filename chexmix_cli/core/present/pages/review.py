"""The page on which a reader goes through drafts: films, reports, what speaks against them; accepts, edits, rejects.

All data are one JSON text in the page; ``review.js`` shows them. What the reader decides stays in the browser until it
is exported: ``core/data/review_edits.py`` reads the exports.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chexmix_cli.core.errors import counted
from chexmix_cli.core.present.pages.render import as_script_json, data_url, render

_SCRIPTS = ("review_viewer.js", "review_edits.js", "review.js")
#: Fields of a study that its exported line has, too, where they are known.
_KEYS = ("study", "patient", "view", "split")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewStudy:
    """One study to go through, or one input that was refused.

    Attributes:
        record: of ``chexmix generate-report``; ``status`` ``error`` for one that was refused.
        film: the film to look at, PNG, JPEG or WebP, grey; None for one that was refused.
        roundtrip: the square picture that its image tokens show, the same way.
        file: its name within the folder that was read, or None.
        keys: ``study``, ``patient``, ``split`` as a manifest says them.
    """

    record: Mapping[str, Any]
    film: bytes | None = None
    roundtrip: bytes | None = None
    file: str | None = None
    keys: Mapping[str, Any] | None = None


def review_page(studies: Sequence[ReviewStudy], *, model: str, film_px: int, is_beside: bool = False) -> str:
    """Return the page.

    Args:
        studies: in order.
        model: its name.
        film_px: what the films' longer side was reduced to.
        is_beside: files are named from the page's folder on, else from the folder that was reviewed.
    """
    shown = [_shown(study) for study in studies]
    ranks = {name: rank for rank, name in enumerate(sorted({_group(one) for one in shown}, key=_digest))}
    for one in shown:
        one["rank"] = ranks[_group(one)]
    values: dict[str, Any] = {"model": model, "film_px": film_px, "studies": shown}
    data = as_script_json(values)
    # Decisions belong to these studies and these drafts: another page of the same films has others.
    values["key"] = hashlib.sha256(data.encode()).hexdigest()[:16]
    num_conflicts = sum(bool(one["conflicts"]) for one in shown)
    num_refused = sum("error" in one for one in shown)
    return render(
        "review",
        title=f"chexmix review: {counted(len(shown), 'study')}",
        scripts=_SCRIPTS,
        data=as_script_json(values),
        model=model,
        film_px=film_px,
        is_beside=is_beside,
        num_conflicts=num_conflicts,
        num_refused=num_refused,
        studies=shown,
    )


def _shown(study: ReviewStudy) -> dict[str, Any]:
    """Return what the script is told of a study."""
    record = study.record
    typicality = record.get("typicality") or {}
    found: dict[str, Any] = {name: value for name, value in (study.keys or {}).items() if value is not None}
    found |= {name: record[name] for name in ("id", *_KEYS, "age_group") if record.get(name) is not None}
    found |= {"conflicts": list(record.get("conflicts", [])), "notes": list(record.get("notes", []))}
    found |= {} if study.file is None else {"file": study.file}
    if record["status"] != "ok":
        return found | {"error": dict(record["error"])}
    found["report"] = record.get("report")
    found["sentences"] = [_sentence(sentence) for sentence in record.get("sentences", [])]
    found["findings"] = _findings(record.get("head") or {})
    if typicality and typicality["score"] > typicality["threshold"]:
        found["unlike"] = typicality["score"]
    for name, picture in (("film", study.film), ("roundtrip", study.roundtrip)):
        found |= {} if picture is None else {name: data_url(picture)}
    return found


def _sentence(sentence: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sentence with its badge, and with the squares that it rests on where there are any."""
    found = {"text": sentence["text"], "badge": sentence["badge"], "is_text_alone": sentence["text_prior_only"]}
    return found | ({"blocks": sentence["drop_blocks"]} if sentence["is_located"] else {})


def _findings(head: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the findings of a head, most probable first, each with what is known of it."""
    found = []
    for name, probability in sorted(head.get("probabilities", {}).items(), key=lambda pair: -pair[1]):
        one: dict[str, Any] = {"name": name, "p": round(float(probability), 4)}
        for key, field in (("threshold", "threshold"), ("auroc", "validation_auroc"), ("agreement", "agreement")):
            value = (head.get(field) or {}).get(name)
            if value is not None:
                one[key] = round(float(value), 4) if isinstance(value, int | float) else value
        found.append(one)
    return found


def _group(one: Mapping[str, Any]) -> str:
    """Return what must not be split between training and validation: a patient, else a study."""
    return str(one.get("patient") or one.get("study") or one["id"])


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
