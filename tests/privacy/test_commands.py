"""Every command over a planted patient: she is where she was asked for, and nowhere else, however much is said."""

from __future__ import annotations

import base64
import fnmatch
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.cli.test_contract import FLAGS
from tests.privacy.planted import HEADER, PLANTED, Ward
from tests.privacy.scanner import TOKENIZER, kinds_in, kinds_of

#: What may come out, by what asks for it. ``docs/privacy.md`` says where, and why.
INTENDED: dict[str, frozenset[str]] = {
    "`--paths`": frozenset({"path", "name"}),
    "`--quarantine`": frozenset({"path", "name", "picture name"}),
    "`--keep-uids`": frozenset({"uid"}),
    "the file name of a PNG, JPEG or TIFF": frozenset({"picture name"}),
    "`generate-report --documents`": HEADER,
    "`inpaint -o FILE.dcm`": HEADER,
    "`review`": frozenset({"path", "name"}),
    "`data import`": frozenset({"path", "picture name", "manifest patient", "report"}),
    "manifest lines to `tokenize -o`": frozenset({"manifest patient", "manifest study", "report"}),
    "`retrieve index --with-text`": frozenset({"report"}),
    "`retrieve query` of an index with text": frozenset({"report"}),
    "`evaluate rexrank`": frozenset({"path", "name", "date", "report"}),
    "`evaluate --html` of reports": frozenset({"report"}),
}

SHORT = ("--set", "decode.max_new_tokens=6")
FEW = ("--set", "bootstrap.resamples=100")


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
QUERY = "`retrieve query` of an index with text"
PAGE = {"e.html": "`evaluate --html` of reports"}
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
    "tokenize manifest shards": Case(
        "tokenize - -o {out}/shards" + WEIGHTS,
        3,
        stdin="refused",
        may={"shards/*": "manifest lines to `tokenize -o`"},
    ),
    "tokenize compare": Case("tokenize {studies} --compare voi official" + WEIGHTS, 3),
    "report csv": Case(
        "generate-report {studies} {pictures} -o {out}/r.csv --picture {out}/p" + WEIGHTS, 3, more=SHORT
    ),
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
    "report quantized": Case("generate-report {good} --quantize int8" + WEIGHTS, more=SHORT),
    "report share": Case("generate-report {studies} {pictures} -o {out}/r.jsonl --shard 0/2" + WEIGHTS, 3, more=SHORT),
    "classify": Case("classify {studies} {pictures} -o {out}/c.csv --html {out}/c.html", 3),
    "classify embeddings": Case("classify {studies} --embeddings --layer 1 -o {out}/e.jsonl" + WEIGHTS, 3),
    "classify share": Case("classify {studies} {pictures} --embeddings -o {out}/c.jsonl --shard 0/2" + WEIGHTS, 3),
    "classify xlsx": Case("classify {studies} -o {out}/c.xlsx --paths", 3, may={"c.xlsx": "`--paths`"}),
    "review": Case(
        "review {studies} {pictures} {archive} -o {out}/review.html --explain" + WEIGHTS,
        3,
        may={"review.html": "`review`"},
        more=SHORT,
    ),
    "inpaint": Case("inpaint {studies} {pictures} --block 0.2 -o {out}/i --html {out}/i.html" + WEIGHTS, 3),
    "inpaint dicom": Case(
        "inpaint {good} --block 0.2 -o {out}/i.dcm" + WEIGHTS, may={"i.dcm": "`inpaint -o FILE.dcm`"}
    ),
    "import": Case(
        "data import folder {tree} -o {out}/m.jsonl --quarantine {out}/q.jsonl",
        3,
        may={"stdout": "the file name of a PNG, JPEG or TIFF", "m.jsonl": "`data import`", "q.jsonl": "`--quarantine`"},
    ),
    "check": Case("data check {manifest}"),
    "index": Case("retrieve index {manifest} -o {out}/i" + WEIGHTS),
    "index share": Case("retrieve index {manifest} -o {out}/i --shard 0/2" + WEIGHTS),
    "index text": Case(
        "retrieve index {manifest} -o {out}/i --with-text" + WEIGHTS, may={"i/*": "`retrieve index --with-text`"}
    ),
    "index text share": Case(
        "retrieve index {manifest} -o {out}/i --with-text --shard 0/2" + WEIGHTS,
        may={"i.part-*.jsonl": "`retrieve index --with-text`"},
    ),
    "evaluate classification": Case(
        "evaluate classification --manifest {manifest} -o {out}/e.json --html {out}/e.html --plots {out}/plots"
        + WEIGHTS,
        more=(*FEW, "--set", "probe.c=[0.1]"),
    ),
    "evaluate report": Case(
        "evaluate report {reports} --references {manifest} -o {out}/e.json --html {out}/e.html",
        may=PAGE,
        more=(*FEW, "--set", "external.run=false"),
    ),
    "evaluate bad reports": Case(
        "evaluate report {bad_reports} --references {manifest}", 1, more=(*FEW, "--set", "external.run=false")
    ),
    "evaluate inpainting": Case(
        "evaluate inpainting --manifest {manifest} -o {out}/e.json --html {out}/e.html --set images=2" + WEIGHTS,
        more=FEW,
    ),
    "evaluate retrieval": Case(
        "evaluate retrieval --manifest {manifest} -o {out}/e.json --html {out}/e.html" + WEIGHTS, may=PAGE, more=FEW
    ),
    "finetune probe": Case(
        "finetune --task classify --method probe --preset debug --manifest {manifest} --init {weights} -o {out}/run"
    ),
    "finetune report": Case(
        "finetune --task report --preset debug --manifest {manifest} --init {weights} -o {out}/run --set train.steps=2"
    ),
    "pretrain": Case(
        "pretrain --stage tokenizer --preset debug --manifest {manifest} -o {out}/run --set train.steps=2"
    ),
    "pretrain 1": Case(
        "pretrain --stage 1 --preset debug --manifest {manifest} --init {weights} -o {out}/run --set train.steps=2"
    ),
    "pretrain refused": Case("pretrain --stage 1 --preset debug --manifest {refused} --init {weights} -o {out}/run", 1),
    "plan": Case("plan pretrain --stage 1 --preset debug --manifest {manifest} --memory 8"),
    "plan cards": Case("plan pretrain --stage 1 --preset debug --manifest {manifest} --cards 1,2"),
    "drafts": Case("weights drafts {manifest} -o {out}/drafts.safetensors" + WEIGHTS),
    "weights": Case("weights info {weights}"),
    "rexrank": Case(
        "evaluate rexrank {rexrank} {out}/r.json {root}" + WEIGHTS, 3, may={"r.json": "`evaluate rexrank`"}, more=SHORT
    ),
    "shards info": Case(
        "data info {out}/shards", after="tokenize manifest shards", may={"shards/*": "manifest lines to `tokenize -o`"}
    ),
    "merge": Case(
        "data merge {out}/shards -o {out}/merged",
        after="tokenize manifest shards",
        may=dict.fromkeys(("shards/*", "merged/*"), "manifest lines to `tokenize -o`"),
    ),
    "query": Case(
        "retrieve query {out}/i {studies} -k 2 --html {out}/q.html" + WEIGHTS,
        3,
        after="index text",
        may={"i/*": "`retrieve index --with-text`", "stdout": QUERY, "q.html": QUERY},
    ),
    "query images": Case(
        "retrieve query {out}/i {studies} --find images --paths" + WEIGHTS,
        3,
        after="index text",
        may={"i/*": "`retrieve index --with-text`", "stdout": "`--paths`"},
    ),
}

#: Commands that read no films and no manifests, or that other tests of this folder run.
ELSEWHERE = {"help", "evaluate diff", "evaluate table", "plan generate-report", "serve http", "serve dicom"}
ELSEWHERE |= {f"weights {name}" for name in ("list", "check", "convert", "export", "fetch")}


def test_no_command_is_forgotten():
    run_here = {name for name in FLAGS for case in CASES.values() if f"{case.words} ".startswith(f"{name} ")}
    assert run_here | ELSEWHERE == set(FLAGS)
    assert not run_here & ELSEWHERE


def run(case: Case, call: Callable, ward: Ward, weights: Path, out: Path, *more: str):
    names = {name: str(value) for name, value in vars(ward).items()} | {"out": str(out), "weights": str(weights)}
    stdin = "" if case.stdin is None else Path(names[case.stdin]).read_text()
    return call(*(word.format(**names) for word in case.words.split()), *case.more, *more, stdin=stdin)


@pytest.mark.parametrize("verbosity", [(), ("-v",)], ids=["", "v"])
@pytest.mark.parametrize("name", CASES)
def test_she_is_only_where_she_was_asked_for(call, ward, debug_weights, tmp_path, name, verbosity):
    case, out = CASES[name], tmp_path / "out"
    out.mkdir()
    if case.after is not None:
        assert run(CASES[case.after], call, ward, debug_weights, out).code == CASES[case.after].code
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


def test_what_is_kept_in_the_home_of_the_machine_is_looked_into(call, monkeypatch, ward, debug_weights, tmp_path, home):
    """``nothing_left`` looks into the home behind every command: here are the files that it is about."""
    monkeypatch.setattr("chexmix_cli.core.weights.formats.packed._LEAST_BYTES", 0)
    assert run(CASES["report quantized"], call, ward, debug_weights, tmp_path).code == 0
    kept = {path.relative_to(home).parts[0] for path in home.rglob("*") if path.is_file()}
    assert kept >= {"packed", "pass_costs.json"}
    (planted,) = (home / "packed").glob("*.safetensors")
    assert kinds_in(planted.read_bytes()) == set()


def test_a_process_of_its_own_tells_nothing_either(chexmix, ward, debug_weights):
    """What libraries warn of and log goes to the process's own stderr, which no test in this process sees."""
    done = chexmix("tokenize", ward.studies, "--weights", debug_weights, "-v", "--provenance")
    assert done.code == 3
    codes = sorted(record["error"]["code"] for record in done.records if record["status"] == "error")
    assert codes == ["LATERAL_ONLY", "NOT_CHEST", "NO_PIXELS", "SHORT_PIXELS", "UNKNOWN_FORMAT"]
    assert sum(record["status"] == "ok" for record in done.records) == 3
    assert not kinds_in(done.stdout.encode() + done.stderr.encode()), done.stderr


@pytest.mark.parametrize("command", ["data check {path}", "plan pretrain --stage 1 --preset debug --manifest {path}"])
def test_a_wrong_line_of_a_manifest_is_named_by_its_number(call, ward, tmp_path, command):
    for line in ward.wrong:
        path = tmp_path / "manifest.jsonl"
        path.write_text(f"{ward.manifest.read_text()}{line}\n")
        done = call(*command.format(path=path).split(), "-v")
        assert done.code in (1, 3), line
        assert not kinds_in(done.stdout.encode() + done.stderr.encode()), done.stderr


@pytest.mark.parametrize("verbosity", [(), ("-v",)], ids=["", "v"])
@pytest.mark.parametrize(
    ("command", "error", "code"),
    [
        ("tokenize", RuntimeError("Zephyranthes"), 70),
        ("generate-report", PermissionError(13, "Permission denied", "Folder-Isolde"), 4),
        ("classify --embeddings", MemoryError("File-Tamsin"), 4),
        ("inpaint --block 0.2 -o {out}/i", EOFError("19590723"), 70),
        ("review -o {out}/r.html", KeyError("Thistlewick"), 70),
    ],
)
def test_what_nobody_expected_tells_nothing(
    call, monkeypatch, ward, debug_weights, tmp_path, command, error, code, verbosity
):
    """The traceback that -v asks for has lines of code, no values and no message of others, whatever came before."""

    def broken(self, films):
        try:
            int(PLANTED["name"][0])
        except ValueError:
            raise error  # noqa: B904  (the first one is to be told, too)

    monkeypatch.setattr("chexmix_cli.core.infer.image_tokenizer.ImageTokenizer.encode", broken)
    words = command.format(out=tmp_path / "out").split()
    done = call(words[0], ward.studies, *words[1:], "--weights", debug_weights, *verbosity)
    assert done.code == code
    assert ("Traceback" in done.stderr) == ("ValueError" in done.stderr) == bool(verbosity)
    assert not kinds_in(done.stdout.encode() + done.stderr.encode()), done.stderr
    assert kinds_of(tmp_path) == {}


def test_the_page_of_privacy_says_what_may_come_out(repository):
    """One row for each thing that asks for something, with the kinds of what comes out."""
    text = (repository / "docs" / "privacy.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", text.split("\n## What comes out\n")[1], re.MULTILINE)
    told = {asked: frozenset(kinds.split(", ")) for asked, kinds in rows[1:]}
    assert told == INTENDED
    met = {row for case in CASES.values() for row in case.may.values()}
    assert met == set(INTENDED), "no command shows this row"


def test_a_plant_in_any_wrapping_is_found(tmp_path, ward):
    """The scanner sees what it is for: it finds every kind in the inputs themselves."""
    found = set().union(*kinds_of(ward.root).values())
    assert found == set(PLANTED)
    ids = Tokenizer.from_file(str(TOKENIZER)).encode(f"The lungs of {PLANTED['report'][0]} are clear.").ids
    assert kinds_in(json.dumps({"id": "x", "tokens": [[0, 1], ids]}).encode()) == {"report"}
    page = b"data:image/png;base64," + base64.b64encode((ward.pictures / "p1.png").read_bytes())
    assert kinds_in(page) == {"name", "date", "institution", "picture metadata"}
    assert kinds_in("Zephyranthes".encode("utf-16-le")) == {"name"}
    assert kinds_in(b"stream\n" + zlib.compress(b"hollowBROOK") + b"\nendstream") == {"institution"}
