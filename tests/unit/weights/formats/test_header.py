"""Headers of safetensors files, byte by byte: what is read, and the one line that is said of what is not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.settings.load import to_dict
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.weights.formats import header
from chexmix_cli.core.weights.formats.header import (
    Description,
    Header,
    TensorInfo,
    description_of,
    read_header,
    refuse_placeholder,
)

AGAIN = "; hint: copy or fetch the file again"


def headed(text: bytes, data: int = 4) -> bytes:
    """Return a file of this header and so many bytes."""
    return len(text).to_bytes(8, "little") + text + bytes(data)


def described(tensors: dict[str, object], data: int) -> bytes:
    return headed(json.dumps(tensors).encode(), data)


def info(shape: list[int], start: int, stop: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def said(path: Path) -> str:
    """Return what is said of a file that is refused, behind its name."""
    with pytest.raises(WeightsError) as caught:
        read_header(path)
    start = f"{path}: "
    assert caught.value.with_hint.startswith(start)
    return caught.value.with_hint.removeprefix(start)


def test_a_header_is_what_the_format_says(tmp_path: Path) -> None:
    tensors = {
        "__metadata__": {"note": "a", "count": 3},
        "matrix": info([2, 3], 0, 24),
        "scalar": info([], 24, 26, "BF16"),
        "empty": info([4, 0], 26, 26, "F64"),
    }
    path = written(tmp_path / "a.safetensors", described(tensors, 26))
    found = read_header(path)
    assert found == Header(
        path,
        {
            "matrix": TensorInfo("F32", (2, 3), 0, 24),
            "scalar": TensorInfo("BF16", (), 24, 26),
            "empty": TensorInfo("F64", (4, 0), 26, 26),
        },
        {"note": "a", "count": "3"},
    )
    assert found.shapes == {"matrix": (2, 3), "scalar": (), "empty": (4, 0)}
    assert (found.num_parameters, found.num_bytes) == (7, 26)


def test_tensors_stand_in_any_order_and_an_empty_one_takes_no_room(tmp_path: Path) -> None:
    tensors = {"last": info([1], 8, 12), "first": info([2], 0, 8), "empty": info([0], 0, 0)}
    assert read_header(written(tmp_path / "a.safetensors", described(tensors, 12))).num_bytes == 12
    assert read_header(written(tmp_path / "b.safetensors", described({}, 0))).tensors == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a safetensors file" + AGAIN),
        (b"\2\0\0\0", "is not a safetensors file" + AGAIN),
        (b"not weights at all, just some text that is long enough", "is not a safetensors file" + AGAIN),
        ((2).to_bytes(8, "little") + b"{}" + b"rest", "has 4 bytes too many" + AGAIN),
        (headed(b'{"a":1,"a":2}'), "has a damaged header ('a' is there twice)" + AGAIN),
        (headed(b'{"a":' + b"[" * 100_000), "has a damaged header (nested too deeply)" + AGAIN),
        ((3).to_bytes(8, "little") + b"{}", "is cut short at 10 bytes; expected 11 bytes" + AGAIN),
        ((50).to_bytes(8, "little") + b'{"a":', "is cut short at 13 bytes; expected 58 bytes" + AGAIN),
        (described({"a": info([1], 0, 4)}, 7), "has 3 bytes too many" + AGAIN),
        (
            (10**9).to_bytes(8, "little") + b"{}",
            "has a header of 1000000000 bytes; expected at most 16777216" + AGAIN,
        ),
        # Eight bytes, a header of 61, and a tensor of 8 that lacks one.
        (described({"a": info([2], 0, 8)}, 7), "is cut short at 76 bytes; expected 77 bytes" + AGAIN),
        (
            described({"a": info([2], 0, 8, "F99")}, 8),
            "tensor a has dtype F99; expected F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "is a git-lfs pointer, not the file; hint: run `git lfs pull` there",
        ),
    ],
)
def test_what_is_refused_is_said_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    assert said(written(tmp_path / "bad.safetensors", content)) == message


@pytest.mark.parametrize("page", [b"<!DOCTYPE html>", b"\n \t<html lang=en>", b"\xef\xbb\xbf\r\n<HTML>"])
def test_a_web_page_in_place_of_a_file_is_told(tmp_path: Path, page: bytes) -> None:
    path = written(tmp_path / "page.safetensors", page + b"<head><title>Sign in</title></head>")
    message = "is a web page, not the file; hint: fetch the file itself (on a hub: resolve/)"
    assert said(path) == message
    with pytest.raises(WeightsError) as caught:
        refuse_placeholder(path)
    assert caught.value.with_hint == f"{path}: {message}"


def test_only_what_stands_in_for_a_file_is_a_placeholder(tmp_path: Path) -> None:
    refuse_placeholder(tmp_path / "missing")
    refuse_placeholder(written(tmp_path / "a.safetensors", described({}, 0)))
    with pytest.raises(WeightsError, match="git-lfs pointer"):
        refuse_placeholder(written(tmp_path / "b.safetensors", b"version https://git-lfs.github.com/spec/v1\n"))


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":{"dtype":"F32"}',
        b"{{",
        b'{"a":{"dtype":"F32","shape":[1]}}',
        b'{"a":1}',
        b'{"__metadata__":3}',
        b"{\xff}",
    ],
)
def test_a_header_that_is_no_header_is_damaged(tmp_path: Path, text: bytes) -> None:
    assert re.fullmatch(
        r"has a damaged header \(.+\)" + AGAIN, said(written(tmp_path / "bad.safetensors", headed(text)))
    )


@pytest.mark.parametrize(("extent", "read"), [("1e400", "inf"), ("1.5", "1.5"), ("true", "True"), ('"1"', "'1'")])
def test_shapes_are_whole_numbers(tmp_path: Path, extent: str, read: str) -> None:
    text = '{"a":{"dtype":"F32","shape":[' + extent + '],"data_offsets":[0,4]}}'
    message = f"has a damaged header ({read} is no whole number)" + AGAIN
    assert said(written(tmp_path / "bad.safetensors", headed(text.encode()))) == message


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({"a": info([2], 0, 8), "b": info([1], 12, 16)}, "b leave a gap before them"),
        ({"a": info([2], 4, 12), "b": info([1], 12, 16)}, "a leave a gap before them"),
        ({"a": info([2], 0, 8), "b": info([1], 4, 8)}, "b overlap those of another tensor"),
        ({"a": info([2], 0, 8), "b": info([2], 0, 8)}, "b overlap those of another tensor"),
        ({"a": info([2], 0, 12)}, "a are not those of its shape"),
        ({"a": info([-2], 0, -8)}, "a are not those of its shape"),
        ({"a": info([-2, -1], 0, 8)}, "a are not those of its shape"),
        ({"a": info([2], 0, 8, "BOOL")}, "a are not those of its shape"),
    ],
)
def test_gaps_overlaps_and_wrong_sizes_are_refused(tmp_path: Path, tensors: dict[str, object], problem: str) -> None:
    path = written(tmp_path / "a.safetensors", described(tensors, 16))
    assert said(path) == f"has a damaged header (the bytes of {problem})" + AGAIN


def test_the_longest_header_is_read_and_no_longer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "_MAX_HEADER_BYTES", 3)
    assert read_header(written(tmp_path / "a.safetensors", headed(b"{ }", 0))).tensors == {}
    path = written(tmp_path / "b.safetensors", headed(b"{  }", 0))
    assert said(path) == "has a header of 4 bytes; expected at most 3" + AGAIN


def test_a_file_that_is_not_there_or_none_is_said(tmp_path: Path) -> None:
    assert said(tmp_path / "missing.safetensors") == "no such file"
    assert said(tmp_path) == "cannot be read (Is a directory)"


def test_a_description_reads_as_it_was_written(tmp_path: Path, tiny: ModelSettings) -> None:
    description = Description(tiny, {"command": "pretrain", "steps": 3})
    assert json.loads(description.to_json()) == {
        "schema": 1,
        "model": json.loads(json.dumps(to_dict(tiny))),
        "provenance": {"command": "pretrain", "steps": 3},
    }
    assert description_of(description.to_json(), "x") == description
    ours = {"__metadata__": {"chexmix": description.to_json()}}
    assert read_header(written(tmp_path / "a.safetensors", described(ours, 0))).description() == description
    foreign = {"__metadata__": {"format": "pt"}}
    assert read_header(written(tmp_path / "b.safetensors", described(foreign, 0))).description() is None


def described_model(tiny: ModelSettings, **changes: object) -> str:
    return json.dumps({"schema": 1, "model": to_dict(tiny), **changes})


def test_a_description_needs_no_provenance(tiny: ModelSettings) -> None:
    assert description_of(described_model(tiny), "x") == Description(tiny, {})
    assert description_of(described_model(tiny, provenance=None), "x") == Description(tiny, {})


@pytest.mark.parametrize(("trained", "attention"), [("paper", "causal"), ("bidirectional", "bidirectional")])
def test_attention_of_old_files_moves_from_the_provenance_into_the_decoder(
    tiny: ModelSettings, trained: str, attention: str
) -> None:
    model = to_dict(tiny)
    del model["decoder"]["attention"]
    text = json.dumps({"schema": 1, "model": model, "provenance": {"attention": trained, "steps": 3}})
    found = description_of(text, "x")
    assert (found.settings.decoder.attention, found.provenance) == (attention, {"steps": 3})
    # A file of today says it in the decoder; what its provenance says is its own affair.
    kept = description_of(described_model(tiny, provenance={"attention": trained}), "x")
    assert (kept.settings, kept.provenance) == (tiny, {"attention": trained})


def test_a_description_that_cannot_be_used_is_said(tmp_path: Path, tiny: ModelSettings) -> None:
    def told(text: str) -> str:
        with pytest.raises(WeightsError) as caught:
            description_of(text, "here")
        return caught.value.with_hint

    assert told(described_model(tiny, schema=2)) == "here: schema 2; expected 1; hint: use a newer chexmix"
    assert told('{"schema": 1}') == "here: cannot be read (KeyError('model'))" + AGAIN
    assert told("[]") == "here: cannot be read (ValueError('no JSON object'))" + AGAIN
    assert told('{"schema": 1, "model": 3}') == "here: model: 3 is an int; expected a section"
    for provenance in (3, "attention", ["attention"]):
        message = "here: cannot be read (TypeError('the provenance is no JSON object'))" + AGAIN
        assert told(described_model(tiny, provenance=provenance)) == message
    model = to_dict(tiny)
    model["decoder"]["num_layers"] = 0
    text = json.dumps({"schema": 1, "model": model})
    assert told(text) == "here: decoder.num_layers: is 0; expected a positive number"
    path = written(tmp_path / "a.safetensors", described({"__metadata__": {"chexmix": "{"}}, 0))
    with pytest.raises(WeightsError, match=r"^a\.safetensors: header key 'chexmix': cannot be read \("):
        read_header(path).description()
