"""Finds planted texts in anything that was written: names and bytes, and what is packed into them."""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from PIL import Image
from safetensors.numpy import load
from tokenizers import Tokenizer

from tests.privacy.planted import PLANTED

TOKENIZER = Path(__file__).resolve().parents[2] / "chexmix_cli/assets/chexmix-mini/tokenizer.json"
_DATA_URL = re.compile(rb"data:[\w./+-]+;base64,([A-Za-z0-9+/=]+)")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{64,}={0,2}")
_WHOLE_NUMBERS = re.compile(rb"\[(\d+(?:, ?\d+){2,})\]")
_DEFLATED = re.compile(rb"stream\r?\n(.*?)endstream", re.DOTALL)


def kinds_in(data: bytes, name: str = "") -> set[str]:
    """Return the kinds of planted texts in a file's bytes or its name, without regard to case.

    Looked into: UTF-8 and UTF-16, members of archives with their names and comments (zip, npz, xlsx), chunks of
    pictures, token ids in tensors and in JSON, base64 as in pages and JSON, deflated streams as in PDF.
    """
    found: set[str] = set()
    for part in (name.encode(), *_layers(data)):
        lowered = part.lower()
        # Every second byte of UTF-16 is 0 for these texts.
        narrowed = lowered.replace(b"\0", b"")
        for kind, texts in PLANTED.items():
            if any(text.lower().encode() in lowered or text.lower().encode() in narrowed for text in texts):
                found.add(kind)
    return found


def _layers(data: bytes, depth: int = 0) -> Iterator[bytes]:
    yield data
    if depth == 3:
        return
    packed = [*_members(data), *_chunks(data), *_tokens(data)]
    packed += [_inflated(stream) for stream in _DEFLATED.findall(data)]
    for text in {*_DATA_URL.findall(data), *_BASE64.findall(data)}:
        try:
            packed.append(base64.b64decode(text[: len(text) // 4 * 4]))
        except binascii.Error:
            continue
    for part in packed:
        yield from _layers(part, depth + 1)


def _members(data: bytes) -> Iterator[bytes]:
    if not data.startswith(b"PK"):
        return
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        yield file.comment
        for member in file.infolist():
            yield member.filename.encode() + member.comment
            yield file.read(member)


def _chunks(data: bytes) -> Iterator[bytes]:
    if not data.startswith((b"\x89PNG", b"\xff\xd8", b"RIFF", b"II*", b"MM\0*")):
        return
    with Image.open(io.BytesIO(data)) as picture:
        with suppress(OSError, struct.error):  # some inputs are cut
            picture.load()
        yield repr(picture.info).encode()
        yield repr(dict(picture.getexif())).encode()


def _tokens(data: bytes) -> Iterator[bytes]:
    """Give the texts that token ids stand for, in a safetensors file or as lists in JSON: of unfinished shards, shares.

    The models of the tests have one tokenizer. Other whole numbers are read as ids, too, and give no word.
    """
    length = int.from_bytes(data[:8], "little")
    if data[8:9] == b"{" and length <= len(data):
        lists = [values.tolist() for name, values in load(data).items() if name == "text_ids"]
    else:
        lists = [[int(number) for number in found.split(b",")] for found in _WHOLE_NUMBERS.findall(data)]
    tokenizer = Tokenizer.from_file(str(TOKENIZER)) if lists else None
    for ids in lists:
        assert tokenizer is not None
        yield tokenizer.decode([number for number in ids if number < tokenizer.get_vocab_size()]).encode()


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data)
    except zlib.error:
        return b""


def kinds_of(folder: Path) -> dict[str, set[str]]:
    """Return what was found in each file below a folder, by its path from there, and in the names of folders."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        if kinds := kinds_in(content, name):
            found[name] = kinds
    return found
