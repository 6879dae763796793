"""Damaged copies of sound files, made by a seeded generator that knows what each form of file is made of."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import dicom_damage

#: What numbers in binary fields and in texts become: the ends of ranges, and what lies outside them.
_BINARY = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_WRITTEN = ("0", "-1", "1e400", "-1e400", "9" * 30, "9" * 5000, "1e-400", "NaN", "Infinity", "18446744073709551616")
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.5, 10**30, -(2**63), 2**64, 1e308, "", "x", "\x00", "\ud800", "../../etc/passwd",
    "a" * 3000, [], {}, [[]], [None], ["x"], [1, 2, 3], {"a": 1}, [[1], [2, 3]], "NaN", "1e400",
)  # fmt: skip
_DEEP = 20_000
#: Entities that would read a file, or be a gigabyte.
_ENTITIES = (
    b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
    b'<!DOCTYPE x [<!ENTITY a0 "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 10))
    + b'<!ENTITY a "&a9;">]>',
)
_NAMES = ("../out.png", "/tmp/out.png", "a/../../out.png", "C:\\out.png", "\x00.png", "x" * 300 + ".png", "a.png", "")

Change = Callable[[bytes, random.Random], bytes]


def _place(data: bytes, generator: random.Random) -> int:
    """Return a place, half of the time in the head, where formats say how the rest is to be read."""
    most = min(len(data), 512) if generator.random() < 0.5 else len(data)
    return generator.randrange(most) if most else 0


def flip(data: bytes, generator: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[_place(data, generator)] ^= 1 << generator.randrange(8)
    return bytes(changed)


def cut(data: bytes, generator: random.Random) -> bytes:
    """Cut the end off, as a transfer that broke does."""
    return data[: generator.randrange(len(data))] if data else data


def splice(data: bytes, generator: random.Random) -> bytes:
    start, place = _place(data, generator), _place(data, generator)
    piece = data[start : start + generator.choice((1, 4, 16, 200))]
    return data[:place] + piece * generator.choice((1, 1, 2, 50)) + data[place + generator.choice((0, len(piece))) :]


def remove(data: bytes, generator: random.Random) -> bytes:
    place = _place(data, generator)
    return data[:place] + data[place + generator.choice((1, 2, 8, 100)) :]


def insert(data: bytes, generator: random.Random) -> bytes:
    place = _place(data, generator)
    return data[:place] + generator.randbytes(generator.choice((1, 4, 64))) + data[place:]


def extreme(data: bytes, generator: random.Random) -> bytes:
    size, place = generator.choice((1, 2, 4, 8)), _place(data, generator)
    order = generator.choice("<>")
    number = struct.pack(f"{order}Q", generator.choice(_BINARY))
    return data[:place] + (number[:size] if order == "<" else number[-size:]) + data[place + size :]


def number(data: bytes, generator: random.Random) -> bytes:
    """Put an extreme number where one is written out."""
    places = [found.span() for found in re.finditer(rb"-?\d+(?:\.\d+)?", data)]
    if not places:
        return flip(data, generator)
    start, stop = generator.choice(places)
    return data[:start] + generator.choice(_WRITTEN).encode() + data[stop:]


def nest(data: bytes, generator: random.Random) -> bytes:
    place = _place(data, generator)
    deep = generator.choice((b"[", b'{"a":', b"<a>", b"(", b'["a",{"b":'))
    return data[:place] + deep * generator.choice((50, _DEEP)) + data[place:]


def repeat_line(data: bytes, generator: random.Random) -> bytes:
    lines = data.split(b"\n")
    line = generator.choice(lines)
    lines.insert(generator.randrange(len(lines) + 1), line)
    return b"\n".join(lines)


def strange_text(data: bytes, generator: random.Random) -> bytes:
    piece = generator.choice((b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", "\u2028".encode(), b"\r", b'"', b"\x1f\x8b",
                              b"\xed\xa0\x80",
                              b",", b"\t", b"=1+1", b"\x0c", b"\x85", b"\n\n"))  # fmt: skip
    place = _place(data, generator)
    return data[:place] + piece + data[place:]


def entities(data: bytes, generator: random.Random) -> bytes:
    head, mark, rest = data.partition(b"?>")
    body = rest if mark else data
    place = body.find(b">", generator.randrange(max(1, len(body)))) + 1
    return (head + mark if mark else b"") + generator.choice(_ENTITIES) + body[:place] + b"&a;" + body[place:]


def json_value(value: Any, generator: random.Random) -> Any:
    """Return a JSON value with one of its parts changed; JSON inside of texts counts as a part."""
    if isinstance(value, str) and value[:1] in "{[" and generator.random() < 0.9:
        try:
            return json.dumps(json_value(json.loads(value), generator))
        except ValueError:
            pass
    if isinstance(value, dict | list) and value and generator.random() < 0.85:
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, what = generator.choice(keys), generator.random()
        changed: Any = dict(value) if isinstance(value, dict) else list(value)
        if what < 0.12:
            del changed[key]
        elif what < 0.2 and isinstance(changed, dict):
            changed[generator.choice(("", "x", "__metadata__", "schema", f"{key} "))] = changed.pop(key)
        elif what < 0.2:
            changed.append(changed[key])
        else:
            changed[key] = json_value(value[key], generator)
        return changed
    if type(value) in (int, float) and generator.random() < 0.5:
        return generator.choice((value + 1, -value, value * 2, value * 10**6, float(value), str(value), value + 0.5))
    return generator.choice(_VALUES)


def _dumped(value: Any, generator: random.Random) -> str:
    text = json.dumps(value)
    if generator.random() < 0.1 and (places := [found.span() for found in re.finditer(r'"\w+": ', text)]):
        start, stop = generator.choice(places)
        text = text[:start] + text[start:stop] + generator.choice(("null", "1", '""', "{}")) + ", " + text[start:]
    return text


def json_text(data: bytes, generator: random.Random) -> bytes:
    """Change a part of one JSON value: a type, a number, a key that is gone or there twice."""
    lines = data.split(b"\n")
    places = [place for place, line in enumerate(lines) if line[:1] in (b"{", b"[")]
    try:
        if len(places) > 1:
            place = generator.choice(places)
            lines[place] = _dumped(json_value(json.loads(lines[place]), generator), generator).encode()
            return b"\n".join(lines)
        return _dumped(json_value(json.loads(data), generator), generator).encode() + b"\n"
    except ValueError:
        return flip(data, generator)


def safetensors_header(data: bytes, generator: random.Random) -> bytes:
    """Change a part of the JSON header, its length as it then has to be."""
    length = int.from_bytes(data[:8], "little")
    header = _dumped(json_value(json.loads(data[8 : 8 + length]), generator), generator).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def safetensors_values(data: bytes, generator: random.Random) -> bytes:
    """Put NaN, infinities and the ends of ranges where the numbers are."""
    start = 8 + int.from_bytes(data[:8], "little")
    bad = generator.choice(
        (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", b"\xff\xff\xff\xff", b"\x00" * 4)
    )
    place = start + 4 * generator.randrange(max(1, (len(data) - start) // 4))
    return data[:place] + bad * generator.choice((1, 2, 4)) + data[place + 4 * generator.choice((1, 2, 4)) :]


def zip_members(data: bytes, generator: random.Random) -> bytes:
    """Change an archive's members: their names, kinds and contents, links and bombs among them."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, ValueError, OSError):
        return flip(data, generator)
    chosen, what, stream = generator.randrange(len(members)), generator.randrange(6), io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for place, (info, content) in enumerate(members):
            new = zipfile.ZipInfo(info.filename)
            new.compress_type, new.external_attr = zipfile.ZIP_DEFLATED, info.external_attr
            if place == chosen and what == 0:
                new.filename = new.orig_filename = generator.choice(_NAMES)
            elif place == chosen and what == 1:
                new.external_attr, content = 0o120777 << 16, b"/etc/passwd"
            elif place == chosen and what == 2:
                content = content[:200] + bytes(generator.choice((1 << 20, 40 << 20)))
            elif place == chosen and what == 3:
                content = data
            elif place == chosen:
                content = change(content, generator, TEXT if content[:1] in b"<{[" else BYTES)
            archive.writestr(new, content, compresslevel=1)  # most of an input's time otherwise
        if what == 3:
            archive.writestr(members[chosen][0].filename, b"another")
    return flip(stream.getvalue(), generator) if generator.random() < 0.2 else stream.getvalue()


def dicom(data: bytes, generator: random.Random) -> bytes:
    return dicom_damage.mutate(data, generator.randrange(1 << 62))


BYTES: tuple[Change, ...] = (flip, cut, splice, remove, insert, extreme)
TEXT: tuple[Change, ...] = (flip, cut, splice, remove, number, nest, repeat_line, strange_text)
JSON: tuple[Change, ...] = (*TEXT, *[json_text] * 12)
XML: tuple[Change, ...] = (*TEXT, entities, entities)
SAFETENSORS: tuple[Change, ...] = (*BYTES, safetensors_values, safetensors_values, *[safetensors_header] * 12)
ZIP: tuple[Change, ...] = (*BYTES, *[zip_members] * 8)
DICOM: tuple[Change, ...] = (*BYTES, *[dicom] * 12)


def change(data: bytes, generator: random.Random, changes: tuple[Change, ...]) -> bytes:
    """Return a damaged copy, by one change or a few."""
    for _ in range(generator.choice((1, 1, 1, 1, 2, 4))):
        try:
            data = generator.choice(changes)(data, generator)
        except Exception:  # an earlier change took away what this one needs
            data = flip(data, generator)
    return data
