"""Do labels survive the image tokenizer? A pixel probe on films as they are, and on what comes back of them.

Shape letters: N images, X pixel features, B images, C Y X channels, rows, columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.data.labels import policy_labels
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.evals.probes.pixels import probe_auroc, usable_labels
from chexmix_cli.core.train.examples.films import Films, stack

#: Longest side of a picture the probe sees: finer detail only adds to its noise.
_SIDE = 128


class RoundTripProbe:
    """AUROC of a linear probe on pixels, before and after the tokenizer.

    Either probe is fitted on train films of its own kind and measured on val films of that kind, so the second says
    what is left in the rebuilt pictures, not how far they look like the first. A val film of a patient who has a train
    film too is left out; so is a label with too few images of a class.

    Args:
        train, val: films of the two splits.
        train_rows, val_rows: their rows of the manifest: labels and patients.
        limit: films of a split that are looked at, at most, evenly over it; 0 for no probe.
        seed: of the probe's decomposition.
    """

    def __init__(
        self,
        train: Films,
        val: Films,
        train_rows: Sequence[ManifestRow],
        val_rows: Sequence[ManifestRow],
        *,
        limit: int,
        seed: int,
    ) -> None:
        self._train, self._val, self._seed = train, val, seed
        patients = {row.patient for row in train_rows if row.patient is not None}
        apart = [index for index, row in enumerate(val_rows) if row.patient not in patients]
        self._train_indices = _spread(list(range(len(train_rows))), limit)
        self._val_indices = _spread(apart, limit)
        chosen = [train_rows[index].labels for index in self._train_indices]
        chosen_val = [val_rows[index].labels for index in self._val_indices]
        names = sorted({name for labels in chosen for name in labels})
        train_NL, val_NL = (
            policy_labels(labels, names, "ignore").astype(np.float32) for labels in (chosen, chosen_val)
        )
        usable = usable_labels(train_NL, val_NL)
        self.names = [names[column] for column in usable]
        self._train_NL, self._val_NL = train_NL[:, usable], val_NL[:, usable]

    def measure(self, rebuild: Callable[[Tensor], Tensor], size: int) -> dict[str, float]:
        """Return the mean AUROC over labels of both probes and the number of labels; nothing without a label.

        Args:
            rebuild: pixels (B, C, Y, X) to their round trip.
            size: films that pass at once.
        """
        if not self.names:
            return {}
        train = self._features(self._train, self._train_indices, rebuild, size)
        val = self._features(self._val, self._val_indices, rebuild, size)
        result = {}
        for name, train_NX, val_NX in zip(("", "_roundtrip"), train, val, strict=True):
            found = probe_auroc(train_NX, self._train_NL, val_NX, self._val_NL, seed=self._seed)
            result[f"val_probe_auroc{name}"] = float(np.mean(list(found.values())))
        return {**result, "val_probe_labels": float(len(self.names))}

    def _features(
        self, films: Films, indices: list[int], rebuild: Callable[[Tensor], Tensor], size: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return features (N, X) of films as they are and of their round trips."""
        original, rebuilt = [], []
        for start in range(0, len(indices), size):
            pixels = stack([films.exact(index) for index in indices[start : start + size]])
            original.append(_pooled(pixels))
            rebuilt.append(_pooled(rebuild(pixels)))
        return torch.cat(original).numpy(), torch.cat(rebuilt).numpy()


def _pooled(pixels_BCYX: Tensor) -> Tensor:
    """Return grey pixels of pictures no larger than the probe looks at, (B, X) on the CPU."""
    grey = pixels_BCYX.mean(dim=1, keepdim=True).float().cpu()
    return F.adaptive_avg_pool2d(grey, min(_SIDE, grey.shape[-1])).flatten(1)


def _spread(indices: list[int], limit: int) -> list[int]:
    """Return ``limit`` of the indices, evenly over them, or all if they are fewer."""
    if len(indices) <= limit:
        return indices
    return [indices[place * len(indices) // limit] for place in range(limit)]
