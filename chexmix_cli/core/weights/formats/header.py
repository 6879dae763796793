"""Read a safetensors header without its tensors and without torch, and the description of a model we put into it.

The format: eight bytes of header length (little endian), the header as JSON, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chexmix_cli.core.errors import ChexmixError, WeightsError
from chexmix_cli.core.settings.load import build, to_dict
from chexmix_cli.core.settings.model import ModelSettings

#: Header key of our description, and its version.
DESCRIPTION_KEY = "chexmix"
SCHEMA = 1
#: Header key of a head of findings (core/infer/classification/heads.py).
HEAD_KEY = "chexmix-head"
#: Header key of what train films are like (core/infer/typicality.py).
TYPICAL_KEY = "chexmix-typical"
#: Header key of projections of images and reports (``infer/retrieval/projection.py``).
RETRIEVAL_KEY = "chexmix-retrieval"

#: Bytes of one element. Only floating-point tensors are weights; the others are known so that a file can be listed.
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")

# Room for 100,000 tensors and more. Read, a header takes fifteen times its bytes: at most 250 MiB.
_MAX_HEADER_BYTES = 16 << 20
_AGAIN = "copy or fetch the file again"
#: Bytes by which a file is known for what it is.
_LONGEST_START = 64


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What the header says of one tensor; ``start`` and ``stop`` are bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Description:
    """What our files say about themselves: the model, and how the file came to be (free form)."""

    settings: ModelSettings
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the value of the header key."""
        return json.dumps({"schema": SCHEMA, "model": to_dict(self.settings), "provenance": dict(self.provenance)})


@dataclass(frozen=True, slots=True)
class Header:
    """The header of one safetensors file, held against the file's size."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    @property
    def num_parameters(self) -> int:
        """Return the number of elements of all tensors."""
        return sum(math.prod(info.shape) for info in self.tensors.values())

    @property
    def num_bytes(self) -> int:
        """Return the bytes of all tensors."""
        return sum(info.stop - info.start for info in self.tensors.values())

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor."""
        return {name: info.shape for name, info in self.tensors.items()}

    def description(self) -> Description | None:
        """Return our description, or None if the file is not ours.

        Raises:
            WeightsError: if it is damaged or of a newer schema.
        """
        text = self.metadata.get(DESCRIPTION_KEY)
        return None if text is None else description_of(text, f"{self.path.name}: header key {DESCRIPTION_KEY!r}")


def description_of(text: str, where: str) -> Description:
    """Return the description that a file holds as JSON.

    Args:
        text: as :meth:`Description.to_json` writes it.
        where: what messages name.

    Raises:
        WeightsError: if it is damaged or of a newer schema.
    """
    try:
        values = parse_object(text.encode())
        schema = values["schema"]
        if schema != SCHEMA:
            raise WeightsError(f"schema {schema}", where=where, expected=str(SCHEMA), hint="use a newer chexmix")
        provenance = values.get("provenance")
        return _description(values["model"], {} if provenance is None else provenance)
    except WeightsError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"cannot be read ({error!r})", where=where, hint=_AGAIN) from None
    except ChexmixError as error:
        raise WeightsError(str(error), where=where) from None


def _description(model: dict[str, Any], provenance: dict[str, Any]) -> Description:
    """Return a description; the one place that knows what older files said elsewhere.

    Up to 0.1.0 the decoder's attention stood in the provenance, as stage 2 has it: ``paper`` or ``bidirectional``.
    """
    if not isinstance(provenance, dict):
        raise TypeError("the provenance is no JSON object")
    if "attention" in provenance and "attention" not in model["decoder"]:
        trained = provenance["attention"]
        provenance = {key: value for key, value in provenance.items() if key != "attention"}
        model = {**model, "decoder": {**model["decoder"], "attention": "causal" if trained == "paper" else trained}}
    return Description(build(ModelSettings, model, where="model"), provenance)


def read_header(path: Path) -> Header:
    """Return the header of a safetensors file.

    Raises:
        WeightsError: if the file is missing, cut short, longer than its header says, or no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_LONGEST_START)
            length = int.from_bytes(start[:8], "little")
            _refuse_placeholder(start, path)
            if start[8:9] != b"{":
                raise WeightsError("is not a safetensors file", where=str(path), hint=_AGAIN)
            if length > _MAX_HEADER_BYTES:
                expected = f"at most {_MAX_HEADER_BYTES}"
                raise WeightsError(f"has a header of {length} bytes", where=str(path), expected=expected, hint=_AGAIN)
            if 8 + length > size:
                raise _cut_short(path, size, 8 + length)
            file.seek(8)
            text = file.read(length)
    except FileNotFoundError:
        raise WeightsError("no such file", where=str(path)) from None
    except OSError as error:
        raise WeightsError(f"cannot be read ({error.strerror})", where=str(path)) from None
    try:
        values = parse_object(text)
        metadata = {str(key): str(value) for key, value in values.pop("__metadata__", {}).items()}
        tensors = {name: _tensor_info(value) for name, value in values.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"has a damaged header ({error})", where=str(path), hint=_AGAIN) from None
    _check_bytes(path, tensors, size, 8 + length)
    return Header(path, tensors, metadata)


def in_order(content: bytes) -> bytes:
    """Return the bytes of a safetensors file, or its header's alone, with the metadata by name; as many bytes.

    The safetensors package writes it in another order each time, so that the same tensors had other bytes.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    values = json.loads(content[8:end])
    if "__metadata__" not in values:
        return content
    values["__metadata__"] = dict(sorted(values["__metadata__"].items()))
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    return content[:8] + text.ljust(end - 8) + content[end:]


def write_in_order(path: Path) -> None:
    """Put the metadata of a safetensors file that nobody knows yet in order, in its place."""
    with path.open("r+b") as file:
        length = file.read(8)
        content = in_order(length + file.read(int.from_bytes(length, "little")))
        file.seek(0)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def parse_object(text: bytes) -> dict[str, Any]:
    """Return the JSON object of a file's text.

    Raises:
        ValueError: if it is none, is nested deeper than any such file is, or has a name twice: readers would differ
            on which of the two counts.
    """
    try:
        values = json.loads(text.decode("utf-8"), object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    return values


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{name!r} is there twice")
        values[name] = value
    return values


def refuse_placeholder(path: Path) -> None:
    """Raise WeightsError if a file is what stands in for one that was not fetched; a missing file is passed over."""
    try:
        with path.open("rb") as file:
            start = file.read(_LONGEST_START)
    except OSError:
        return
    _refuse_placeholder(start, path)


def _refuse_placeholder(start: bytes, path: Path) -> None:
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError("is a git-lfs pointer, not the file", where=str(path), hint="run `git lfs pull` there")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html")):
        raise WeightsError(
            "is a web page, not the file", where=str(path), hint="fetch the file itself (on a hub: resolve/)"
        )


def _tensor_info(value: Any) -> TensorInfo:
    start, stop = (_whole(offset) for offset in value["data_offsets"])
    return TensorInfo(str(value["dtype"]), tuple(_whole(extent) for extent in value["shape"]), start, stop)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def _check_bytes(path: Path, tensors: Mapping[str, TensorInfo], size: int, first: int) -> None:
    """Hold the tensors, the first of which begins at byte ``first``, against each other and the size of the file."""
    end = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        item_bytes = DTYPE_BYTES.get(info.dtype)
        if item_bytes is None:
            raise WeightsError(
                f"tensor {name} has dtype {info.dtype}", where=str(path), expected=", ".join(DTYPE_BYTES)
            )
        is_whole = min(info.shape, default=0) >= 0 and info.stop - info.start == math.prod(info.shape) * item_bytes
        problem = "" if is_whole else "are not those of its shape"
        if info.start != end:
            problem = "overlap those of another tensor" if info.start < end else "leave a gap before them"
        if problem:
            raise WeightsError(f"has a damaged header (the bytes of {name} {problem})", where=str(path), hint=_AGAIN)
        end = info.stop
    if size < first + end:
        raise _cut_short(path, size, first + end)
    if size > first + end:
        raise WeightsError(f"has {size - first - end} bytes too many", where=str(path), hint=_AGAIN)


def _cut_short(path: Path, found: int, expected: int) -> WeightsError:
    return WeightsError(f"is cut short at {found} bytes", where=str(path), expected=f"{expected} bytes", hint=_AGAIN)
