"""The commands of the matrix: how each runs small, and what else has to give the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

#: What a command is run again with, in the order of the table. ``again`` needs no words: see ``interpreter.other``.
AXES = ("again", "batch size", "workers", "shares", "tokens", "threads")
#: Of a training whose micro-batches are to make no difference: dropout is drawn for each anew.
NO_DROPOUT = "--set model.decoder.residual_dropout=0"
#: Two runs are the same to the last byte; or in every id, code, word and count, and in other numbers up to rounding.
BYTES, IDS = "bytes", "ids"


@dataclass(frozen=True, kw_only=True)
class Way:
    """Another way to a command's result.

    Attributes:
        lines: command lines, one behind the other, in one folder.
        holds: ``BYTES`` or ``IDS``.
        only: patterns of the files that are compared; None: all, and stdout.
        has_threads: two of them.
        is_at_once: all requests to a server come together.
    """

    lines: tuple[str, ...]
    holds: str = BYTES
    only: tuple[str, ...] | None = None
    has_threads: bool = False
    is_at_once: bool = False


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command line, run in a copy of the inputs (``inputs.py``).

    Attributes:
        name: of the command, and behind a comma what of it.
        line: its words; ``< FILE`` is stdin. It writes to ``out``.
        code: exit code.
        ways: to the same result, by axis; a text says why there is none.
    """

    name: str
    line: str
    code: int = 0
    ways: Mapping[str, tuple[Way, ...] | str]


_NO_FILMS = "reads no films"
_NO_MODEL = "computes with no model"
_NO_SHARES = "has no shares"
_ONE_AT_A_TIME = "takes its inputs one at a time"
_MAKES_CODES = "makes the codes"
_NO_CODES = "takes no codes"
_SOUND = "a damaged film has no codes: see the rows below"
_OWN_PROCESS = "reads films in its own process"
_NO_LIST = "of the whole list: see docs/scale.md"
_OTHER_SUMS = "processes that share a training sum in another order"

#: Commands that only read and write files.
_FILES_ALONE = {
    "batch size": _NO_MODEL,
    "workers": _NO_FILMS,
    "shares": _NO_SHARES,
    "tokens": _NO_FILMS,
    "threads": _NO_MODEL,
}


def _line(line: str, more: str) -> str:
    """Return a command line with more words, ahead of its stdin."""
    words, found, stdin = line.partition(" <")
    return f"{words} {more}{found}{stdin}"


def _sized(line: str, *sizes: int, holds: str = BYTES, setting: str = "input.batch_size") -> tuple[Way, ...]:
    return tuple(Way(lines=(_line(line, f"--set {setting}={size}"),), holds=holds) for size in sizes)


def _working(line: str, setting: str = "input.workers") -> tuple[Way, ...]:
    return (Way(lines=(_line(line, f"--set {setting}=2"),)),)


def _shared(line: str, out: str, num: int = 3) -> tuple[Way, ...]:
    """Return the way by shares that are merged into what the command writes: shards, an index or records."""
    name, _, ending = out.partition(".")
    share = f"out/share.{ending}" if ending else "out/share"
    lines = [_line(line.replace(f"out/{out}", share), f"--shard {part}/{num}") for part in range(num)]
    kind = f".{ending}" if ending else ".jsonl"
    parts = [f"out/share.part-{part:03d}-of-{num:03d}{kind}" for part in range(num)]
    merged = share if name == "shards" else " ".join(parts)
    return (Way(lines=(*lines, f"data merge {merged} -o out/{out}"), only=(out, f"{out}/*")),)


def _threaded(line: str, holds: str = IDS) -> tuple[Way, ...]:
    return (Way(lines=(line,), holds=holds, has_threads=True),)


def _films(
    name: str,
    line: str,
    *,
    code: int = 0,
    batches: tuple[int, ...] = (1, 3),
    holds: str = IDS,
    shares: str | None = None,
    no_shares: str = _NO_SHARES,
    tokens: Way | str = _NO_CODES,
    setting: str = "input.batch_size",
) -> Command:
    """Return a command that reads films.

    Args:
        name, line, code: as in ``Command``.
        batches: sizes of batches besides its own.
        holds: what other batches and threads give.
        shares: what of ``out`` shares are merged into; None: ``no_shares`` is the reason.
        no_shares: why there are none.
        tokens: the way by codes in place of films, or why there is none.
        setting: of the batch size.
    """
    ways: dict[str, tuple[Way, ...] | str] = {
        "batch size": _sized(line, *batches, holds=holds, setting=setting),
        "workers": _working(line),
        "shares": no_shares if shares is None else _shared(line, shares),
        "tokens": tokens if isinstance(tokens, str) else (tokens,),
        "threads": _threaded(line, holds),
    }
    return Command(name=name, line=line, code=code, ways=ways)


#: Settings and digests of a run name what its codes came from, and the size of its batches.
_LEARNT = ("*/metrics.jsonl", "*.safetensors", "*.png")
#: Adam divides a gradient by its own size, so a weight whose gradient is nothing but rounding goes either way.
_LOGGED = ("*/metrics.jsonl",)


def _training(
    name: str,
    line: str,
    *,
    tokens: str = "",
    one_batch: str | None = "dropout is drawn by micro-batch",
    one_thread: str | None = None,
) -> Command:
    """Return a command that trains.

    Args:
        name, line: as in ``Command``.
        tokens: its words for codes in place of films.
        one_batch, one_thread: why other micro batches, or threads, give another run; None: they do not.
    """
    steps = "--set train.steps=3 --set train.checkpoint_every=2 --set train.validate_every=3 --set train.log_every=1"
    line = f"{line} --preset debug --manifest manifest.jsonl --device cpu -o out/run {steps}"
    line = f"{line} --set train.batch_size=4 --set train.micro_batch_size=2"
    ways: dict[str, tuple[Way, ...] | str] = {
        "batch size": one_batch or _seen(_sized(line, 1, 4, holds=IDS, setting="train.micro_batch_size"), _LOGGED),
        "workers": _seen(_working(line, "train.workers"), _LEARNT),
        "shares": _OTHER_SUMS,
        "tokens": (Way(lines=(f"{line} {tokens}",), only=_LEARNT),) if tokens else _NO_CODES,
        "threads": one_thread or _seen(_threaded(line), _LOGGED),
    }
    return Command(name=name, line=line, ways=ways)


def _seen(ways: tuple[Way, ...], only: tuple[str, ...]) -> tuple[Way, ...]:
    return tuple(replace(way, only=only) for way in ways)


def _server(name: str, line: str) -> Command:
    ways: dict[str, tuple[Way, ...] | str] = {
        "batch size": (Way(lines=(line,), holds=IDS, is_at_once=True),),
        "workers": (Way(lines=(_line(line, "--set input.workers=1"),)),),
        "shares": _NO_SHARES,
        "tokens": _NO_CODES,
        "threads": _threaded(line),
    }
    return Command(name=name, line=line, ways=ways)


_MODEL = "--weights weights"
#: Token shards hold one encoding of an image.
_ONCE_1, _ONCE_2 = (f"--set {part}.variants=1" for part in ("documents", "films"))
_SHORT = "--set decode.max_new_tokens=6"
_FEW = "--set bootstrap.resamples=100"

COMMANDS = (
    _films(
        "tokenize",
        f"tokenize some {_MODEL} --provenance",
        code=3,
        holds=BYTES,
        no_shares="its shares are token shards",
        tokens=_MAKES_CODES,
    ),
    _films(
        "tokenize, shards",
        f"tokenize some -o out/shards {_MODEL} --set shards.rows=3",
        code=3,
        holds=BYTES,
        shares="shards",
        tokens=_MAKES_CODES,
    ),
    _films(
        "classify",
        "classify some -o out/records.jsonl --weights headed",
        code=3,
        shares="records.jsonl",
        tokens=_SOUND,
    ),
    _films(
        "classify, embeddings",
        f"classify films --embeddings --layer 1 -o out/records.jsonl {_MODEL}",
        shares="records.jsonl",
        tokens=Way(lines=(f"classify - --embeddings --layer 1 -o out/records.jsonl {_MODEL} < codes.jsonl",)),
    ),
    _films(
        "classify, page",
        "classify films --html out/page.html --weights headed",
        tokens=Way(lines=("classify - --weights headed < codes.jsonl",), only=("stdout",)),
    ),
    _films(
        "classify, zero-shot",
        f"classify films --zero-shot {_MODEL} --set zero_shot.labels=['Edema']",
        tokens=Way(lines=(f"classify - --zero-shot {_MODEL} --set zero_shot.labels=['Edema'] < codes.jsonl",)),
    ),
    _films(
        "generate-report",
        f"generate-report some -o out/records.jsonl {_MODEL} {_SHORT}",
        code=3,
        batches=(1, 2, 5),
        shares="records.jsonl",
        tokens=_SOUND,
    ),
    _films(
        "generate-report, sampled",
        f"generate-report films {_MODEL} {_SHORT} --seed 7 --set decode.temperature=0.9",
        batches=(1, 5),
        tokens=Way(lines=(f"generate-report - {_MODEL} {_SHORT} --seed 7 --set decode.temperature=0.9 < codes.jsonl",)),
    ),
    _films(
        "generate-report, int8",
        f"generate-report films {_MODEL} {_SHORT} --quantize int8",
        tokens=Way(lines=(f"generate-report - {_MODEL} {_SHORT} --quantize int8 < codes.jsonl",)),
    ),
    _films(
        "generate-report, pages, pictures, documents",
        f"generate-report studies {_MODEL} {_SHORT} --explain --html out/page.html --picture out/pictures "
        "--documents out/documents --set documents.kinds=['sr','pdf','picture','fhir']",
        batches=(1,),
    ),
    _films("review", f"review some -o out/review.html {_MODEL} {_SHORT} --explain", code=3, batches=(1,)),
    _films("inpaint", f"inpaint films --mask-ratio 0.5 -o out/filled --html out/page.html {_MODEL}"),
    _films(
        "inpaint, sampled",
        f"inpaint films --block 0.2 -o out/filled {_MODEL} --seed 3 --samples 2 --strategy iterative",
    ),
    _films("inpaint, DICOM", f"inpaint studies/study-1.dcm --block 0.2 -o out/filled.dcm {_MODEL}", batches=(1,)),
    _films(
        "retrieve index",
        f"retrieve index manifest.jsonl -o out/index --with-text {_MODEL}",
        shares="index",
        tokens="an index has a digest of what was read, a film's or that of its codes",
    ),
    _films(
        "retrieve query",
        f"retrieve query index films -k 3 --html out/page.html {_MODEL}",
        tokens=Way(lines=(f"retrieve query index - -k 3 {_MODEL} < codes.jsonl",), only=("stdout",)),
    ),
    _films(
        "retrieve query, by likelihood",
        f"retrieve query index films -k 3 --scorer likelihood --set likelihood.top=4 {_MODEL}",
        tokens=Way(
            lines=(f"retrieve query index - -k 3 --scorer likelihood --set likelihood.top=4 {_MODEL} < codes.jsonl",)
        ),
    ),
    _films(
        "evaluate classification",
        f"evaluate classification --manifest manifest.jsonl {_MODEL} -o out/result.json --html out/page.html "
        f"--plots out/plots --mask-ratio 0,0.5 --set sweep.seeds=1 --set probe.c=[0.1] {_FEW}",
        setting="batch_size",
        no_shares=_NO_LIST,
        tokens=Way(
            lines=(
                f"evaluate classification --manifest manifest.jsonl {_MODEL} -o out/result.json --html out/page.html "
                f"--plots out/plots --mask-ratio 0,0.5 --set sweep.seeds=1 --set probe.c=[0.1] {_FEW} --tokens shards",
            ),
        ),
    ),
    _films(
        "evaluate inpainting",
        f"evaluate inpainting --manifest manifest.jsonl {_MODEL} -o out/result.json --html out/page.html "
        f"--plots out/plots --mask-ratio 0.5 --patterns random,block --set images=2 {_FEW}",
        no_shares=_NO_LIST,
    ),
    _films(
        "evaluate retrieval",
        f"evaluate retrieval --manifest manifest.jsonl {_MODEL} -o out/result.json --html out/page.html {_FEW}",
        no_shares=_NO_LIST,
        # An index has no pictures of films for the page.
        tokens=Way(
            lines=(f"evaluate retrieval index --manifest manifest.jsonl {_MODEL} -o out/result.json {_FEW}",),
            only=("result.json",),
        ),
    ),
    _films("evaluate rexrank", f"evaluate rexrank rexrank.json out/reports.json films {_MODEL} {_SHORT}"),
    Command(
        name="evaluate report",
        line="evaluate report reports.jsonl --references manifest.jsonl -o out/result.json --html out/page.html "
        f"{_FEW} --set external.run=false",
        ways=_FILES_ALONE,
    ),
    Command(
        name="evaluate diff",
        line=f"evaluate diff before.json after.json -o out/diff.jsonl --html out/page.html {_FEW}",
        ways=_FILES_ALONE,
    ),
    Command(name="evaluate table", line="evaluate table", ways=_FILES_ALONE),
    _training(
        "pretrain, tokenizer",
        "pretrain --stage tokenizer",
        one_batch="codes begin as latents of the first micro-batch",
        one_thread="rounding decides which code is nearest, and a step moves it",
    ),
    _training("pretrain, stage 1", f"pretrain --stage 1 --init weights {_ONCE_1}", tokens="--manifest shards"),
    _training("pretrain, stage 2", f"pretrain --stage 2 --init weights {_ONCE_1}", tokens="--manifest shards"),
    _training(
        "pretrain, stage 2, no dropout",
        f"pretrain --stage 2 --init calm/model {_ONCE_1} {NO_DROPOUT}",
        tokens="--manifest shards",
        one_batch=None,
    ),
    _training("finetune, report", f"finetune --task report --init weights {_ONCE_2}", tokens="--tokens shards"),
    _training(
        "finetune, classify",
        f"finetune --task classify --method full --init weights {_ONCE_2}",
        tokens="--tokens shards",
    ),
    _training(
        "finetune, classify, no dropout",
        f"finetune --task classify --method full --init calm/model {_ONCE_2}",
        tokens="--tokens shards",
        one_batch=None,
    ),
    _training(
        "finetune, retrieve",
        f"finetune --task retrieve --init weights {_ONCE_2}",
        tokens="--tokens shards",
        one_batch="pairs of a micro-batch are contrasted",
    ),
    Command(
        name="finetune, probe",
        line="finetune --task classify --method probe --preset debug --manifest manifest.jsonl --init weights "
        "-o out/run",
        ways={
            "batch size": "has none",
            "workers": _OWN_PROCESS,
            "shares": _NO_SHARES,
            "tokens": _NO_CODES,
            "threads": _NO_MODEL,
        },
    ),
    Command(name="data import", line="data import folder tree -o out/manifest.jsonl", code=3, ways=_FILES_ALONE),
    Command(name="data check", line="data check manifest.jsonl --json", ways=_FILES_ALONE),
    Command(name="data info", line="data info shards --json", ways=_FILES_ALONE),
    Command(name="data merge", line="data merge parts -o out/whole --json", ways=_FILES_ALONE),
    Command(name="weights list", line="weights list --json", ways=_FILES_ALONE),
    Command(name="weights info", line="weights info weights --json", ways=_FILES_ALONE),
    Command(name="weights check", line="weights check weights --json", ways=_FILES_ALONE),
    Command(
        name="weights convert",
        line="weights convert headed -o out/converted --dtype bfloat16 --max-shard-size 100KB",
        ways=_FILES_ALONE,
    ),
    Command(name="weights export, hf", line="weights export weights --format hf -o out/exported", ways=_FILES_ALONE),
    Command(
        name="weights export, gguf",
        line="weights export weights --format gguf -o out/exported --quantize q8_0",
        ways=_FILES_ALONE,
    ),
    Command(
        name="weights drafts",
        line=f"weights drafts manifest.jsonl -o out/drafts.safetensors {_MODEL} --set drafts.min_patients=1",
        ways=_FILES_ALONE,
    ),
    Command(
        name="weights fetch",
        line="weights fetch chexmix",
        ways=dict.fromkeys(AXES, "writes what the hub has, held to its hashes"),
    ),
    Command(name="plan generate-report", line=f"plan generate-report {_MODEL} --memory 8 --json", ways=_FILES_ALONE),
    Command(
        name="plan pretrain",
        line="plan pretrain --stage 1 --preset debug --manifest manifest.jsonl --memory 8 --json",
        ways=_FILES_ALONE,
    ),
    Command(
        name="plan pretrain, cards", line="plan pretrain --stage 1 --preset phi2 --cards 1,8 --json", ways=_FILES_ALONE
    ),
    _server("serve http", "serve http --port 0 --weights headed --set input.workers=0"),
    _server(
        "serve dicom",
        f"serve dicom --port 0 --queue out/queue {_MODEL} {_SHORT} --set documents.dates=study "
        "--set receive.quiet_seconds=0 --set queue.grace_seconds=1 --set receive.least_free_mb=1",
    ),
    Command(name="help", line="help tokenize", ways=_FILES_ALONE),
)
