"""What runs leave and go on from: retrieval indexes, token shards, journals."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from damage import JSON, SAFETENSORS
from parser import Parser, each_file

from chexmix_cli.core.data.shards import ShardIdentity, ShardSet, ShardWriter, verify_set
from chexmix_cli.core.data.shards.journal import ShardTokens
from chexmix_cli.core.data.shards.merge import new_list_hash, update_list_hash
from chexmix_cli.core.infer.retrieval.index_writer import IndexWriter
from chexmix_cli.core.infer.retrieval.vector_index import KINDS, IndexIdentity, Item, VectorIndex
from chexmix_cli.core.vocab import compact
from chexmix_cli.library.jobs.job import Job
from chexmix_cli.library.jobs.journal import Journal
from chexmix_cli.library.jobs.merging import merged_lines

_INDEX = IndexIdentity(
    model="m", model_hash="aa", projection_hash=None, preset="voi", preset_hash="bb", dtype="float32", image_layer=1,
    text_layer=2, section="both", size=3, with_text=True, with_codes=True,
)  # fmt: skip
_VOCABULARY = compact(num_text=500, num_codes=300, tokens_per_image=4)
_SHARDS = ShardIdentity(
    codebook_hash="aaaaaaaaaaaa", preset="voi", preset_hash="bbbbbbbbbbbb", dtype="float32", views="frontal", frame=0,
    num_codes=300, tokens_per_image=6, num_text=500, text_tokenizer_hash="cccccccccccc", rows=4,
)  # fmt: skip
_RUN = {"part": 0, "num_parts": 1, "command": "classify", "settings": {"a": [1, 2]}}


def _index_seeds(folder: Path) -> list[Path]:
    with IndexWriter(folder / "made", _INDEX, rows=4) as writer:
        for number in range(6):
            for kind in KINDS:
                vector = torch.tensor([1.0, number, -1.0])
                item = Item(f"film-{number}", vector / vector.norm(), number, list(range(number, number + 4)))
                writer.add(kind, item)
    return each_file(folder, folder / "made")


def _read_index(path: Path) -> None:
    index = VectorIndex.open(path.parent)
    for kind in KINDS:
        ids = index.ids(kind)
        assert len(ids) == index.count(kind) == len(index.digests(kind))
        assert all(isinstance(one, str) for one in ids)
        vectors = index.vectors(kind)
        assert vectors.shape == (len(ids), index.identity.size)
        assert torch.isfinite(vectors).all(), "vectors that are no numbers"
        if index.identity.with_text and index.identity.with_codes:
            below = _VOCABULARY.num_codes if kind == "images" else _VOCABULARY.num_text
            assert all(0 <= one < below for place in range(len(ids)) for one in index.tokens(kind, place, _VOCABULARY))


def _write_shards(folder: Path, count: int, *, is_finished: bool) -> Path:
    writer, digest = ShardWriter(folder, _SHARDS), new_list_hash()
    with closing(writer):
        for order in range(count):
            fields = {"id": f"film-{order}", "status": "ok", "split": ("train", None)[order % 2], "view": "PA"}
            update_list_hash(digest, fields["id"])
            tokens = ShardTokens([order] * 6, [7] * (order % 3), {"Edema": order % 2, "Other": None})
            if order == 3:
                fields, tokens = {"id": "film-3", "status": "error", "error": {"code": "CORRUPT", "message": "x"}}, None
            writer.add(order, fields, tokens)
            writer.settle()
        if is_finished:
            writer.finish(num_listed=count, list_hash=digest.hexdigest())
    return folder


def _shard_seeds(folder: Path) -> list[Path]:
    return each_file(folder, _write_shards(folder / "made", 7, is_finished=True))


def _read_shards(path: Path) -> None:
    shards = ShardSet.open(path.parent)
    verify_set(shards)
    for row in range(len(shards)):
        assert (shards.codes(row) < 300).all()
        assert (shards.text(row) < 500).all()
        shards.labels(row)
    shards.label_matrix(shards.label_names)
    shards.rows_of("train")
    json.dumps(list(shards.index()))


def _shard_journal_seeds(folder: Path) -> list[Path]:
    return each_file(folder, _write_shards(folder / "made", 7, is_finished=False), ("unfinished.jsonl", "shards.json"))


def _go_on_with_shards(path: Path) -> None:
    """Open the set as a resumed run does, then do what is left of seven inputs: the set must be whole."""
    writer, digest = ShardWriter(path.parent, _SHARDS), new_list_hash()
    with closing(writer):
        for order in range(7):
            update_list_hash(digest, f"film-{order}")
            if writer.skip(order, f"film-{order}") is None:
                writer.add(
                    order, {"id": f"film-{order}", "status": "ok", "split": None}, ShardTokens([order] * 6, [7], {})
                )
        writer.finish(num_listed=7, list_hash=digest.hexdigest())
    shards = ShardSet.open(path.parent)
    verify_set(shards)
    assert all((shards.codes(row) < 300).all() for row in range(len(shards)))


def _jobs(count: int) -> list[Job[Any]]:
    return [Job(f"film-{order}", lambda: None, order=order) for order in range(count)]


def _write_journal(out: Path, count: int, identity: dict[str, Any], *, is_finished: bool) -> Path:
    journal = Journal(out, identity, batch_size=2)
    for job in _jobs(count):
        journal.listed(job)
        if journal.skip(job) is None:
            record = {"id": job.id, "status": "ok", "codes": [1, 2, 3]}
            if job.order == 3:
                record = {"id": job.id, "status": "error", "error": {"code": "CORRUPT", "message": "x"}}
            journal.add(job, record)
    if is_finished:
        journal.finish()
    journal.close()
    return out.parent


def _journal_seeds(folder: Path) -> list[Path]:
    (folder / "made").mkdir(parents=True)
    return each_file(folder, _write_journal(folder / "made" / "out.jsonl", 5, _RUN, is_finished=False))


def _go_on(path: Path) -> None:
    """Go on with the run, as the command does; every record must be there, whole, and once."""
    folder = path.parent if path.suffix == ".jsonl" and path.name == "out.jsonl" else path.parent.parent
    _write_journal(folder / "out.jsonl", 6, _RUN, is_finished=True)
    records = [json.loads(line) for line in (folder / "out.jsonl").read_bytes().split(b"\n") if line]
    assert [record["id"] for record in records] == [f"film-{order}" for order in range(6)], "records were lost"


def _share_seeds(folder: Path) -> list[Path]:
    (folder / "made").mkdir(parents=True)
    for part in range(2):
        journal = Journal(folder / "made" / f"{part}.jsonl", {**_RUN, "part": part, "num_parts": 2}, batch_size=1)
        for job in _jobs(6):
            journal.listed(job)
            if job.order % 2 == part:
                journal.add(job, {"id": job.id, "status": "ok"})
        journal.finish()
        journal.close()
    return each_file(folder, folder / "made")


def _merge(path: Path) -> None:
    folder = path.parent.parent if path.parent.suffix == ".journal" else path.parent
    lines = list(merged_lines([folder / "0.jsonl", folder / "1.jsonl"])[1])
    assert len(lines) == 6, "records were lost"


PARSERS = [
    Parser(name="retrieval indexes", seeds=_index_seeds, read=_read_index, changes=(*JSON, *SAFETENSORS)),
    Parser(name="token shards", seeds=_shard_seeds, read=_read_shards, changes=(*JSON, *SAFETENSORS)),
    Parser(name="unfinished shards", seeds=_shard_journal_seeds, read=_go_on_with_shards, changes=JSON, writes=True),
    Parser(name="journals of records", seeds=_journal_seeds, read=_go_on, changes=JSON, writes=True),
    Parser(name="finished shares, merged", seeds=_share_seeds, read=_merge, changes=JSON, writes=True),
]
