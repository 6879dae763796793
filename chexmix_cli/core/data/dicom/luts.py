"""Modality and VOI LUTs as their data show them, where the descriptor says something else.

Entries are unsigned whatever the VR (PS3.3 C.11.1.1.1, C.11.2.1.1). Descriptors that state the stored size in place of
the range, or too few bits or entries, are met; viewers go by the entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.data.dicom.file import DicomFile
from chexmix_cli.core.data.rendering.levels import Levels

_WORD = 1 << 16
#: Share of a film's pixels outside of a LUT above which it is said.
_OUTSIDE = 0.05


@dataclass(frozen=True, slots=True)
class Lut:
    """A look-up table.

    Attributes:
        entries: float64, 0 to top.
        first_mapped: the value that the first entry is for.
        top: the largest entry that there could be.
    """

    entries: NDArray[np.float64]
    first_mapped: float
    top: float


def read_lut(item: DicomFile, name: str, values_L: NDArray[np.float64], levels: Levels, notes: list[str]) -> Lut | None:
    """Return an item of a LUT sequence; None if it is damaged.

    Args:
        item: of a modality or VOI LUT sequence.
        name: for notes.
        values_L: what is to be looked up; of which ``levels`` tells how often each occurs.
        levels: of the film.
        notes: gets one for each contradiction between descriptor and data.
    """
    descriptor = _descriptor(item)
    if descriptor is None:
        return None
    num_said, first_mapped, bits = descriptor
    entries = _entries(item, num_said, bits)
    if entries is None or len(entries) == 0:
        return None
    occurring_L = values_L[levels.counts_L > 0]
    # The first mapped value is as signed as the pixels; headers often write it the other way.
    if first_mapped >= _WORD // 2 and occurring_L.min() < 0:
        first_mapped -= _WORD
    elif first_mapped < 0 and occurring_L.min() >= 0 and occurring_L.max() >= _WORD // 2:
        first_mapped += _WORD
    if len(entries) != num_said:
        if len(entries) < min(num_said, occurring_L.max() - first_mapped + 1):
            return None
        notes.append(f"the {name} has {len(entries)} entries, its descriptor says {num_said}; all are used")
    reach = int(entries.max()).bit_length()
    if reach not in (0, bits):
        notes.append(f"the entries of the {name} reach {reach} bits, its descriptor says {bits}; the entries count")
        bits = reach
    is_outside_L = (values_L < first_mapped) | (values_L >= first_mapped + len(entries))
    outside = levels.counts_L[is_outside_L].sum() / levels.counts_L.sum()
    if outside > _OUTSIDE:
        notes.append(f"{outside:.0%} of the pixels lie outside of the {name}")
    return Lut(entries.astype(np.float64), float(first_mapped), float((1 << bits) - 1))


def _descriptor(item: DicomFile) -> tuple[int, int, int] | None:
    """Return number of entries, first value mapped and bits of an entry; the number is unsigned, 0 is 65,536."""
    value = item.value("LUTDescriptor")
    if isinstance(value, bytes) and len(value) == 6:
        numbers = [int(number) for number in np.frombuffer(value, _word_type(item))]
    else:
        numbers = [int(number) for number in item.numbers("LUTDescriptor")]
    if len(numbers) != 3:
        return None
    return numbers[0] % _WORD or _WORD, numbers[1], numbers[2]


def _entries(item: DicomFile, num_said: int, bits: int) -> NDArray[np.unsignedinteger] | None:
    """Return all entries that there are; fewer or more than were said only if the data leave no other reading."""
    value = item.value("LUTData")
    if isinstance(value, bytes):
        data = value
    else:
        numbers = np.asarray(item.numbers("LUTData"), dtype=np.int64) % _WORD
        data = numbers.astype(_word_type(item)).tobytes()
    if len(data) in (num_said, num_said + 1):  # a byte each, filled up to an even number
        return np.frombuffer(data, np.uint8, count=num_said)
    words: NDArray[np.unsignedinteger] = np.frombuffer(data, _word_type(item), count=len(data) // 2)
    return words[:num_said] if len(words) == num_said + 1 else words


def _word_type(item: DicomFile) -> str:
    return "<u2" if item.transfer_syntax.is_little_endian else ">u2"
