"""Nearest vectors, exactly and block by block: memory is bounded by the block, time grows linearly with the gallery.

Q queries, M vectors of one block, E vector size, K results, N vectors in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from chexmix_cli.core.errors import SettingsError, missing_package
from chexmix_cli.core.runtime import memory_errors


def nearest(queries_QE: Tensor, blocks: Iterable[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Return the best dot products and their indices, (Q, K) float32 and int64, best first.

    Args:
        queries_QE: float32.
        blocks: the gallery's vectors (M, E) float32 in order, at most as many at a time as memory should hold.
        count: results wanted; K is fewer where the gallery is smaller.

    Ties go to the lower index, whatever the blocks are: products are added up in float64 and rounded to float32, so
    that equal vectors get equal scores wherever in a block they stand.
    """
    queries_QE = queries_QE.double()
    score_QK = torch.empty(len(queries_QE), 0)
    place_QK = torch.empty(len(queries_QE), 0, dtype=torch.int64)
    start = 0
    with memory_errors("searching the index", "--set search.block_rows=1024"):
        for block_ME in blocks:
            score_QM = (queries_QE @ block_ME.double().T).float()
            found_QK, place_in_block_QK = best(score_QM, count)
            score_QK = torch.cat((score_QK, found_QK), dim=1)
            place_QK = torch.cat((place_QK, place_in_block_QK + start), dim=1)
            # Both halves are in order and the earlier one has the lower indices: a stable sort keeps that among ties.
            score_QK, order_QK = score_QK.sort(dim=1, descending=True, stable=True)
            score_QK, order_QK = score_QK[:, :count], order_QK[:, :count]
            place_QK = place_QK.gather(1, order_QK)
            start += len(block_ME)
    return score_QK, place_QK


def best(score_QM: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest of each row and their indices, largest first, ties to the lower index.

    ``torch.topk`` alone leaves open which of several equal values it takes.
    """
    if score_QM.shape[1] <= count:
        found = score_QM.sort(dim=1, descending=True, stable=True)
        return found.values, found.indices
    value_QK, place_QK = score_QM.topk(count, dim=1)
    is_tied_Q = (score_QM >= value_QK[:, -1:]).sum(dim=1) > count
    if bool(is_tied_Q.any()):
        value_TM, place_TM = score_QM[is_tied_Q].sort(dim=1, descending=True, stable=True)
        value_QK[is_tied_Q], place_QK[is_tied_Q] = value_TM[:, :count], place_TM[:, :count]
    place_QK, order_QK = place_QK.sort(dim=1)
    value_QK, order_QK = value_QK.gather(1, order_QK).sort(dim=1, descending=True, stable=True)
    return value_QK, place_QK.gather(1, order_QK)


class FaissGallery:
    """A gallery in a FAISS index: held in memory, searched by its kernels, approximate if the index is.

    Args:
        blocks: the vectors (M, E) float32, in order.
        size: E.
        factory: FAISS' description of the index, such as ``Flat`` (exact) or ``HNSW32``; one that needs training is
            trained on the vectors themselves.

    Raises:
        MachineError: if the package is not installed.
        SettingsError: if FAISS does not know the description, or cannot train it on so few vectors.
    """

    def __init__(self, blocks: Sequence[Tensor], size: int, factory: str) -> None:
        try:
            import faiss
        except ImportError:
            raise missing_package("faiss", "scale", where="search.backend") from None
        try:
            self._index: Any = faiss.index_factory(size, factory, faiss.METRIC_INNER_PRODUCT)
            if not self._index.is_trained:
                self._index.train(torch.cat(list(blocks)).numpy())
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise SettingsError(f"{factory!r} cannot be made ({reason})", where="search.faiss") from None
        for block_ME in blocks:
            self._index.add(block_ME.contiguous().numpy())

    def nearest(self, queries_QE: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the best scores and their indices, as :func:`nearest`; an approximate index may give fewer.

        Which of several equal vectors at the last rank is found is FAISS' choice; the order of the results is ours.
        """
        score, place = self._index.search(queries_QE.contiguous().numpy(), min(count, self._index.ntotal))
        score_QK, place_QK = torch.from_numpy(score), torch.from_numpy(place)
        place_QK, order_QK = place_QK.sort(dim=1)
        score_QK, order_QK = score_QK.gather(1, order_QK).sort(dim=1, descending=True, stable=True)
        return score_QK, place_QK.gather(1, order_QK)
