"""Check all of a weights directory, with the parts that inference made: head, projections, what is typical."""

from __future__ import annotations

from pathlib import Path

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.infer.classification.heads import Head
from chexmix_cli.core.infer.retrieval.projection import Projection
from chexmix_cli.core.infer.typicality import NUM_LIKELIHOOD, Typical
from chexmix_cli.core.weights import WeightsDir, files
from chexmix_cli.core.weights.verify import Check, verify


def verify_all(name_or_dir: str | Path | None) -> list[Check]:
    """Return the outcome of every check of :func:`verify` and of those here."""
    more = [("head", _check_head), ("retrieval", _check_retrieval), ("typical", _check_typical)]
    return verify(name_or_dir, more)


def _check_head(weights: WeightsDir) -> Check:
    path, decoder = weights.path / files.HEAD_FILE, weights.settings.decoder
    if not path.is_file():
        return Check("head", "absent", f"no {files.HEAD_FILE}")
    head = Head.load(path)
    head.require_model(weights.fingerprint, str(path))
    size, wanted = len(head.mean_D), decoder.hidden_size * head.grid**2
    if size != wanted or not 0 <= head.layer <= decoder.num_layers:
        raise WeightsError(
            f"reads {size} numbers of layer {head.layer}",
            where=str(path),
            expected=f"{wanted} of a layer up to {decoder.num_layers}, as the decoder has",
        )
    return Check("head", "ok", f"{files.HEAD_FILE}: {len(head.labels)} findings of {head.features}")


def _check_retrieval(weights: WeightsDir) -> Check:
    projection = Projection.load(weights.path, weights.settings.decoder)
    if projection is None:
        return Check("retrieval", "absent", f"no {files.RETRIEVAL_FILE}")
    damaged = [name for name, value in projection.state_dict().items() if not bool(value.isfinite().all())]
    if damaged:
        raise WeightsError(f"not finite: {', '.join(damaged)}", where=str(weights.path / files.RETRIEVAL_FILE))
    return Check("retrieval", "ok", f"{files.RETRIEVAL_FILE}: layer {projection.layer} to {projection.size} numbers")


def _check_typical(weights: WeightsDir) -> Check:
    path, hidden = weights.path / files.TYPICAL_FILE, weights.settings.decoder.hidden_size
    if not path.is_file():
        return Check("typical", "absent", f"no {files.TYPICAL_FILE}")
    typical = Typical.load(path)
    typical.require_model(weights.fingerprint, str(path))
    if len(typical.mean_D) != NUM_LIKELIHOOD + hidden:
        raise WeightsError(
            f"reads {len(typical.mean_D)} numbers", where=str(path), expected=f"{NUM_LIKELIHOOD + hidden}"
        )
    return Check(
        "typical", "ok", f"{files.TYPICAL_FILE}: {typical.share:.0%} of train films above {typical.threshold:.2f}"
    )
