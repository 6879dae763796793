"""Token shards: what goes in comes out, an interrupted writing goes on, and nothing damaged is read."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from chexmix_cli.core.data.shards import ShardIdentity, ShardSet, ShardWriter, find_sets, merge_sets, verify_set
from chexmix_cli.core.data.shards.journal import JOURNAL_FILE, ShardTokens
from chexmix_cli.core.data.shards.merge import new_list_hash, update_list_hash
from chexmix_cli.core.errors import DataError, MachineError, Reason, SettingsError, VocabularyError

IDENTITY = ShardIdentity(
    codebook_hash="aaaaaaaaaaaa",
    preset="voi",
    preset_hash="bbbbbbbbbbbb",
    dtype="float32",
    views="frontal",
    frame=0,
    num_codes=300,
    tokens_per_image=6,
    num_text=500,
    text_tokenizer_hash="cccccccccccc",
    rows=4,
)
SPLITS = ("train", "val", None)


def example(order: int) -> tuple[dict, ShardTokens | None]:
    """Return input ``order`` of a list: every fifth gives nothing, every third has no report."""
    rng = np.random.default_rng(order)
    record_id = f"film-{order}.png"
    if order % 5 == 3:
        return {"id": record_id, "status": "error", "error": {"code": "CORRUPT", "message": "damaged"}}, None
    labels = {"Edema": int(rng.integers(-1, 2)), "Other": None} if order % 2 else {"Effusion": 1}
    text = [] if order % 3 == 0 else rng.integers(0, 500, order % 7 + 1).tolist()
    fields = {"id": record_id, "status": "ok", "split": SPLITS[order % 3], "view": "PA"}
    return fields, ShardTokens(rng.integers(0, 300, 6).tolist(), text, labels)


def write(
    folder: Path, count: int, identity: ShardIdentity = IDENTITY, *, stop_at: int | None = None, batch: int = 1000
) -> ShardWriter:
    """Write a list of ``count`` inputs in batches; with ``stop_at`` leave off there, as a kill would."""
    writer, digest = ShardWriter(folder, identity), new_list_hash()
    with closing(writer):
        for order in range(count):
            fields, tokens = example(order)
            update_list_hash(digest, fields["id"])
            if order % identity.num_parts != identity.part or writer.skip(order, fields["id"]) is not None:
                continue
            if order == stop_at:
                return writer
            writer.add(order, fields, tokens)
            if (order + 1) % batch == 0:
                writer.settle()
        writer.finish(num_listed=count, list_hash=digest.hexdigest())
    return writer


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Return a complete set of 18 inputs in five shards."""
    write(tmp_path / "set", 18)
    return tmp_path / "set"


def test_what_goes_in_comes_out(shards):
    found = ShardSet.open(shards)
    verify_set(found)
    expected = [(order, *example(order)) for order in range(18)]
    good = [(order, fields, tokens) for order, fields, tokens in expected if tokens is not None]
    assert len(found) == len(good) == 15
    assert found.num_records == 18
    assert found.label_names == ("Edema", "Effusion")
    for number, (row, (order, fields, tokens)) in enumerate(zip(found, good, strict=True)):
        assert (row.id, row.entry["order"], row.entry["split"]) == (fields["id"], order, fields["split"])
        assert row.codes.dtype == np.uint16
        assert row.codes.tolist() == found.codes(number).tolist() == tokens.codes
        assert row.text.tolist() == tokens.text
        assert row.labels == {"Edema": None, "Effusion": None} | {
            name: value for name, value in tokens.labels.items() if value is not None
        }
    assert found.gather([13, 0]).tolist() == [good[13][2].codes, good[0][2].codes]
    assert [found.codes(int(row)).tolist() for row in found.rows_of("val")] == [
        tokens.codes for _, fields, tokens in good if fields["split"] == "val"
    ]
    matrix = found.label_matrix(["Effusion", "Unheard"])
    assert matrix[:, 0].tolist() == [1 if order % 2 == 0 else -2 for order, _, _ in good]
    assert set(matrix[:, 1].tolist()) == {-2}
    errors = [entry for entry in found.index() if entry["status"] == "error"]
    assert [entry["order"] for entry in errors] == [3, 8, 13]
    assert all(entry["row"] is None for entry in errors)
    with pytest.raises(IndexError):
        found.codes(15)


def test_rows_are_views_of_the_file_that_nobody_can_change(shards):
    found = ShardSet.open(shards)
    codes = found.codes(0)
    assert not codes.flags.owndata
    assert np.shares_memory(codes, found.codes(0))
    with pytest.raises(ValueError, match="read-only"):
        codes[0] = 1


def test_any_safetensors_reader_reads_them(shards):
    tensors = load_file(shards / "shard-00000.safetensors")
    assert tensors["codes"].tolist() == [example(order)[1].codes for order in (0, 1, 2)]
    assert tensors["text_ids"].dtype == np.uint16
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch

    assert load_torch(shards / "shard-00000.safetensors")["codes"].dtype == torch.uint16


def test_a_large_text_vocabulary_takes_wider_ids(tmp_path):
    identity = dataclasses.replace(IDENTITY, num_text=70_000)
    writer = ShardWriter(tmp_path / "set", identity)
    writer.add(0, {"id": "a", "status": "ok"}, ShardTokens([1] * 6, [69_999]))
    found = writer.finish(num_listed=1, list_hash="x")
    assert found.text(0).dtype == np.uint32
    assert found.text(0).tolist() == [69_999]


@pytest.mark.parametrize("stop_at", range(18))
def test_resumed_at_any_input_it_is_byte_for_byte_the_same(shards, tmp_path, stop_at):
    write(tmp_path / "cut", 18, stop_at=stop_at)
    if stop_at:  # a second interruption
        write(tmp_path / "cut", 18, stop_at=max(stop_at, stop_at - 1))
    with pytest.raises(DataError, match="unfinished"):
        ShardSet.open(tmp_path / "cut")
    assert ShardSet.open(tmp_path / "cut", allow_partial=True).num_records == stop_at // 4 * 4
    write(tmp_path / "cut", 18)
    assert contents(tmp_path / "cut") == contents(shards)


@pytest.mark.parametrize("stop_at", range(18))
def test_settled_inputs_are_not_done_again(shards, tmp_path, stop_at):
    folder = tmp_path / "cut"
    write(folder, 18, stop_at=stop_at, batch=2)
    begun = ShardWriter(folder, IDENTITY)
    begun.close()
    # Whole shards hold four inputs; of the next one, what was settled.
    assert begun.num_finished == stop_at // 2 * 2
    assert begun.num_begun == begun.num_finished % 4
    write(folder, 18, stop_at=stop_at + 1, batch=1)
    assert ShardWriter(folder, IDENTITY).num_finished >= stop_at // 2 * 2
    write(folder, 18)
    assert contents(folder) == contents(shards)


@pytest.mark.parametrize("damage", ["cut", "garbled", "another shard's", "too many"])
def test_what_is_unreadable_of_a_journal_is_done_again(shards, tmp_path, damage):
    folder = tmp_path / "cut"
    write(folder, 18, stop_at=7, batch=1)
    journal = folder / JOURNAL_FILE
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    journal.write_bytes(
        {
            "cut": b"".join(lines)[:-1],
            "garbled": lines[0] + lines[1] + b'{"shard": 1, "inputs": [[1]]}\n',
            "another shard's": b"".join(lines).replace(b'"shard": 1', b'"shard": 0'),
            "too many": b"".join(lines) + lines[-1],
        }[damage]
    )
    with closing(ShardWriter(folder, IDENTITY)) as begun:
        assert begun.num_begun == {"cut": 2, "garbled": 2, "another shard's": 0, "too many": 3}[damage]
    write(folder, 18, stop_at=8, batch=1)
    write(folder, 18)
    assert contents(folder) == contents(shards)


def test_what_a_kill_leaves_behind_is_done_again(shards, tmp_path):
    """An index without its tensors, temporary files, and a set whose end is not written."""
    folder = tmp_path / "cut"
    write(folder, 18, stop_at=9)
    (folder / ".shard-00002.safetensors.77.partial").write_bytes(b"half")
    (folder / ".shards.json.77.partial").write_bytes(b"half")
    (folder / "shard-00002.jsonl").write_bytes(b'{"id": "from before"}\n')
    write(folder, 18)
    assert contents(folder) == contents(shards)
    (folder / "shards.json").write_text(json.dumps({"identity": IDENTITY.to_dict(), "complete": None}, indent=2) + "\n")
    write(folder, 18)
    assert contents(folder) == contents(shards)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    write(folder, 18)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_other_inputs_are_refused(shards):
    writer = ShardWriter(shards, IDENTITY)
    assert writer.skip(0, "film-0.png")["status"] == "ok"
    with pytest.raises(DataError, match=r"input 1 is 'other.png'.*'film-1.png'"):
        writer.skip(1, "other.png")
    writer.close()
    with pytest.raises(DataError, match="there is an input 18"):
        write(shards, 19)
    with pytest.raises(DataError, match="not those of the shards"):
        write(shards, 17)
    writer = ShardWriter(shards, IDENTITY)
    with pytest.raises(DataError, match="not those of the shards"):
        writer.add(0, *example(0))


@pytest.mark.parametrize(
    ("name", "value"),
    [("codebook_hash", "dddddddddddd"), ("preset_hash", "eeeeeeeeeeee"), ("text_tokenizer_hash", None), ("rows", 5)],
)
def test_another_model_is_refused_and_both_are_named(shards, name, value):
    found = ShardSet.open(shards)
    found.require(codebook_hash="aaaaaaaaaaaa", preset_hash="bbbbbbbbbbbb")
    own = getattr(IDENTITY, name)
    for attempt in (
        lambda: found.require(**{name: value}),
        lambda: ShardWriter(shards, dataclasses.replace(IDENTITY, **{name: value})),
    ):
        with pytest.raises(DataError) as caught:
            attempt()
        assert caught.value.reason is Reason.WRONG_TOKENS
        assert str(own) in str(caught.value)
        assert str(value) in str(caught.value)


def test_folders_of_something_else_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="holds no shard set"):
        ShardWriter(tmp_path, IDENTITY)
    assert contents(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(DataError, match="no shard set"):
        ShardSet.open(tmp_path)


def _cut(folder: Path) -> None:
    path = folder / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def _cut_header(folder: Path) -> None:
    path = folder / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def _empty(folder: Path) -> None:
    (folder / "shard-00001.safetensors").write_bytes(b"")


def _cut_index(folder: Path) -> None:
    path = folder / "shard-00001.jsonl"
    path.write_bytes(path.read_bytes()[:-10])


def _gap(folder: Path) -> None:
    (folder / "shard-00002.safetensors").unlink()


def _short(folder: Path) -> None:
    (folder / "shard-00004.safetensors").unlink()


def _no_index(folder: Path) -> None:
    (folder / "shard-00003.jsonl").unlink()


def _twice(folder: Path) -> None:
    for suffix in ("safetensors", "jsonl"):
        shutil.copy(folder / f"shard-00001.{suffix}", folder / f"shard-00002.{suffix}")


def _one_more(folder: Path) -> None:
    for suffix in ("safetensors", "jsonl"):
        shutil.copy(folder / f"shard-00001.{suffix}", folder / f"shard-00005.{suffix}")


def _foreign(folder: Path) -> None:
    write(folder.parent / "foreign", 18, dataclasses.replace(IDENTITY, codebook_hash="ffffffffffff"))
    shutil.copy(folder.parent / "foreign" / "shard-00001.safetensors", folder / "shard-00001.safetensors")


def _no_set(folder: Path) -> None:
    (folder / "shards.json").write_text("{")


def _header_values(folder: Path, place: tuple[str, ...], value: Any) -> None:
    """Put another value into a shard's header, its length as it then has to be."""
    path = folder / "shard-00001.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    if place[0] == "__metadata__":
        header = json.loads(table["__metadata__"]["chexmix_shard"])
        table["__metadata__"]["chexmix_shard"] = json.dumps({**header, place[1]: value})
    else:
        table[place[0]][place[1]] = value
    text = json.dumps(table).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("__metadata__", "num_rows"), "1e400", "num_rows: '1e400' is a str; expected an int"),
        (("__metadata__", "num_records"), [1], r"num_records: \[1\] is a list"),
        (("__metadata__", "number"), 1.0, "number: 1.0 is a float"),
        (("__metadata__", "label_names"), "Edema", "label_names"),
        (("__metadata__", "ids_hash"), None, "ids_hash: None is a NoneType"),
        (("codes", "data_offsets"), [32.0, 68], "the header is damaged"),
        (("codes", "shape"), [3, 6.0], "the header is damaged"),
        (("codes", "shape"), [True, 6], "the header is damaged"),
    ],
)
def test_values_of_another_type_are_refused(shards, place, value, message):
    _header_values(shards, place, value)
    with pytest.raises(DataError, match=message) as raised:
        ShardSet.open(shards)
    assert raised.value.reason == Reason.CORRUPT
    assert raised.value.where == "shard-00001.safetensors"


def _newer(folder: Path) -> None:
    values = json.loads((folder / "shards.json").read_text())
    values["identity"]["schema_version"] = 99
    (folder / "shards.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "the file has"),
        (_cut_header, "cut off"),
        (_empty, "cut off"),
        (_cut_index, "the index has"),
        (_gap, "shard-00002.safetensors is missing"),
        (_short, "num_shards is 4"),
        (_no_index, "the index is missing"),
        (_twice, "does not follow"),
        (_one_more, "covers 2 inputs"),
        (_foreign, "ffffffffffff.*aaaaaaaaaaaa"),
        (_no_set, "damaged"),
        (_newer, "schema version 99"),
    ],
)
def test_damage_is_seen_on_opening(shards, damage, message):
    damage(shards)
    with pytest.raises(DataError, match=message):
        ShardSet.open(shards)


@pytest.mark.parametrize("suffix", ["safetensors", "jsonl"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_flipped_bit_is_seen_by_verify_at_the_latest(shards, suffix, share):
    path = shards / f"shard-00002.{suffix}"
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError):
        verify_set(ShardSet.open(shards))


def test_an_id_with_two_rows_is_seen_by_verify(tmp_path):
    writer = ShardWriter(tmp_path / "set", IDENTITY)
    for order in range(2):
        writer.add(order, {"id": "same", "status": "ok"}, ShardTokens([order] * 6))
    found = writer.finish(num_listed=2, list_hash="x")
    with pytest.raises(DataError, match="an id has two rows"):
        verify_set(found)


@pytest.mark.parametrize("codes", [[1] * 5, [300] * 6, [-1] * 6, [0.5] * 6])
def test_codes_of_another_size_or_range_never_get_in(tmp_path, codes):
    writer = ShardWriter(tmp_path / "set", IDENTITY)
    with pytest.raises(VocabularyError):
        writer.add(0, {"id": "a", "status": "ok"}, ShardTokens(codes))
    with pytest.raises(VocabularyError):
        writer.add(0, {"id": "a", "status": "ok"}, ShardTokens([1] * 6, [500]))
    with pytest.raises(SettingsError):
        dataclasses.replace(IDENTITY, num_codes=65_537)


def test_a_list_without_any_result_is_a_set_too(tmp_path):
    writer = ShardWriter(tmp_path / "set", IDENTITY)
    writer.add(0, {"id": "a", "status": "error"}, None)
    found = writer.finish(num_listed=1, list_hash="x")
    verify_set(found)
    assert (len(found), found.num_records) == (0, 1)
    assert list(found) == []


@pytest.mark.parametrize("num_parts", [2, 3, 7])
def test_parts_merge_into_the_whole_byte_for_byte(shards, tmp_path, num_parts):
    for part in range(num_parts):
        identity = dataclasses.replace(IDENTITY, part=part, num_parts=num_parts)
        write(tmp_path / "parts" / f"part-{part}-of-{num_parts}", 18, identity)
    sets = [ShardSet.open(folder) for folder in find_sets([tmp_path / "parts"])]
    assert len(sets) == num_parts
    merged = merge_sets(sets[::-1], tmp_path / "merged", lambda done, total: None)
    verify_set(merged)
    assert contents(tmp_path / "merged") == contents(shards)
    with pytest.raises(DataError, match="`chexmix data merge` joins them|no shard set"):
        ShardSet.open(tmp_path / "parts")


def test_a_missing_part_or_one_of_another_list_is_refused(tmp_path):
    identities = [dataclasses.replace(IDENTITY, part=part, num_parts=3) for part in range(3)]
    for part, identity in enumerate(identities):
        write(tmp_path / str(part), 18, identity)
    write(tmp_path / "other", 19, identities[2])
    zero, one, two, other = (ShardSet.open(tmp_path / name) for name in ("0", "1", "2", "other"))
    for given, message in [
        ([zero, two], "parts 0/3, 2/3"),
        ([zero, one, one], "parts 0/3, 1/3, 1/3"),
        ([zero, one, other], "different lists"),
    ]:
        with pytest.raises(DataError, match=message):
            merge_sets(given, tmp_path / "merged", lambda done, total: None)


def _renamed(count: int, prefix: str) -> Iterator[tuple[int, dict, ShardTokens | None]]:
    for order in range(count):
        fields, tokens = example(order)
        yield order, {**fields, "id": f"{prefix}/{fields['id']}"}, tokens


def test_sets_of_different_inputs_are_put_in_a_row(shards, tmp_path):
    writer = ShardWriter(tmp_path / "second", IDENTITY)
    for order, fields, tokens in _renamed(6, "second"):
        writer.add(order, fields, tokens)
    second = writer.finish(num_listed=6, list_hash="x")
    first = ShardSet.open(shards)
    merged = merge_sets([first, second], tmp_path / "merged", lambda done, total: None)
    verify_set(merged)
    assert [row.id for row in merged] == [row.id for row in first] + [row.id for row in second]
    assert merged.gather(range(len(merged))).tolist() == [
        *first.gather(range(len(first))).tolist(),
        *second.gather(range(len(second))).tolist(),
    ]
    with pytest.raises(DataError, match=r"'film-0.png' is in two rows"):
        merge_sets([first, first], tmp_path / "twice", lambda done, total: None)
    write(tmp_path / "foreign", 5, dataclasses.replace(IDENTITY, preset_hash="ffffffffffff"))
    with pytest.raises(DataError, match=r"ffffffffffff.*expected preset_hash bbbbbbbbbbbb"):
        merge_sets([first, ShardSet.open(tmp_path / "foreign")], tmp_path / "mixed", lambda done, total: None)


def test_writing_takes_the_memory_of_a_shard_whatever_the_length(tmp_path):
    def peak(count: int) -> int:
        identity = dataclasses.replace(IDENTITY, rows=50, tokens_per_image=1024)
        writer = ShardWriter(tmp_path / str(count), identity)
        codes = np.zeros(1024, np.uint16)
        tracemalloc.start()
        for order in range(count):
            writer.add(order, {"id": f"film-{order}", "status": "ok"}, ShardTokens(codes, list(range(100))))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    few, many = peak(150), peak(1500)
    assert many < 1.2 * few + 20_000


def test_one_process_at_a_time_writes_a_set(tmp_path):
    first = ShardWriter(tmp_path / "set", IDENTITY)
    with pytest.raises(MachineError, match="another process is writing it"):
        ShardWriter(tmp_path / "set", IDENTITY)
    first.finish(num_listed=0, list_hash="")
    ShardWriter(tmp_path / "set", IDENTITY).finish(num_listed=0, list_hash="")


def test_codes_of_a_gpu_are_not_put_beside_those_of_a_cpu(tmp_path):
    """Both round, and not alike: the identity says which arithmetic it was."""
    ShardWriter(tmp_path / "set", IDENTITY).finish(num_listed=0, list_hash="")
    with pytest.raises(DataError, match="shards of device cpu; expected device cuda"):
        ShardWriter(tmp_path / "set", dataclasses.replace(IDENTITY, device="cuda"))
