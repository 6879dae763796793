"""Turn weights of any accepted layout into files that describe themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.files import atomic_write, write_text
from chexmix_cli.core.weights import files
from chexmix_cli.core.weights.directory import WeightsDir, open_weights
from chexmix_cli.core.weights.formats.gguf_file import GGUF_SUFFIX, GgufSource
from chexmix_cli.core.weights.formats.header import HEAD_KEY, RETRIEVAL_KEY, TYPICAL_KEY, Header, in_order, read_header
from chexmix_cli.core.weights.formats.released import vqgan_config_text
from chexmix_cli.core.weights.formats.sharded import INDEX_SUFFIX, write_network
from chexmix_cli.core.weights.parts import COMPANIONS, Parts, copy_files, dtype_name, existing
from chexmix_cli.core.weights.saving import write_config

if TYPE_CHECKING:
    import torch

#: What was fitted on the model's states, and the header key that says on which weights'.
_FITTED = {files.HEAD_FILE: HEAD_KEY, files.RETRIEVAL_FILE: RETRIEVAL_KEY, files.TYPICAL_FILE: TYPICAL_KEY}


def convert(
    source: str | Path | None, out: Path, *, dtype: torch.dtype | None = None, max_bytes: int | None = None
) -> list[Path]:
    """Write a weights directory, or one weight file of it, self-describing; return the files written.

    Args:
        source: whatever :func:`open_weights` takes, one weight file (the files beside it tell its settings), or a GGUF
            file that chexmix exported: its decoder and text tokenizer.
        out: directory, made if missing; it may be the source's own.
        dtype: of the tensors; default: as stored, bit for bit; what is quantized comes back as float32.
        max_bytes: most bytes of one file; a larger network is written into several with their index. Default: the
            same files as the source.

    Raises:
        WeightsError: if the source is incomplete, does not fit its settings, or has numbers that ``dtype`` cannot
            hold; nothing is written then.
        MachineError: for a GGUF file, if the package that reads it is not installed.
    """
    companions: list[Path] = []
    fitted: list[_Fitted] = []
    if source is not None and Path(source).expanduser().is_file():
        parts = _one_file(Path(source).expanduser())
    else:
        weights = open_weights(source)
        weights.refuse_foreign_decoder()
        fitted = _fitted(weights)
        decoder = weights.decoder_source() if weights.has_decoder else None
        parts = Parts.of(weights, decoder, weights.vqgan_source() if weights.has_vqgan else None)
        kept = (*COMPANIONS, files.DRAFTS_FILE)
        companions = [*files.tokenizer_files(weights.path), *existing(weights.path, kept)]
    plans = parts.plan(out, dtype, max_bytes)
    settings, metadata, written = parts.settings, parts.metadata(), list[str]()
    if parts.vqgan is not None:
        plan = plans[files.VQGAN_FILE]
        written += write_network(out, files.VQGAN_FILE, parts.vqgan, plan, metadata=metadata, dtype=dtype)
        write_text(out / files.VQGAN_CONFIG, vqgan_config_text(settings))
        written.append(files.VQGAN_CONFIG)
    if parts.decoder is not None:
        plan = plans[files.MODEL_FILE]
        written += write_network(out, files.MODEL_FILE, parts.decoder, plan, metadata=metadata, dtype=dtype)
        written += write_config(out, settings, dtype_name(parts.decoder, dtype))
    if parts.tokenizer is not None:
        write_text(out / files.TOKENIZER_FILE, parts.tokenizer)
        written.append(files.TOKENIZER_FILE)
    return [*(out / name for name in written), *copy_files(companions, out), *_carry(fitted, out)]


def _one_file(path: Path) -> Parts:
    if path.suffix == GGUF_SUFFIX:
        source = GgufSource(path)
        return Parts(source.settings, source.provenance, source, None, tokenizer=source.tokenizer)
    networks = (files.MODEL_FILE, files.VQGAN_FILE, files.VQGAN_CHECKPOINT)
    network = path.name.removesuffix(INDEX_SUFFIX)
    if network not in networks:
        expected = f"{', '.join(networks)}, the index of several, or a GGUF file"
        raise WeightsError("is no weight file by its name", where=str(path), expected=expected)
    weights = open_weights(path.parent)
    if network == files.MODEL_FILE:
        return Parts.of(weights, weights.decoder_source(), None)
    return Parts.of(weights, None, weights.vqgan_source_of(path))


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A file beside the weights that was fitted on their states, read before it is written over, and the weights."""

    content: bytes
    header: Header
    model: str


def _fitted(weights: WeightsDir) -> list[_Fitted]:
    paths = existing(weights.path, tuple(_FITTED))
    return [_Fitted(path.read_bytes(), read_header(path), weights.fingerprint) for path in paths]


def _carry(fitted: list[_Fitted], out: Path) -> list[Path]:
    """Write what was fitted beside converted weights, as theirs: their states are those it was fitted on."""
    from safetensors.numpy import load, save

    for one in fitted:
        name, metadata = one.header.path.name, dict(one.header.metadata)
        key = _FITTED[name]
        values = json.loads(metadata.get(key, "{}"))
        # What belongs to other weights stays so, and is refused beside these as it was beside those.
        if values.get("model") == one.model:
            metadata[key] = json.dumps({**values, "model": open_weights(out).fingerprint})
        with atomic_write(out / name) as file:
            file.write(in_order(save(load(one.content), metadata=metadata)))
    return [out / one.header.path.name for one in fitted]
