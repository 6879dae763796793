"""An index on disk: appended to, resumed, refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file

from chexmix_cli.core.errors import DataError, MachineError
from chexmix_cli.core.infer.retrieval.index_writer import IndexWriter, digest_of
from chexmix_cli.core.infer.retrieval.vector_index import IndexIdentity, Item, VectorIndex
from chexmix_cli.core.vocab import compact

VOCABULARY = compact(num_text=40, num_codes=20, tokens_per_image=4)

IDENTITY = IndexIdentity(
    model="m",
    model_hash="aa",
    projection_hash=None,
    preset="voi",
    preset_hash="bb",
    dtype="float32",
    image_layer=1,
    text_layer=2,
    section="both",
    size=3,
    with_text=True,
    with_codes=True,
)


def item(number, name=None):
    tokens = list(range(number, number + 4))
    vector_E = torch.nn.functional.normalize(torch.tensor([float(number), 1.0, -1.0]), dim=0)
    return Item(name or f"Bild-ä-{number}", vector_E, number * 7 - 50, tokens)


def fill(folder, numbers, *, identity=IDENTITY, rows=4):
    with IndexWriter(folder, identity, rows=rows) as writer:
        for number in numbers:
            for kind in ("images", "reports"):
                if not writer.holds(kind, item(number).id, item(number).digest):
                    writer.add(kind, item(number))


def test_what_went_in_comes_out(tmp_path):
    fill(tmp_path / "new" / "index", range(10))
    index = VectorIndex.open(tmp_path / "new" / "index")
    assert index.identity == IDENTITY
    for kind in ("images", "reports"):
        assert index.ids(kind) == [item(number).id for number in range(10)]
        assert index.digests(kind) == [item(number).digest for number in range(10)]
        wanted = torch.stack([item(number).vector_E for number in range(10)])
        assert torch.equal(index.vectors(kind), wanted)
        for rows in (1, 3, 100):
            blocks = list(index.blocks(kind, rows))
            assert torch.equal(torch.cat(blocks), wanted)
            assert max(map(len, blocks)) <= min(rows, 4)
        assert [index.tokens(kind, place, VOCABULARY) for place in range(10)] == [
            item(number).tokens for number in range(10)
        ]
    assert sorted(path.name for path in (tmp_path / "new/index").glob("images*")) == [
        f"images-0000{number}.safetensors" for number in range(3)
    ]


def test_it_is_added_to_and_goes_on(tmp_path):
    fill(tmp_path, range(5))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    fill(tmp_path, range(9))
    assert VectorIndex.open(tmp_path).ids("reports") == [item(number).id for number in range(9)]
    fill(tmp_path, range(9))
    assert VectorIndex.open(tmp_path).count("images") == 9
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_run_that_died_leaves_what_was_whole(tmp_path):
    def interrupted():
        with IndexWriter(tmp_path, IDENTITY, rows=4) as writer:
            for number in range(6):
                writer.add("images", item(number))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert VectorIndex.open(tmp_path).count("images") == 6  # an interrupted run still writes what it has
    (tmp_path / ".images-00002.safetensors.77.partial").write_bytes(b"half of a file")  # one killed with -9 cannot
    fill(tmp_path, range(8))
    assert VectorIndex.open(tmp_path).ids("images") == [item(number).id for number in range(8)]
    assert not list(tmp_path.glob(".*.partial"))


def test_one_id_is_one_image(tmp_path):
    fill(tmp_path, range(2))
    with IndexWriter(tmp_path, IDENTITY, rows=4) as writer, pytest.raises(DataError, match="another image of this id"):
        writer.holds("images", item(1).id, 12345)


def test_another_model_or_setting_is_refused(tmp_path):
    fill(tmp_path, range(2))
    for name, value in (("model_hash", "cc"), ("image_layer", 2), ("with_text", False), ("projection_hash", "dd")):
        with pytest.raises(DataError, match=f"an index of {name} .*; expected {name} {value}"):
            IndexWriter(tmp_path, dataclasses.replace(IDENTITY, **{name: value}), rows=4)
    with FileLock(tmp_path / ".lock"), pytest.raises(MachineError, match="another process is writing it"):
        IndexWriter(tmp_path, IDENTITY, rows=4)
    fill(tmp_path, range(3))  # the lock of a process that is gone holds nobody up


def test_what_is_no_index_is_refused(tmp_path):
    with pytest.raises(DataError, match="no index .*; expected a folder that `chexmix retrieve index` has made"):
        VectorIndex.open(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty and holds no index"):
        IndexWriter(tmp_path, IDENTITY, rows=4)
    (tmp_path / "notes.txt").unlink()
    (tmp_path / "notes.txt").mkdir()
    with pytest.raises(MachineError, match="cannot be written"):
        IndexWriter(tmp_path / "notes.txt" / "\0".replace("\0", "x" * 300), IDENTITY, rows=4)


def test_damage_is_named(tmp_path):
    fill(tmp_path, range(10))
    path = tmp_path / "images-00001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r"images-00001.safetensors: cannot be read"):
        VectorIndex.open(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"images-00001.safetensors is missing"):
        VectorIndex.open(tmp_path)
    fill(tmp_path / "other", range(8), identity=dataclasses.replace(IDENTITY, model_hash="zz"))
    path.write_bytes((tmp_path / "other/images-00001.safetensors").read_bytes())
    with pytest.raises(DataError, match="is of another index"):
        VectorIndex.open(tmp_path)
    path.write_bytes(whole)
    file = tmp_path / "index.json"
    good = file.read_text()
    for text, message in (
        ("no JSON", "cannot be read"),
        (json.dumps({**json.loads(good), "schema": "chexmix-index/9"}), "schema 'chexmix-index/9'"),
        (json.dumps({**json.loads(good), "identity": {"model": 3}}), "a damaged identity"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            VectorIndex.open(tmp_path)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("id_offsets", lambda offsets: offsets + 1),
        ("id_offsets", lambda offsets: offsets.flip(0)),
        ("text_offsets", lambda offsets: offsets - offsets[1]),
        ("text_offsets", lambda offsets: torch.cat([offsets[:-1], offsets[-1:] + 1])),
        ("text_offsets", lambda offsets: torch.cat([offsets[:2], offsets[1:2] - 1, offsets[3:]])),
    ],
)
def test_offsets_that_do_not_cut_their_values_are_refused(tmp_path, name, changed):
    """They made an empty text, or a name of another item's letters, and nothing said so."""
    fill(tmp_path, range(4))
    rewrite(tmp_path / "reports-00000.safetensors", {name: changed})
    with pytest.raises(DataError, match=r"reports-00000.safetensors: has offsets that do not fit (text_)?ids"):
        VectorIndex.open(tmp_path)


@pytest.mark.parametrize("name", ["vectors", "digests", "ids", "id_offsets", "text_ids", "text_offsets"])
def test_numbers_of_another_type_are_refused(tmp_path, name):
    fill(tmp_path, range(4))
    rewrite(tmp_path / "reports-00000.safetensors", {name: lambda values: values.to(torch.float64)})
    with pytest.raises(DataError, match="reports-00000.safetensors: holds tensors"):
        VectorIndex.open(tmp_path)


def rewrite(path, changes):
    """Change tensors of a file, which still is of its index."""
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors | {name: change(tensors[name]) for name, change in changes.items()}, path, metadata)


def test_files_of_the_wrong_shape_are_refused(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    fill(tmp_path, range(3))
    path = tmp_path / "reports-00000.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    save_file({**tensors, "digests": tensors["digests"][:2].clone()}, path, metadata=metadata)
    with pytest.raises(DataError, match="holds tensors"):
        VectorIndex.open(tmp_path)


def test_tokens_that_are_not_kept_are_missed_by_name(tmp_path):
    fill(tmp_path, range(2), identity=dataclasses.replace(IDENTITY, with_text=False, with_codes=False))
    index = VectorIndex.open(tmp_path)
    with pytest.raises(DataError, match="keeps no texts of reports"):
        index.tokens("reports", 0, VOCABULARY)
    with pytest.raises(DataError, match="keeps no codes of images"):
        index.tokens("images", 0, VOCABULARY)
    assert b"text_ids" not in (tmp_path / "reports-00000.safetensors").read_bytes()


def test_digests_fit_the_file():
    values = [digest_of(str(number).encode()) for number in range(200)]
    assert len(set(values)) == 200
    assert min(values) >= -(2**63)
    assert max(values) < 2**63
    assert min(values) < 0 < max(values)
