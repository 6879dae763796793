"""How like the films a model was trained on a film is: from one pass over its codes, whatever the findings.

A model that is given a hand, a negative or a photograph answers as if it were a chest film. But the codes are not what
it expects, and its states are not those of films. Of a film it is known how improbable its codes are, each behind those
before it (mean, first and ninth decile, and the worst of 4 x 4 regions), and the mean of its final states. A Gaussian
over train films of these statistics, the states by their first principal components, makes one number of them: the
distance from the middle of the train films, in units of theirs (as Lee et al. 2018, with the states of classifiers).

``typical.safetensors`` in a weights directory: ``mean`` (D) and ``whiten`` (R, D), float32; the header key
``chexmix-typical`` holds JSON: ``schema``, ``threshold``, ``share`` of the train films above it, ``model`` (fingerprint
of the weights whose states it reads) and ``provenance``. ``tools/fit_typical.py`` makes one.

Shape letters: B N films, T sequence, P image positions, H hidden, K image codes, D = 4 + H statistics, R directions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chexmix_cli.core.errors import ShapeError, WeightsError
from chexmix_cli.core.files import atomic_write
from chexmix_cli.core.infer.decoding.prefixes import NO_PREFIXES, PrefixStore
from chexmix_cli.core.infer.embeddings import image_prompts, read_images
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.model import DecoderSettings
from chexmix_cli.core.vocab import Vocabulary
from chexmix_cli.core.weights.fingerprint import require_made_for
from chexmix_cli.core.weights.formats.header import TYPICAL_KEY, read_header

Floats = NDArray[np.float64]

#: Statistics of the codes' likelihood; those behind them are of the states.
NUM_LIKELIHOOD = 4
#: Regions along a side.
_REGIONS = 4
_SCHEMA = 1
#: Principal components of the mean state; the share of each variance that is added to it; the likelihood's share of
#: the squared score of train films.
_COMPONENTS = 32
_SHRINKAGE = 0.02
_LIKELIHOOD_SHARE = 1 / 3
_FIT_HINT = "fit one: python tools/fit_typical.py"


@dataclass(frozen=True, slots=True)
class Typicality:
    """How like the train films a film is.

    Attributes:
        score: distance from their middle; about 1 for a film like them.
        threshold: distance that ``share`` of the train films exceed.
        share: of the train films.
    """

    score: float
    threshold: float
    share: float

    @property
    def is_unlike(self) -> bool:
        """Return whether the film is further away than nearly all train films."""
        return self.score > self.threshold

    @property
    def notes(self) -> list[str]:
        """Return what to say of a film that is unlike the train films."""
        if not self.is_unlike:
            return []
        known = f"of the films it learnt from, {self.share:.0%} are above {self.threshold:.2f}"
        return [f"unlike what this model knows: {self.score:.2f} ({known})"]

    def to_dict(self) -> dict[str, float]:
        """Return the plain form, as a record has it."""
        return {"score": round(self.score, 4), "threshold": round(self.threshold, 4)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Typical:
    """What train films are like: ``score = sqrt(mean((whiten (x - mean))^2))`` of a film's statistics x.

    Attributes:
        mean_D: of the train films' statistics.
        whiten_RD: to directions in which they do not correlate, and of each kind, likelihood and states, vary the same.
        threshold: score that ``share`` of the train films exceed.
        share: of the train films.
        model: fingerprint of the weights it was fitted on.
        provenance: how it came to be, any JSON values; no patient data.

    Raises:
        ShapeError: if the arrays do not fit each other, or hold something other than numbers.
    """

    mean_D: NDArray[np.float32]
    whiten_RD: NDArray[np.float32]
    threshold: float
    share: float
    model: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fits = self.mean_D.ndim == 1 and self.whiten_RD.ndim == 2 and self.whiten_RD.shape[1] == len(self.mean_D)
        if not fits or not all(np.isfinite(array).all() for array in (self.mean_D, self.whiten_RD)):
            raise ShapeError(
                f"mean {self.mean_D.shape}, whiten {self.whiten_RD.shape}",
                where="typical",
                expected="(D) and (R, D), finite",
            )
        if not (np.isfinite(self.threshold) and self.threshold > 0 and 0 < self.share < 1):
            raise ShapeError(f"threshold {self.threshold}, share {self.share}", where="typical", expected="above 0")

    @classmethod
    def fit(
        cls, x_ND: Floats, weight_N: Floats, *, share: float, model: str, provenance: Mapping[str, Any] | None = None
    ) -> Self:
        """Return what films are like whose statistics are given.

        Args:
            x_ND: statistics of train films, as :func:`film_statistics` gives them.
            weight_N: how much each film counts, so that a large source does not decide alone.
            share: of the train films that are to lie above the threshold.
            model: fingerprint of the weights.
            provenance: how the films were chosen.
        """
        share_N = weight_N / weight_N.sum()
        mean_D = share_N @ x_ND
        centred_ND = x_ND - mean_D
        state_NH = centred_ND[:, NUM_LIKELIHOOD:]
        _, vector_HH = np.linalg.eigh(state_NH.T @ (share_N[:, None] * state_NH))
        kept_HC = vector_HH[:, ::-1][:, : min(_COMPONENTS, len(x_ND) // 2)]
        reduce_DR = np.zeros((x_ND.shape[1], NUM_LIKELIHOOD + kept_HC.shape[1]))
        reduce_DR[:NUM_LIKELIHOOD, :NUM_LIKELIHOOD] = np.eye(NUM_LIKELIHOOD)
        reduce_DR[NUM_LIKELIHOOD:, NUM_LIKELIHOOD:] = kept_HC
        reduced_NR = centred_ND @ reduce_DR
        covariance_RR = reduced_NR.T @ (share_N[:, None] * reduced_NR)
        covariance_RR += _SHRINKAGE * np.diag(np.diag(covariance_RR))
        lower_RR = np.linalg.cholesky(covariance_RR)
        # Of the states there are many directions and of the likelihood few; each kind has its share of the score.
        num_states = kept_HC.shape[1]
        shares = [_LIKELIHOOD_SHARE / NUM_LIKELIHOOD, (1 - _LIKELIHOOD_SHARE) / num_states]
        kind_R = np.repeat(shares, [NUM_LIKELIHOOD, num_states])
        whiten_RD = np.sqrt(kind_R * len(kind_R))[:, None] * np.linalg.solve(lower_RR, reduce_DR.T)
        found = cls(
            mean_D=mean_D.astype(np.float32),
            whiten_RD=whiten_RD.astype(np.float32),
            threshold=1.0,
            share=share,
            model=model,
            provenance=provenance or {},
        )
        score_N = found.scores(x_ND)
        order_N = np.argsort(score_N)
        above = int(np.searchsorted(np.cumsum(share_N[order_N]), 1 - share))
        threshold = float(score_N[order_N][min(above, len(order_N) - 1)])
        return replace(found, threshold=threshold)

    def scores(self, x_BD: Floats) -> Floats:
        """Return the score of films' statistics, (B,)."""
        if x_BD.ndim != 2 or x_BD.shape[1] != len(self.mean_D):
            raise ShapeError(f"statistics {x_BD.shape}", where="typical", expected=f"(B, {len(self.mean_D)})")
        found: Floats = np.sqrt(np.square((x_BD - self.mean_D) @ self.whiten_RD.T.astype(np.float64)).mean(axis=1))
        return found

    def judge(self, x_BD: Floats) -> list[Typicality]:
        """Return how like the train films each film is, by its statistics."""
        return [Typicality(float(score), self.threshold, self.share) for score in self.scores(x_BD)]

    def require_model(self, fingerprint: str, where: str) -> None:
        """Refuse a model whose states it was not fitted on with WeightsError."""
        require_made_for(self.model, fingerprint, what="one", where=where, hint=_FIT_HINT)

    def require_size(self, decoder: DecoderSettings, where: str) -> None:
        """Refuse a decoder whose states have another size with WeightsError, whatever model it names."""
        size, wanted = len(self.mean_D), NUM_LIKELIHOOD + decoder.hidden_size
        if size != wanted:
            raise WeightsError(f"reads {size} numbers", where=where, expected=f"{wanted}", hint=_FIT_HINT)

    def save(self, path: Path) -> None:
        """Write the file, atomically."""
        from safetensors.numpy import save

        values = {"schema": _SCHEMA, "threshold": self.threshold, "share": self.share, "model": self.model}
        header = {TYPICAL_KEY: json.dumps({**values, "provenance": dict(self.provenance)})}
        with atomic_write(path) as file:
            file.write(save({"mean": self.mean_D, "whiten": self.whiten_RD}, metadata=header))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return what a file holds.

        Raises:
            WeightsError: if it is damaged, of a newer schema, or of another kind.
        """
        from safetensors.numpy import load_file

        header = read_header(path)
        try:
            values = json.loads(header.metadata[TYPICAL_KEY])
            if values["schema"] != _SCHEMA:
                raise WeightsError(f"schema {values['schema']}", where=str(path), expected=f"{_SCHEMA}")
            if not isinstance(values["model"], str) or not isinstance(values["provenance"], dict):
                raise TypeError("a damaged model or provenance")
            arrays, kept = load_file(path), ("threshold", "share", "model", "provenance")
            return cls(mean_D=arrays["mean"], whiten_RD=arrays["whiten"], **{name: values[name] for name in kept})
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, ShapeError) as error:
            raise WeightsError(f"does not say what is typical ({error})", where=str(path), hint=_FIT_HINT) from None


@torch.inference_mode()
def film_statistics(
    decoder: Decoder, vocabulary: Vocabulary, state_BTH: Tensor, codes: Sequence[Sequence[int]]
) -> Floats:
    """Return the statistics of films, (B, D) float64.

    Args:
        decoder: in eval mode.
        vocabulary: the model's ids.
        state_BTH: final hidden states of sequences that begin with ``I_s`` and the image's codes.
        codes: of each film, raster order, P each.
    """
    num_positions = vocabulary.tokens_per_image
    rows = slice(vocabulary.image_start, vocabulary.image_start + vocabulary.num_codes)
    code_BP = torch.tensor([list(image) for image in codes], device=state_BTH.device)
    nll = []
    for state_TH, code_P in zip(state_BTH, code_BP, strict=True):  # one by one: B x P x K logits are too many
        # The state in front of a code says which one it expects, among image codes; ``I_s`` is in front of the first.
        logit_PK = decoder.logits(state_TH[:num_positions], rows).float()
        nll.append(logit_PK.logsumexp(dim=1) - logit_PK.gather(1, code_P[:, None])[:, 0])
    state_BH = state_BTH[:, 1 : 1 + num_positions].mean(dim=1, dtype=torch.float32)
    # One copy from the device for the whole batch.
    both_BX = torch.cat((torch.stack(nll), state_BH), dim=1).double().cpu().numpy()
    nll_BP, mean_BH = both_BX[:, :num_positions], both_BX[:, num_positions:]
    low_B, high_B = np.quantile(nll_BP, (0.1, 0.9), axis=1)
    region_P = _regions(vocabulary.grid_size)
    worst_B = np.max([nll_BP[:, region_P == region].mean(axis=1) for region in np.unique(region_P)], axis=0)
    return np.column_stack((nll_BP.mean(axis=1), low_B, high_B, worst_B, mean_BH))


def codes_statistics(
    decoder: Decoder,
    vocabulary: Vocabulary,
    codes: Sequence[Sequence[int]],
    *,
    prefixes: PrefixStore = NO_PREFIXES,
) -> Floats:
    """Return the statistics of films, as :func:`film_statistics`; images that were read before are not read again."""
    final: list[Tensor] = []
    prompts = image_prompts(vocabulary, codes)
    read_images(
        decoder, prompts, (decoder.settings.num_layers,), lambda _, state_BTH: final.append(state_BTH), prefixes
    )
    return film_statistics(decoder, vocabulary, final[0], codes)


def _regions(side: int) -> NDArray[np.int64]:
    """Return the region of each position of a square image, (P,), in raster order."""
    count = min(_REGIONS, side)
    place = np.arange(side) * count // side
    found: NDArray[np.int64] = (place[:, None] * count + place).ravel()
    return found
