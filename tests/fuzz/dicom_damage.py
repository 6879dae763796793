"""Damaged DICOM files, made from sound ones by a seeded generator: flipped bits, cuts, absurd lengths, moved bytes."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

#: Values that lengths and sizes are set to: nothing, one, the ends of signed and unsigned ranges.
_ABSURD = (0, 1, 2, 0x7FFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)

Mutation = Callable[[bytearray, random.Random, int], None]


def _flip_bits(data: bytearray, generator: random.Random, start: int) -> None:
    for _ in range(generator.randint(1, 20)):
        data[generator.randrange(start, len(data))] ^= 1 << generator.randrange(8)


def _cut(data: bytearray, generator: random.Random, start: int) -> None:
    del data[generator.randrange(start, len(data)) :]


def _remove(data: bytearray, generator: random.Random, start: int) -> None:
    place = generator.randrange(start, len(data))
    del data[place : place + generator.randint(1, 200)]


def _insert(data: bytearray, generator: random.Random, start: int) -> None:
    place = generator.randrange(start, len(data))
    data[place:place] = generator.randbytes(generator.randint(1, 64))


def _scribble(data: bytearray, generator: random.Random, start: int) -> None:
    for _ in range(generator.randint(1, 200)):
        data[generator.randrange(start, len(data))] = generator.randrange(256)


def _absurd_number(data: bytearray, generator: random.Random, start: int) -> None:
    size = generator.choice((2, 4))
    place = generator.randrange(start, len(data) - size)
    data[place : place + size] = struct.pack("<L", generator.choice(_ABSURD))[:size]


def _swap_elements(data: bytearray, generator: random.Random, start: int) -> None:
    """Give one tag of group 0028, which describes the pixels, the place of another."""
    places = [place for place in range(132, min(len(data) - 8, 6000)) if data[place : place + 2] == b"\x28\x00"]
    if len(places) < 2:
        _flip_bits(data, generator, start)
        return
    first, second = generator.sample(places, 2)
    tags = bytes(data[first : first + 4]), bytes(data[second : second + 4])
    data[first : first + 4], data[second : second + 4] = tags[1], tags[0]


def _absurd_size(data: bytearray, generator: random.Random, start: int) -> None:
    """Change rows, columns, bits, frames or samples where explicit little endian elements hold them."""
    element = generator.choice((b"\x10\x00", b"\x11\x00", b"\x00\x01", b"\x01\x01", b"\x02\x00", b"\x03\x01"))
    place = data.find(b"\x28\x00" + element + b"US\x02\x00")
    if place < 0:
        _absurd_number(data, generator, start)
        return
    data[place + 8 : place + 10] = struct.pack("<H", generator.choice(_ABSURD) & 0xFFFF)


_MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits,
    _cut,
    _remove,
    _insert,
    _scribble,
    _absurd_number,
    _swap_elements,
    _absurd_size,
)


def mutate(data: bytes, seed: int) -> bytes:
    """Return a damaged copy; the same for the same seed."""
    generator = random.Random(seed)
    damaged = bytearray(data)
    start = generator.choice((0, 132, 132, len(data) // 2))
    generator.choice(_MUTATIONS)(damaged, generator, start)
    return bytes(damaged)
