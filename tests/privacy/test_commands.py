"""Every command over a planted patient: she is where she was asked for, and nowhere else, however much is said."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.privacy.planted import HEADER, PLANTED, Ward
from tests.privacy.scanner import kinds_in, kinds_of

#: What may come out, by what asks for it. ``docs/privacy.md`` has the same table with words.
INTENDED: dict[str, frozenset[str]] = {
    "`--paths`": frozenset({"path", "name"}),
    "`--quarantine`": frozenset({"path", "name"}),
    "`--keep-uids`": frozenset({"uid"}),
    "`generate-report --documents`": HEADER,
    "`inpaint -o FILE.dcm`": HEADER,
    "`data import`": frozenset({"path", "manifest patient", "report"}),
}

SHORT = ("--set", "decode.max_new_tokens=6")
FEW = ("--set", "bootstrap.resamples=20")


@dataclass(frozen=True)
class Case:
    """A command line.

    Attributes:
        words: its arguments; names in braces are the inputs of the ward, ``{out}`` an empty folder, ``{weights}``.
        code: it must end with.
        stdin: the input whose content is given on stdin.
        may: output (``stdout``, ``stderr`` or a pattern of files in the folder) to the row of ``INTENDED``. What is
            allowed must also be there: an allowance that nobody needs is an error.
        after: a command that makes what this one reads.
    """

    words: str
    code: int = 0
    stdin: str | None = None
    may: dict[str, str] = field(default_factory=dict)
    after: str | None = None
    more: tuple[str, ...] = ()


WEIGHTS = " --weights {weights}"
CASES = {
    "tokenize": Case("tokenize {studies} {archive} {pictures}" + WEIGHTS, 3),
    "tokenize paths": Case("tokenize {studies} --paths --provenance" + WEIGHTS, 3, may={"stdout": "`--paths`"}),
    "tokenize uids": Case("tokenize {good} --keep-uids" + WEIGHTS, may={"stdout": "`--keep-uids`"}),
    "tokenize quarantine": Case(
        "tokenize {studies} {archive} --quarantine {out}/q.jsonl" + WEIGHTS, 3, may={"q.jsonl": "`--quarantine`"}
    ),
    "tokenize lines": Case("tokenize -" + WEIGHTS, 3, stdin="refused"),
    "tokenize nothing": Case("tokenize {studies}/Zephyranthes.dcm {studies}/Folder-Isolde/*" + WEIGHTS, 1),
    "tokenize shards": Case("tokenize {studies} -o {out}/shards" + WEIGHTS, 3),
    "tokenize manifest shards": Case("tokenize - -o {out}/shards" + WEIGHTS, 3, stdin="refused"),
    "tokenize compare": Case("tokenize {studies} --compare voi official" + WEIGHTS, 3),
    "report csv": Case("generate-report {studies} {pictures} -o {out}/r.csv --picture {out}/p" + WEIGHTS, 3, more=SHORT),
    "report jsonl": Case(
        "generate-report {studies} {pictures} -o {out}/r.jsonl --html {out}/r.html --explain --stats" + WEIGHTS,
        3,
        more=SHORT,
    ),
    "report documents": Case(
        "generate-report {good} --documents {out}/d" + WEIGHTS,
        may={"d/*": "`generate-report --documents`"},
        more=(*SHORT, "--set", 'documents.kinds=["sr", "pdf", "picture", "fhir"]'),
    ),
    "classify": Case("classify {studies} {pictures} -o {out}/c.csv --html {out}/c.html", 3),
    "classify embeddings": Case("classify {studies} --embeddings --layer 1 -o {out}/e" + WEIGHTS, 3),
    "classify xlsx": Case("classify {studies} -o {out}/c.xlsx --paths", 3, may={"c.xlsx": "`--paths`"}),
    "review": Case("review {studies} {pictures} {archive} -o {out}/review.html --explain" + WEIGHTS, 3, more=SHORT),
    "inpaint": Case("inpaint {studies} {pictures} --block 0.2 -o {out}/i --html {out}/i.html" + WEIGHTS, 3),
    "inpaint dicom": Case(
        "inpaint {good} --block 0.2 -o {out}/i.dcm" + WEIGHTS, may={"i.dcm": "`inpaint -o FILE.dcm`"}
    ),
    "import": Case(
        "data import folder {tree} -o {out}/m.jsonl --quarantine {out}/q.jsonl",
        3,
        may={"m.jsonl": "`data import`", "q.jsonl": "`--quarantine`"},
    ),
    "check": Case("data check {manifest}", 3),
    "check refused": Case("data check {refused}", 3),
    "index": Case("retrieve index {manifest} -o {out}/i --with-text" + WEIGHTS),
    "evaluate classification": Case(
        "evaluate classification --manifest {manifest} -o {out}/e.json --html {out}/e.html --plots {out}/plots" + WEIGHTS,
        more=(*FEW, "--set", "probe.c=[0.1]"),
    ),
    "evaluate report": Case(
        "evaluate report {reports} --references {manifest} -o {out}/e.json --html {out}/e.html",
        more=(*FEW, "--set", "external.run=false"),
    ),
    "evaluate bad reports": Case(
        "evaluate report {bad_reports} --references {manifest}", 3, more=(*FEW, "--set", "external.run=false")
    ),
    "evaluate inpainting": Case(
        "evaluate inpainting --manifest {manifest} -o {out}/e.json --html {out}/e.html" + WEIGHTS, more=FEW
    ),
    "evaluate retrieval": Case(
        "evaluate retrieval --manifest {manifest} -o {out}/e.json --html {out}/e.html" + WEIGHTS, more=FEW
    ),
    "finetune probe": Case(
        "finetune --task classify --method probe --preset debug --manifest {manifest} --init {weights} -o {out}/run"
    ),
    "finetune report": Case(
        "finetune --task report --preset debug --manifest {manifest} --init {weights} -o {out}/run --set train.steps=2"
    ),
    "pretrain": Case("pretrain --stage tokenizer --preset debug --manifest {manifest} -o {out}/run --set train.steps=2"),
    "pretrain 1": Case(
        "pretrain --stage 1 --preset debug --manifest {manifest} --init {weights} -o {out}/run --set train.steps=2"
    ),
    "pretrain refused": Case("pretrain --stage 1 --preset debug --manifest {refused} --init {weights} -o {out}/run", 1),
    "plan": Case("plan pretrain --stage 1 --preset debug --manifest {manifest} --memory 8"),
    "drafts": Case("weights drafts {manifest} -o {out}/drafts.safetensors" + WEIGHTS),
    "weights": Case("weights check {good}", 1),
}


def run(case: Case, call: Callable, ward: Ward, weights: Path, out: Path, *more: str):
    names = {name: str(value) for name, value in vars(ward).items()} | {"out": str(out), "weights": str(weights)}
    stdin = "" if case.stdin is None else Path(names[case.stdin]).read_text()
    return call(*(word.format(**names) for word in case.words.split()), *case.more, *more, stdin=stdin)


@pytest.mark.parametrize("verbosity", [(), ("-v",)], ids=["", "v"])
@pytest.mark.parametrize("name", CASES)
def test_she_is_only_where_she_was_asked_for(call, ward, debug_weights, tmp_path, name, verbosity):
    case, out = CASES[name], tmp_path / "out"
    out.mkdir()
    done = run(case, call, ward, debug_weights, out, *verbosity)
    assert done.code == case.code, done.stderr
    found = {"stdout": kinds_in(done.stdout.encode()), "stderr": kinds_in(done.stderr.encode()), **kinds_of(out)}
    met = set()
    for place, kinds in found.items():
        pattern = next((one for one in case.may if fnmatch.fnmatch(place, one)), None)
        intended = INTENDED[case.may[pattern]] if pattern else frozenset()
        assert kinds <= intended, f"{place}: {sorted(kinds - intended)}\n{done.stderr}"
        if kinds:
            met.add(pattern)
    assert met == set(case.may), "this is not there any more"
