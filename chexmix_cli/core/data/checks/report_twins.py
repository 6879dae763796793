"""Reports that repeat each other, word for word or nearly.

Near-duplicates are found by min-hashes of their groups of four words: reports that share a band of four hashes are
candidates, and each candidate is compared with the first few of its bucket by the share of groups they have in common
(Jaccard). At a share of 0.8 a pair misses all bands less than once in a thousand; still, what is given are reports that
have a near twin, not all pairs: thousands of normal reports that differ by a word are a fact and not a list.
Letters: N reports, H hashes of a signature, S word groups.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")
_GROUP_WORDS = 4
_BANDS, _BAND_HASHES = 16, 4
_NUM_HASHES = _BANDS * _BAND_HASHES
#: Members of a bucket that others are compared with.
_REPRESENTATIVES = 8

_GENERATOR = np.random.default_rng(20240401)
_FACTORS_H = _GENERATOR.integers(1, 1 << 63, _NUM_HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS_H = _GENERATOR.integers(0, 1 << 63, _NUM_HASHES, dtype=np.uint64)


def normal_words(text: str) -> list[str]:
    """Return the words of a report in lower case, without punctuation; placeholders are words."""
    return _WORD.findall(text.lower())


def near_twins(groups: Sequence[NDArray[np.uint32]], share: float) -> Iterator[tuple[int, int, float]]:
    """Yield each report that is nearly another one: its index, the index of an earlier one, and what they share.

    Args:
        groups: ``word_groups`` of each report; of a text that occurs twice they are given once.
        share: least Jaccard share, above 0.
    """
    usable = [index for index, found in enumerate(groups) if len(found)]
    if not usable:
        return
    signatures_NH = np.stack([_signature(groups[index]) for index in usable])
    is_matched = [False] * len(groups)
    for band in range(_BANDS):
        keys = np.ascontiguousarray(signatures_NH[:, band * _BAND_HASHES : (band + 1) * _BAND_HASHES])
        for bucket in _buckets(keys):
            heads: list[int] = []
            for position in bucket:
                index = usable[position]
                if is_matched[index]:
                    continue
                shares = ((head, _jaccard(groups[head], groups[index])) for head in heads)
                match = next((found for found in shares if found[1] >= share), None)
                if match is not None:
                    is_matched[index] = True
                    yield index, *match
                elif len(heads) < _REPRESENTATIVES:
                    heads.append(index)


def word_groups(words: Sequence[str]) -> NDArray[np.uint32]:
    """Return the distinct hashes of all runs of four words, (runs,), ascending; a shorter report is one run."""
    if not words:
        return np.empty(0, np.uint32)
    last = max(1, len(words) - _GROUP_WORDS + 1)
    runs = (" ".join(words[start : start + _GROUP_WORDS]) for start in range(last))
    return np.unique(np.fromiter((zlib.crc32(run.encode()) for run in runs), np.uint32, last))


def _signature(groups_S: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the smallest of each of ``_NUM_HASHES`` random orders of the word groups, (H,) uint32."""
    mixed_HS = _FACTORS_H[:, None] * groups_S.astype(np.uint64)[None] + _OFFSETS_H[:, None]
    smallest: NDArray[np.uint32] = (mixed_HS >> np.uint64(32)).min(axis=1).astype(np.uint32)
    return smallest


def _buckets(keys: NDArray[np.uint32]) -> Iterator[NDArray[np.int64]]:
    """Yield the rows that are the same, two or more, each bucket in ascending order."""
    _, bucket_N, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    order_N = np.argsort(bucket_N.reshape(-1), kind="stable")
    ends = np.cumsum(counts)
    for bucket in np.flatnonzero(counts > 1):
        yield order_N[ends[bucket] - counts[bucket] : ends[bucket]]


def _jaccard(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> float:
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / (len(left) + len(right) - common)
