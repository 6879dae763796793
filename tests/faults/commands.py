"""The commands of the matrix: how each runs small, what it writes, where faults strike, and what it does otherwise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from chexmix_cli.core.files import LOCK_FILE
from chexmix_cli.core.infer.retrieval.vector_index import KINDS, VectorIndex
from chexmix_cli.core.train.reporting.metrics import CLOCK_FIGURES
from tests.cli.conftest import film_pixels

#: Films of every command; batches are of two.
NUM_FILMS = 6
#: What all commands write is in here.
OUT = "out"
_FILMS = "films"
#: A film that is read behind the point where faults strike, and one that a worker reads.
_LATER, OF_WORKER = f"{_FILMS}/05.png", "02.png"
_SMALL = ("--device", "cpu", "--set", "input.batch_size=2")
_NO_WORKERS = "films are read by its own process"
_READS_FIRST = "reads its inputs before it computes"
#: Not for a command whose inputs are read before the point: gone or unreadable, they are so from the beginning.
_AT_START = {"a changed input": _READS_FIRST}


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, those inside it too; locks, which stay, are left out."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK_FILE)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _of_training(folder: Path) -> dict[str, bytes]:
    """Return what of a run's folder does not depend on the clock."""
    found = {}
    for name, content in files_in(folder).items():
        if name.endswith("metrics.jsonl"):
            records = [json.loads(line) for line in content.splitlines()]
            kept = [{name: value for name, value in one.items() if name not in CLOCK_FIGURES} for one in records]
            found[name] = json.dumps(kept).encode()
        elif not name.endswith("checkpoint.json"):
            found[name] = content
    return found


def _of_index(folder: Path) -> dict[str, bytes]:
    """Return the vectors of an index by kind and id: how many lie in one file depends on where a run ended."""
    index = VectorIndex.open(folder / "index")
    found = {}
    for kind in KINDS:
        rows = [row for block in index.blocks(kind, 100) for row in np.asarray(block)]
        found |= {f"{kind} {name}": row.tobytes() for name, row in zip(index.ids(kind), rows, strict=True)}
    return found


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command.

    Attributes:
        name: in the table.
        words: of the command line, in a folder made by :func:`write_template`; ``WEIGHTS`` stands for a folder.
        point: function behind whose call ``number`` faults strike, as in ``process.Strike``.
        number: of the call.
        later: an input that is read behind the point; None: inputs are read before, and faults of them are there
            from the beginning, on ``first``.
        first: an input.
        goes_on: words that are added to go on.
        kept: fewest records that a run keeps that ends at the point; None: it begins anew, or does not say.
        is_on_disk: it writes under ``out``; else to stdout.
        has_workers: films are read by processes of their own, if asked for.
        codes: exit codes that differ from those of the fault, by the fault's name.
        not_applicable: why there is no such cell, by the fault's name.
        second: exit code of the same command given while it runs; 4 where one at a time may write, 0 where files take
            their name whole, the last one's.
        leaves_alone: what is finished is not done again, its failures neither.
        results: what is compared of the folder that it writes to, by name.
    """

    name: str
    words: tuple[str, ...]
    point: str
    number: int
    later: str | None = None
    first: str = _LATER
    goes_on: tuple[str, ...] = ()
    kept: int | None = None
    is_on_disk: bool = True
    has_workers: bool = False
    codes: Mapping[str, int] = field(default_factory=dict)
    not_applicable: Mapping[str, str] = field(default_factory=dict)
    second: int = 4
    leaves_alone: bool = False
    results: Callable[[Path], dict[str, bytes]] = files_in

    def words_for(self, weights: Path) -> list[str]:
        """Return the words of the command line."""
        return [str(weights) if word == "WEIGHTS" else word for word in self.words]


_NO_DISK = dict.fromkeys(
    ("a full disk", "a disk that fills", "a read-only folder", "kill -9 in a write", "two processes")
    + ("the output moved",),
    "writes to stdout alone",
)
_ONE_BY_ONE = {"the output moved": "files that are still to come make their folder anew"}
_TO_FILE = {"a broken pipe": "writes to a file"}
#: Of inputs that all count, one that is missing ends a command before it begins.
_NEEDS_ALL = {"a vanished input": 1, "an unreadable file": 1}
_TRAINING = ("--set", "train.steps=3", "--set", "train.checkpoint_every=1", "--set", "train.validate_every=3")
_TRAINING += ("--set", "train.batch_size=2", "--set", "train.micro_batch_size=2")
_TRAINS = dict.fromkeys(("a worker stopped", "a worker killed"), _NO_WORKERS) | _AT_START
_NO_FILMS = dict.fromkeys(("a worker stopped", "a worker killed"), "reads no films") | _AT_START

COMMANDS = (
    Command(
        name="tokenize",
        words=("tokenize", _FILMS, "-o", f"{OUT}/shards", "--weights", "WEIGHTS", *_SMALL, "--set", "shards.rows=4"),
        point="chexmix_cli.commands.tokenize.shard_output:ShardOutput.take",
        number=3,
        later=_LATER,
        kept=2,
        has_workers=True,
        leaves_alone=True,
    ),
    Command(
        name="classify",
        words=(
            "classify",
            _FILMS,
            "--embeddings",
            "--layer",
            "0",
            "--layer",
            "1",
            "-o",
            f"{OUT}/records.jsonl",
            "--weights",
            "WEIGHTS",
        )
        + _SMALL,
        point="chexmix_cli.library.jobs.journal:Journal.add",
        number=3,
        later=_LATER,
        kept=2,
        has_workers=True,
        not_applicable=_TO_FILE,
    ),
    Command(
        name="generate-report",
        words=("generate-report", _FILMS, "-o", f"{OUT}/reports.csv", "--weights", "WEIGHTS", *_SMALL)
        + ("--set", "decode.max_new_tokens=6"),
        point="chexmix_cli.library.jobs.journal:Journal.add",
        number=3,
        later=_LATER,
        kept=2,
        has_workers=True,
        not_applicable=_TO_FILE,
    ),
    Command(
        name="inpaint",
        words=("inpaint", _FILMS, "--mask-ratio", "0.5", "-o", f"{OUT}/filled", "--weights", "WEIGHTS", *_SMALL)
        + ("--set", "picture.panels=false", "--set", "picture.join=paste"),
        point="chexmix_cli.commands.records.sinks:Sinks.write",
        number=3,
        later=_LATER,
        has_workers=True,
        second=0,
        not_applicable=_ONE_BY_ONE,
    ),
    Command(
        name="retrieve index",
        words=("retrieve", "index", "manifest.jsonl", "-o", f"{OUT}/index", "--weights", "WEIGHTS", *_SMALL)
        + ("--set", "store.rows=2"),
        point="chexmix_cli.core.infer.retrieval.index_writer:IndexWriter.add",
        number=6,
        later=_LATER,
        has_workers=True,
        results=_of_index,
    ),
    Command(
        name="retrieve query",
        words=("retrieve", "query", "index", _FILMS, "-k", "2", "--weights", "WEIGHTS", *_SMALL),
        point="chexmix_cli.commands.records.sinks:Sinks.write",
        number=3,
        later=_LATER,
        is_on_disk=False,
        has_workers=True,
        not_applicable=_NO_DISK,
    ),
    Command(
        name="evaluate report",
        words=("evaluate", "report", "reports.jsonl", "--references", "manifest.jsonl", "-o", f"{OUT}/result.json")
        + ("--html", f"{OUT}/page.html", "--set", "bootstrap.resamples=100", "--set", "external.run=false"),
        point="chexmix_cli.commands.evaluate.output:write_file",
        number=1,
        first="reports.jsonl",
        not_applicable=_NO_FILMS | _TO_FILE | _ONE_BY_ONE,
        second=0,
        codes=_NEEDS_ALL,
    ),
    Command(
        name="pretrain",
        words=("pretrain", "--stage", "tokenizer", "--preset", "debug", "--manifest", "manifest.jsonl")
        + ("--device", "cpu", "--out", f"{OUT}/run", *_TRAINING),
        point="chexmix_cli.core.train.loop:Trainer._checkpoint",
        number=1,
        goes_on=("--resume",),
        kept=1,
        results=_of_training,
        not_applicable=_TRAINS,
        codes=_NEEDS_ALL,
    ),
    Command(
        name="finetune",
        words=("finetune", "--task", "report", "--preset", "debug", "--manifest", "manifest.jsonl", "--init", "WEIGHTS")
        + ("--device", "cpu", "--out", f"{OUT}/run", *_TRAINING),
        point="chexmix_cli.core.train.loop:Trainer._checkpoint",
        number=1,
        goes_on=("--resume",),
        kept=1,
        results=_of_training,
        not_applicable=_TRAINS,
        codes=_NEEDS_ALL,
    ),
    Command(
        name="data merge, shards",
        words=("data", "merge", "parts", "-o", f"{OUT}/merged"),
        point="chexmix_cli.core.data.shards.writer:ShardWriter.add",
        number=4,
        first="parts/part-001-of-002/shard-00000.safetensors",
        not_applicable=_NO_FILMS,
        codes=_NEEDS_ALL,
    ),
    Command(
        name="data merge, records",
        words=("data", "merge", "share.part-000-of-002.jsonl", "share.part-001-of-002.jsonl", "-o", f"{OUT}/all.jsonl"),
        point="chexmix_cli.library.jobs.merging:record_digest",
        number=4,
        first="share.part-001-of-002.jsonl",
        not_applicable=_NO_FILMS,
        second=0,
        codes=_NEEDS_ALL,
    ),
    Command(
        name="weights convert",
        words=("weights", "convert", "weights", "-o", f"{OUT}/converted"),
        point="os:fsync",
        number=2,
        first="weights/model.safetensors",
        not_applicable=_NO_FILMS
        | _ONE_BY_ONE
        | {"a vanished input": "a folder with one network alone is weights, too"},
        second=0,
        codes=_NEEDS_ALL,
    ),
)


def write_template(folder: Path, weights: Path, run: Callable[..., None]) -> None:
    """Write the folder that every command runs in a copy of.

    Args:
        folder: made.
        weights: of the small model.
        run: runs a command to its end in the folder.
    """
    (folder / _FILMS).mkdir(parents=True)
    (folder / OUT).mkdir()
    lines, reports = [], []
    for number in range(NUM_FILMS):
        name = f"{number:02d}.png"
        Image.fromarray(film_pixels(number, 64)).save(folder / _FILMS / name)
        line = {"id": name, "file": f"{_FILMS}/{name}", "split": ("train", "val")[number % 2], "patient": f"p{number}"}
        text = f"Film {number}. {'Large effusion.' if number % 4 < 2 else 'Clear lungs.'}"
        lines.append({**line, "labels": {"Pleural Effusion": int(number % 4 < 2)}, "findings": text})
        reports.append({"id": name, "status": "ok", "report": f"FINDINGS: {text} The heart is large."})
    for name, records in (("manifest", lines), ("reports", reports)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    shutil.copytree(weights, folder / "weights")
    few = ("--weights", weights, *_SMALL)
    for part in range(2):
        run("tokenize", _FILMS, "-o", "parts", "--set", "shards.rows=2", "--shard", f"{part}/2", *few)
        run("classify", _FILMS, "--embeddings", "-o", "share.jsonl", "--shard", f"{part}/2", *few)
    run("retrieve", "index", "manifest.jsonl", "-o", "index", *few)
