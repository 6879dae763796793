"""Check all of a weights directory, with the parts that inference made: head, projections, what is typical."""

from __future__ import annotations

from pathlib import Path

from chexmix_cli.core.infer.classification.heads import Head
from chexmix_cli.core.infer.retrieval.projection import Projection
from chexmix_cli.core.infer.typicality import Typical
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
    head.require_size(decoder, str(path))
    return Check("head", "ok", f"{files.HEAD_FILE}: {len(head.labels)} findings of {head.features}")


def _check_retrieval(weights: WeightsDir) -> Check:
    projection = Projection.load(weights.path, weights.settings.decoder)
    if projection is None:
        return Check("retrieval", "absent", f"no {files.RETRIEVAL_FILE}")
    projection.require_model(weights.fingerprint, str(weights.path / files.RETRIEVAL_FILE))
    return Check("retrieval", "ok", f"{files.RETRIEVAL_FILE}: layer {projection.layer} to {projection.size} numbers")


def _check_typical(weights: WeightsDir) -> Check:
    path = weights.path / files.TYPICAL_FILE
    if not path.is_file():
        return Check("typical", "absent", f"no {files.TYPICAL_FILE}")
    typical = Typical.load(path)
    typical.require_model(weights.fingerprint, str(path))
    typical.require_size(weights.settings.decoder, str(path))
    return Check(
        "typical", "ok", f"{files.TYPICAL_FILE}: {typical.share:.0%} of train films above {typical.threshold:.2f}"
    )
