"""What stored words show of themselves, held against Bits Stored, Pixel Representation, byte order, Rows and Columns.

A film runs on from pixel to pixel. Read with a bit too few, with the wrong sign or byte order, or in rows of another
length, it jumps. Where another reading of the same words is plainly smoother than the header's, that one is taken, with
a note; where the header's can be right, it is right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.errors import DataError, Reason

Words = NDArray[np.unsignedinteger]

#: Rows that a reading is judged by.
_NUM_ROWS = 256
#: Mean step between neighbours over standard deviation: of the development data's real films at most 0.29.
_ROUGHEST = 0.5
#: Steps over half the range: at most 0.3 % of a real film's. A reading with three times as many, and more by this
#: share, wraps.
_WRAPPED = 0.002
#: A reading whose steps are below this share of the header's is plainly smoother.
_SMOOTHER = 0.7
#: The same for rows of another length, by squares, if the file has more pixels than the header says.
_LIKELIER = 0.95


@dataclass(frozen=True, slots=True)
class Reading:
    """Words as numbers.

    Attributes:
        values: (Y, X) integers.
        bits: that a value may take.
        is_signed: whether one of them is a sign.
        notes: on what the header says otherwise.
    """

    values: NDArray[Any]
    bits: int
    is_signed: bool
    notes: tuple[str, ...] = ()


def read_words(words_YX: Words, bits: int, *, is_signed: bool, has_overlays: bool) -> Reading:
    """Return words as the numbers that they are.

    Args:
        words_YX: (Y, X) as in the file, of the bits allocated.
        bits: Bits Stored.
        is_signed: Pixel Representation is 1.
        has_overlays: the header says that overlay planes lie in the bits above.

    Raises:
        DataError: ``CORRUPT`` if bits above Bits Stored are set and no reading shows a picture.
    """
    stated = Reading(_numbers(words_YX, bits, is_signed), bits, is_signed)
    highest = int(np.bitwise_or.reduce(words_YX, axis=None)).bit_length()
    allocated = 8 * words_YX.dtype.itemsize
    if highest > bits and not has_overlays:
        if is_signed and (_numbers(words_YX, allocated, True) == stated.values).all():
            return _with_sign_shown(words_YX, stated)
        return _with_bits_shown(words_YX, stated, highest)
    reading = _with_sign_shown(words_YX, stated)
    if is_signed and reading is stated and highest < bits and highest > 1:
        # Two's complement of fewer bits than are said to be stored, not filled up.
        narrow = Reading(_numbers(words_YX, highest, True), highest, True)
        if _wraps(stated.values, narrow.values, highest):
            note = f"the values are signed in {highest} bits, not in the {bits} that the header says"
            return replace(narrow, notes=(note,))
    return reading


def native_order(words_YX: Words) -> tuple[Words, tuple[str, ...]]:
    """Return 16-bit words, their bytes swapped, with a note, if that makes a film of them."""
    if words_YX.dtype.itemsize != 2 or int(words_YX.max()) < 256:
        return words_YX, ()
    swapped = words_YX.byteswap()
    if _roughness(swapped) < 0.5 * _roughness(words_YX) and _roughness(swapped) < _ROUGHEST:
        return swapped, ("the bytes are in the other order than the transfer syntax says",)
    return words_YX, ()


def natural_rows(values_YX: NDArray[Any], *, has_rest: bool) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return a frame with rows and columns exchanged, with a note, if that makes a film of it.

    Args:
        values_YX: (Y, X) as the header says.
        has_rest: the file has more pixels than the header says.

    Raises:
        DataError: ``CORRUPT`` if the rows are of another length than the header says, and it is not known which.
    """
    rows, columns = values_YX.shape
    lag, gain = _row_length(values_YX)
    if lag != columns and gain < (_LIKELIER if has_rest else _SMOOTHER):
        if lag == rows and not has_rest:
            return values_YX.reshape(columns, rows), ("Rows and Columns are the other way round in the header",)
        raise DataError(
            Reason.CORRUPT, f"the rows of the picture are {lag} px long", expected=f"{columns}, as in the header"
        )
    return values_YX, ("the pixel data is longer than the header says",) if has_rest else ()


def is_by_planes(by_pixel: NDArray[Any], by_planes: NDArray[Any], *, stated: bool | None) -> bool:
    """Return whether colour lies in planes, given a frame read both ways, (Y, X, C); as stated where that can be."""
    # Both ways: grey as RGB by pixel, read by planes, is smooth along its rows.
    pixel, planes = (max(_roughness(array[..., 0]), _roughness(array[..., 0].T)) for array in (by_pixel, by_planes))
    if stated is None:
        return planes < pixel
    return pixel >= _SMOOTHER * planes if stated else planes < _SMOOTHER * pixel


def is_luma_first(array_YXC: NDArray[np.unsignedinteger], bits: int) -> bool:
    """Return whether what is said to be RGB is a grey film in YBR: two channels all but constant at half."""
    half, near = 1 << (bits - 1), 1 << max(bits - 6, 0)
    chroma = array_YXC[..., 1:].astype(np.int64)
    is_half = (np.abs(chroma - half) <= near).all()
    return bool(is_half) and int(np.ptp(array_YXC[..., 0])) > 8 * near


def _with_bits_shown(words_YX: Words, stated: Reading, highest: int) -> Reading:
    """Return the smoothest reading of words that have bits set above Bits Stored."""
    allocated = 8 * words_YX.dtype.itemsize
    both = [Reading(_numbers(words_YX, allocated, is_signed), allocated, is_signed) for is_signed in (False, True)]
    # The wrong sign makes larger steps, and a larger deviation.
    whole = min(both, key=lambda reading: float(_steps(reading.values).mean()))
    whole = whole if whole.is_signed else replace(whole, bits=highest)
    best = min((stated, whole), key=lambda reading: _roughness(reading.values))
    if _roughness(best.values) > _ROUGHEST:
        raise DataError(
            Reason.CORRUPT,
            f"values of {highest} bits, and no picture in them",
            expected=f"{stated.bits} bits, as in the header",
        )
    if best is stated:
        return replace(stated, notes=(f"bits above the {stated.bits} stored ones are set, and left out",))
    kind = "signed values" if best.is_signed else "values"
    return replace(best, notes=(f"{kind} of {best.bits} bits, where the header says {stated.bits}; read whole",))


def _with_sign_shown(words_YX: Words, stated: Reading) -> Reading:
    """Return the reading of the other signedness, with a note, if the stated one wraps."""
    other = Reading(_numbers(words_YX, stated.bits, not stated.is_signed), stated.bits, not stated.is_signed)
    if not _wraps(stated.values, other.values, stated.bits):
        return stated
    kinds = ("unsigned", "signed")
    note = f"the header says {kinds[stated.is_signed]}; the values run on as {kinds[other.is_signed]}, and are read so"
    return replace(other, notes=(note,))


def _numbers(words_YX: Words, bits: int, is_signed: bool) -> NDArray[Any]:
    """Return the lowest bits of words, as unsigned or as two's complement."""
    allocated = 8 * words_YX.dtype.itemsize
    if not is_signed:
        return words_YX if bits == allocated else words_YX & words_YX.dtype.type((1 << bits) - 1)
    shift = allocated - bits
    signed: NDArray[Any] = (words_YX << words_YX.dtype.type(shift)).view(f"i{words_YX.dtype.itemsize}") >> shift
    return signed


def _steps(values_YX: NDArray[Any]) -> NDArray[np.float64]:
    rows = np.linspace(0, len(values_YX) - 1, min(_NUM_ROWS, len(values_YX))).astype(np.int64)
    return np.abs(np.diff(values_YX[rows].astype(np.float64), axis=1))


def _roughness(values_YX: NDArray[Any]) -> float:
    """Return the mean step from a pixel to the next, over the standard deviation."""
    deviation = float(values_YX[:: max(1, len(values_YX) // _NUM_ROWS)].astype(np.float64).std())
    return float(_steps(values_YX).mean()) / deviation if deviation > 0 else 0.0


def _wraps(stated_YX: NDArray[Any], other_YX: NDArray[Any], bits: int) -> bool:
    half = 1 << (bits - 1)
    stated, other = (float((_steps(values) > half).mean()) for values in (stated_YX, other_YX))
    return stated > 3 * other + _WRAPPED


def _row_length(words_YX: Words) -> tuple[int, float]:
    """Return the distance at which the words, in a row, are likest to themselves, and how much likelier than stated.

    By the mean square of differences at each distance from a quarter of the stated row to four times it; its share of
    that at the stated length.
    """
    rows, columns = words_YX.shape
    line = words_YX.ravel()[: max(1 << 18, 12 * columns)].astype(np.float64)
    shortest, longest = max(32, columns // 4), min(4 * columns, len(line) // 2)
    line = line - line.mean()
    size = 1 << int(np.ceil(np.log2(len(line) + longest + 1)))
    spectrum = np.fft.rfft(line, size)
    products = np.fft.irfft(spectrum * spectrum.conj(), size)[: longest + 1]
    squares = np.concatenate([[0.0], np.cumsum(line**2)])
    lags = np.arange(longest + 1)
    sums = squares[len(line) - lags] + squares[-1] - squares[lags] - 2 * products
    differences = sums / (len(line) - lags)
    likeliest = shortest + int(np.argmin(differences[shortest:]))
    return likeliest, float(differences[likeliest] / differences[columns]) if differences[columns] > 0 else 1.0
