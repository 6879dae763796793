"""Linear heads: probabilities of findings from an image's embedding.

``head.safetensors`` in a weights directory, or any file of the same form. Tensors, all float32: ``mean`` and ``scale``
(D), ``weight`` (K, D), ``bias``, ``slope``, ``offset`` and ``threshold`` (K). The header key ``chexmix-head`` holds
JSON: ``schema``, ``labels``, ``layer``, ``pooling`` (``mean``, or ``grid4`` for 4 x 4 squares), ``calibration``,
``model`` (fingerprint of the weights whose states it reads), ``validation`` (what it does on rows it was not fitted on)
and ``provenance``. No torch here, and nothing pickled. Shape letters: B images, D numbers of an embedding, K labels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from chexmix_cli.core.errors import ShapeError, WeightsError
from chexmix_cli.core.files import atomic_write
from chexmix_cli.core.settings.classification import OperatingPoint
from chexmix_cli.core.settings.model import DecoderSettings
from chexmix_cli.core.weights.fingerprint import require_made_for
from chexmix_cli.core.weights.formats.header import HEAD_KEY, Header, read_header

Array = NDArray[np.float32]

_SCHEMA = 1
#: Over what ``infer/embeddings.py`` averages: the whole image, or the squares of a grid.
_MEAN, _GRID = "mean", re.compile(r"grid([1-9]\d*)")
#: Share of the films it was trained on below which a head has seen few of a kind.
_FEW = 0.02
_FIT_HINT = "fit one: chexmix finetune --task classify --method probe"


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """How well one finding was told on rows the head was not fitted on.

    Attributes:
        auroc: area under the ROC curve; None where one class was missing.
        interval: its 95 % bootstrap interval by patient; None where too few resamples had both classes.
        positives, negatives: images with and without the finding.
    """

    auroc: float | None
    interval: tuple[float, float] | None
    positives: int
    negatives: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """One linear head: ``sigmoid(slope * (weight . (x - mean) / scale + bias) + offset)`` a label.

    Attributes:
        labels: findings, in order.
        layer: hidden state that is averaged over the image: 0 the token embeddings, then each block, the last normed.
        grid: squares along a side that it is averaged over; 1: the whole image.
        mean_D, scale_D: standardisation, from the rows it was fitted on.
        weight_KD, bias_K: of the logits.
        slope_K, offset_K: calibration of the logits; 1 and 0 leave them.
        threshold_K: probability from which a finding counts as present, chosen on the rows it was fitted on.
        calibration: how slope and offset came to be: ``none``, ``platt`` or ``temperature``.
        model: fingerprint of the weights it was fitted on.
        values: hash of the values of all that it read through (``embeddings.values_read``), whatever dtype they are
            held in; None in files that do not have it.
        quantiles: by label, of the probabilities of positive and of negative rows that were left out of a fit in turn,
            from the least to the greatest in hundredths: what :meth:`thresholds_at` reads; empty if they were not kept.
        validation: by label, what it does on rows it was not fitted on; empty if that was not measured.
        provenance: protocol and counts, any JSON values; no patient data.

    Raises:
        ShapeError: if an array does not have the shape of the others, or holds something other than numbers.
    """

    labels: tuple[str, ...]
    layer: int
    grid: int = 1
    mean_D: Array
    scale_D: Array
    weight_KD: Array
    bias_K: Array
    slope_K: Array
    offset_K: Array
    threshold_K: Array
    calibration: str = "none"
    model: str
    values: str | None = None
    quantiles: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    validation: Mapping[str, Validation] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count, hidden = len(self.labels), len(self.mean_D)
        wanted = {"mean": (hidden,), "scale": (hidden,), "weight": (count, hidden)}
        wanted |= dict.fromkeys(("bias", "slope", "offset", "threshold"), (count,))
        for name, array in self._arrays().items():
            if array.shape != wanted[name] or array.dtype != np.float32 or not np.isfinite(array).all():
                raise ShapeError(
                    f"{name} {array.shape} {array.dtype}", where="head", expected=f"{wanted[name]} float32, finite"
                )
        if not count or len(set(self.labels)) != count or not (self.scale_D > 0).all():
            raise ShapeError(f"{count} labels", where="head", expected="labels, each once, and scales above 0")

    def logits(self, embedding_BD: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the logits before calibration, (B, K) float64, of embeddings (B, D) of the head's layer.

        Raises:
            ShapeError: if the embeddings are of another size.
        """
        if embedding_BD.ndim != 2 or embedding_BD.shape[1] != len(self.mean_D):
            raise ShapeError(f"embeddings {embedding_BD.shape}", where="head", expected=f"(B, {len(self.mean_D)})")
        standard_BD = (embedding_BD.astype(np.float64) - self.mean_D) / self.scale_D
        logit_BK: NDArray[np.float64] = standard_BD @ self.weight_KD.astype(np.float64).T + self.bias_K
        return logit_BK

    def probabilities(self, embedding_BD: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the calibrated probability of each label, (B, K) float64; errors as :meth:`logits`."""
        return sigmoid(self.slope_K * self.logits(embedding_BD) + self.offset_K)

    def thresholds_at(self, point: OperatingPoint) -> NDArray[np.float64]:
        """Return the probability (K,) from which each label counts as present at an operating point.

        Sensitivity s is reached by the (1 - s) quantile of the positives, specificity s by the s quantile of the
        negatives, of rows that were left out of the fit; NaN for a label whose quantiles were not kept.
        """
        found = np.full(len(self.labels), np.nan)
        for place, name in enumerate(self.labels):
            if name in self.quantiles:
                positives, negatives = self.quantiles[name]
                of_positives = point.kind == "sensitivity"
                values, share = (positives, 1 - point.share) if of_positives else (negatives, point.share)
                found[place] = np.interp(share, np.linspace(0, 1, len(values)), values)
        return found

    @property
    def origin(self) -> str:
        """Return on one line what it was trained and validated on, as far as its file says."""
        trained = self.provenance.get("trained_on", {})
        parts = [f"{name} {_shares(counts)}" for name, counts in trained.items()]
        aurocs = [one.auroc for one in self.validation.values() if one.auroc is not None]
        told = f"; mean AUROC in validation {sum(aurocs) / len(aurocs):.3f}" if aurocs else ""
        return (
            f"head of {len(self.labels)} findings, trained on {', '.join(parts) or 'films it does not describe'}{told}"
        )

    def notes(self, fields: Mapping[str, Any]) -> list[str]:
        """Return what to say of a film that is of a kind the head has seen few of, by what is stated of either.

        Args:
            fields: of the film's record: ``view``, ``age_group``, ``source``.
        """
        found = []
        for name, counts in self.provenance.get("trained_on", {}).items():
            value, total = fields.get(name), sum(counts.values())
            if value is not None and total and counts.get(value, 0) < _FEW * total:
                found.append(f"the head has seen few such films: {name} {value} in {counts.get(value, 0)} of {total}")
        return found

    @property
    def pooling(self) -> str:
        """What the state is averaged over, as the file has it: ``mean`` or ``grid4``."""
        return _MEAN if self.grid == 1 else f"grid{self.grid}"

    @property
    def features(self) -> str:
        """What the head reads, as results have it: ``layer5`` or ``layer5-grid4``."""
        return f"layer{self.layer}" + ("" if self.grid == 1 else f"-{self.pooling}")

    def require_model(self, fingerprint: str, where: str, values: Callable[[], str] | None = None) -> None:
        """Refuse a model whose states the head was not fitted on.

        Args:
            fingerprint: of the weights in use.
            where: the head's file, for the message.
            values: gives the hash of their values, asked for where the fingerprints differ: a copy of the weights in
                another dtype has the same.

        Raises:
            WeightsError: if it was fitted on other weights.
        """
        known = None if values is None else (self.values, values)
        require_made_for(self.model, fingerprint, what="a head", where=where, hint=_FIT_HINT, values=known)

    def require_size(self, decoder: DecoderSettings, where: str) -> None:
        """Refuse a decoder that does not have what the head reads with WeightsError, whatever model it names."""
        size, wanted = len(self.mean_D), decoder.hidden_size * self.grid**2
        if size != wanted or not 0 <= self.layer <= decoder.num_layers:
            raise WeightsError(
                f"reads {size} numbers of layer {self.layer}",
                where=where,
                expected=f"{wanted} of a layer up to {decoder.num_layers}, as the decoder has",
                hint=_FIT_HINT,
            )

    def save(self, path: Path) -> None:
        """Write the head to a file, atomically."""
        from safetensors.numpy import save

        values = {
            "schema": _SCHEMA,
            "labels": self.labels,
            "layer": self.layer,
            "pooling": self.pooling,
            "calibration": self.calibration,
            "model": self.model,
            **({} if self.values is None else {"values": self.values}),
            "quantiles": {label: [list(side) for side in sides] for label, sides in self.quantiles.items()},
            "validation": {label: asdict(figures) for label, figures in self.validation.items()},
            "provenance": dict(self.provenance),
        }
        content = save(self._arrays(), metadata={HEAD_KEY: json.dumps(values)})
        with atomic_write(path) as file:
            file.write(content)

    def of_labels(self, names: Sequence[str]) -> Self:
        """Return the head of some of its labels, in their order; ValueError if it lacks one."""
        places = [self.labels.index(name) for name in names]
        arrays: dict[str, Any] = {
            name: getattr(self, name)[places] for name in ("weight_KD", "bias_K", "slope_K", "offset_K", "threshold_K")
        }
        kept: dict[str, Any] = {
            field: {name: found for name, found in getattr(self, field).items() if name in names}
            for field in ("quantiles", "validation")
        }
        return replace(self, labels=tuple(names), **kept, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the head of a file.

        Raises:
            WeightsError: if there is none, or it is damaged, of a newer schema, or no head.
        """
        if not path.is_file():
            raise WeightsError("no head", where=str(path), hint=_FIT_HINT)
        header = read_header(path)
        values = _description(header)
        try:
            arrays = _read_arrays(header)
            if type(values["layer"]) is not int or values["layer"] < 0:
                raise ValueError(f"layer {values['layer']!r}")
            _check_words(values)
            _check_provenance(values["provenance"])
            return cls(
                labels=tuple(values["labels"]),
                layer=values["layer"],
                grid=_grid(values["pooling"]),
                mean_D=arrays["mean"],
                scale_D=arrays["scale"],
                weight_KD=arrays["weight"],
                bias_K=arrays["bias"],
                slope_K=arrays["slope"],
                offset_K=arrays["offset"],
                threshold_K=arrays["threshold"],
                calibration=values["calibration"],
                model=values["model"],
                values=values.get("values"),
                quantiles=_quantiles(values.get("quantiles", {})),
                validation=_validation(values.get("validation", {})),
                provenance=values["provenance"],
            )
        except (KeyError, TypeError, ValueError, AttributeError, ShapeError) as error:
            raise WeightsError(f"is not a head ({error})", where=str(path), hint=_FIT_HINT) from None

    def _arrays(self) -> dict[str, Array]:
        return {
            "mean": self.mean_D,
            "scale": self.scale_D,
            "weight": self.weight_KD,
            "bias": self.bias_K,
            "slope": self.slope_K,
            "offset": self.offset_K,
            "threshold": self.threshold_K,
        }


def sigmoid(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logistic function, without overflow."""
    return np.exp(-np.logaddexp(0.0, -logit))


def _description(header: Header) -> dict[str, Any]:
    where = str(header.path)
    try:
        values: dict[str, Any] = json.loads(header.metadata[HEAD_KEY])
        schema, pooling = values["schema"], values["pooling"]
    except (KeyError, ValueError, TypeError, RecursionError):
        raise WeightsError(f"has no header key {HEAD_KEY!r} that can be read", where=where, hint=_FIT_HINT) from None
    if schema != _SCHEMA or not (pooling == _MEAN or _GRID.fullmatch(str(pooling))):
        raise WeightsError(
            f"schema {schema}, pooling {pooling}",
            where=where,
            expected=f"schema {_SCHEMA}, pooling mean or of a grid",
            hint="use a newer chexmix",
        )
    return values


def _grid(pooling: str) -> int:
    found = _GRID.fullmatch(pooling)
    return int(found[1]) if found else 1


def _quantiles(values: Mapping[str, Any]) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    found = {label: (low, high) for label, (low, high) in values.items()}
    for label, sides in found.items():
        if not all(isinstance(side, list) and side and all(map(_is_share, side)) for side in sides):
            raise TypeError(f"quantiles of {label!r}")
    return found


def _validation(values: Mapping[str, Any]) -> dict[str, Validation]:
    found = {}
    for label, figures in values.items():
        interval = None if figures["interval"] is None else tuple(figures["interval"])
        one = found[label] = Validation(**{**figures, "interval": interval})
        is_sound = one.auroc is None or _is_share(one.auroc)
        is_sound &= interval is None or (len(interval) == 2 and all(map(_is_share, interval)))
        if not is_sound or not all(type(count) is int and count >= 0 for count in (one.positives, one.negatives)):
            raise TypeError(f"validation of {label!r}")
    return found


def _is_share(value: object) -> bool:
    """Return whether a value of JSON is a number from 0 to 1; NaN is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _check_words(values: Mapping[str, Any]) -> None:
    """Raise TypeError unless labels, names and hashes are texts."""
    names = [values["calibration"], values["model"], *([] if values.get("values") is None else [values["values"]])]
    if not isinstance(values["labels"], list) or not all(isinstance(one, str) for one in [*values["labels"], *names]):
        raise TypeError("labels, calibration or hashes that are no texts")


def _check_provenance(provenance: Any) -> None:
    """Raise TypeError unless what is read of a provenance is of its type: counts by value by name."""
    trained = provenance.get("trained_on", {}) if isinstance(provenance, dict) else None
    if not isinstance(trained, dict) or not all(
        isinstance(counts, dict) and all(type(count) is int and count >= 0 for count in counts.values())
        for counts in trained.values()
    ):
        raise TypeError("a damaged provenance")


def _read_arrays(header: Header) -> dict[str, Array]:
    from safetensors.numpy import load_file

    return dict(load_file(header.path))


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return " ".join(
        f"{value} {count / max(total, 1):.0%}" for value, count in sorted(counts.items(), key=lambda one: -one[1])
    )
