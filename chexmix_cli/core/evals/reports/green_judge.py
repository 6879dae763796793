"""Asks a GREEN judge: the prompt, the answers kept in a file, each under the digest of all that decides it.

The prompt has the published layout (criteria, reference, candidate, form of the answer) in our own words: scores are
of the judge with this prompt, and the signature says ``prompt:ours-1``. Both texts are cut to 300 words, as the
published protocol does; how many were cut is counted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from chexmix_cli.core.data.lines import id_text, read_json_lines
from chexmix_cli.core.errors import DataError, MachineError, Reason
from chexmix_cli.core.evals.reports.metrics.green import INSIGNIFICANT, MATCHED, SIGNIFICANT
from chexmix_cli.core.evals.reports.pairs import ReportPairs
from chexmix_cli.core.evals.reports.protocol import JudgeAnswers
from chexmix_cli.core.settings.report_evaluation import GreenSettings

PROMPT = "ours-1"
_MOST_WORDS = 300
_KINDS = (
    "the candidate reports a finding that the reference does not have",
    "the candidate misses a finding of the reference",
    "a finding's location or position is wrong",
    "a finding's severity is wrong",
    "the candidate mentions a comparison that the reference does not have",
    "the candidate leaves out a comparison that describes a change since an earlier study",
)
_LINES = "\n".join(
    f"({letter}) {kind}: <number>. <error 1>; <error 2>" for letter, kind in zip("abcdef", _KINDS, strict=True)
)
_TEMPLATE = f"""Compare a candidate radiology report with a reference report written by radiologists, and judge how \
accurate the candidate is.

1. Criteria. Count the findings that agree, and the errors of each kind. Kinds of errors:
{chr(10).join(f"({letter}) {kind}" for letter, kind in zip("abcdef", _KINDS, strict=True))}
Judge the clinical content, not the wording. An error is clinically significant if it could change how the patient is \
treated.

2. Reference report:
{{reference}}

3. Candidate report:
{{candidate}}

4. Answer in this form, each line with a number and, if it is not 0, the errors:
[Explanation]:
<explanation>

[{SIGNIFICANT}]:
{_LINES}

[{INSIGNIFICANT}]:
{_LINES}

[{MATCHED}]:
<number>. <finding 1>; <finding 2>
"""


class Judge(Protocol):
    """A model that answers: ``core.infer.text_model.TextModel``, or a stand-in."""

    name: str
    fingerprint: str
    end: int

    def encode(self, text: str) -> list[int]: ...

    def answer(self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[str]: ...


def green_prompt(reference: str, candidate: str) -> tuple[str, bool]:
    """Return the question about two reports, and whether one of them was cut to fit it."""
    sides = [text.split() for text in (reference, candidate)]
    shown = [" ".join(words[:_MOST_WORDS]) for words in sides]
    # Not format(): a report may hold braces.
    text = _TEMPLATE.replace("{reference}", shown[0], 1)
    before, _, after = text.rpartition("{candidate}")
    return before + shown[1] + after, any(len(words) > _MOST_WORDS for words in sides)


def answer_key(texts: tuple[str, str], model: str, prompt: str) -> str:
    """Return the sha256 of what decides an answer: reference and candidate, model, prompt."""
    return hashlib.sha256(json.dumps([*texts, model, prompt]).encode()).hexdigest()


def read_answers(path: Path, pairs: ReportPairs) -> JudgeAnswers:
    """Return the saved answers of a file that belong to these pairs.

    A line has ``answer`` and ``id``. One with ``key``, as :func:`ask_judge` writes it, is of every pair whose texts
    have that key with the line's ``model`` and ``prompt``, and of no other: an answer about another text is never used.

    Raises:
        DataError: if the file cannot be read, a line lacks a field, or a pair is answered twice in different words.
    """
    texts = dict(zip(pairs.ids, zip(pairs.references, pairs.predictions, strict=True), strict=True))
    owners: dict[tuple[str, str], dict[str, list[str]]] = {}
    by_id: dict[str, str] = {}
    for where, line in read_json_lines(path):
        item, answer, key = id_text(line.get("id")), line.get("answer"), line.get("key")
        if item is None or not isinstance(answer, str):
            raise DataError(Reason.BAD_RECORD, "no id or no answer", where=where, expected="texts 'id' and 'answer'")
        maker = (str(line.get("model", "not said")), str(line.get("prompt", "not said")))
        if maker not in owners:
            owners[maker] = {}
            for one, both in texts.items():
                owners[maker].setdefault(answer_key(both, *maker), []).append(one)
        asked = owners[maker].get(str(key), []) if key is not None else [item] if item in texts else []
        for one in asked:
            if by_id.setdefault(one, answer) != answer:
                raise DataError(Reason.DUPLICATE, f"id {one!r} has two different answers", where=where)
    models, prompts = ("+".join(sorted({maker[place] for maker in owners})) for place in (0, 1))
    named = {"judge": models or "none", "prompt": prompts or "none", "answers": "saved"}
    return JudgeAnswers(by_id=by_id, fields={name: value.replace("|", "/") for name, value in named.items()})


def ask_judge(
    judge: Judge,
    pairs: ReportPairs,
    settings: GreenSettings,
    *,
    saved: Path | None = None,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> JudgeAnswers:
    """Return the judge's answer for every pair; answers in ``saved`` are used again, new ones are added to it.

    Raises:
        DataError: if the file of saved answers cannot be read.
        MachineError: if it cannot be written.
    """
    model = f"{judge.name}@{judge.fingerprint}"
    keys = [answer_key(pair, model, PROMPT) for pair in zip(pairs.references, pairs.predictions, strict=True)]
    known = _known(saved)
    asked = {key: place for place, key in enumerate(keys) if key not in known}
    questions = [green_prompt(pairs.references[place], pairs.predictions[place])[0] for place in asked.values()]
    open_keys = list(asked)
    for start in range(0, len(open_keys), settings.batch_size):
        batch = slice(start, start + settings.batch_size)
        prompts = [_chat(judge, question) for question in questions[batch]]
        answers = judge.answer(prompts, max_new_tokens=settings.max_new_tokens)
        new = dict(zip(open_keys[batch], answers, strict=True))
        known |= new
        if saved is not None:
            lines = [
                {"id": pairs.ids[asked[key]], "key": key, "model": model, "prompt": PROMPT, "answer": answer}
                for key, answer in new.items()
            ]
            _append(saved, lines)
        on_progress(min(start + settings.batch_size, len(open_keys)), len(open_keys))
    num_cut = sum(green_prompt(*pair)[1] for pair in zip(pairs.references, pairs.predictions, strict=True))
    return JudgeAnswers(
        by_id=dict(zip(pairs.ids, (known[key] for key in keys), strict=True)),
        fields={"judge": model.replace("|", "/"), "prompt": PROMPT, "cut": f"{_MOST_WORDS} words", "answers": "greedy"},
        num_cut=num_cut,
    )


def _chat(judge: Judge, question: str) -> list[int]:
    """Return the ids of one user turn and the opening of the answer, as the judge was trained on them."""
    return [*judge.encode(f"<|user|>\n{question}"), judge.end, *judge.encode("\n<|assistant|>\n")]


def _known(saved: Path | None) -> dict[str, str]:
    if saved is None or not saved.exists():
        return {}
    lines = (line for _, line in read_json_lines(saved) if "key" in line and "answer" in line)
    return {str(line["key"]): str(line["answer"]) for line in lines}


def _append(path: Path, lines: Sequence[Mapping[str, str]]) -> None:
    """Add lines; a judge takes long, so what it said is kept batch by batch."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
    except OSError as error:
        raise MachineError(f"answers cannot be written ({error.strerror})", where=str(path)) from None
