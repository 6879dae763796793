"""Describe models and weights directories as plain values, for ``weights list`` and ``weights info``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chexmix_cli.core.settings.load import to_dict
from chexmix_cli.core.settings.model import DecoderSettings
from chexmix_cli.core.weights import files
from chexmix_cli.core.weights.detect import holds_weights
from chexmix_cli.core.weights.directory import WeightsDir
from chexmix_cli.core.weights.formats.keys import num_parameters
from chexmix_cli.core.weights.formats.sharded import network_files, open_safetensors
from chexmix_cli.core.weights.hub.registry import ModelEntry

#: What the estimate of memory is made for.
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes needed to run, in one dtype; a lower bound: what a pass computes in between comes on top.

    Attributes:
        weights: decoder and image tokenizer.
        cache: keys and values of one sequence of ``max_positions``.
    """

    weights: int
    cache: int


def describe_entry(entry: ModelEntry) -> dict[str, Any]:
    """Return one entry of ``weights.toml`` as a record: what it is, its licence, whether it is here."""
    sizes = [path.stat().st_size for path in entry.directory.glob("*") if path.is_file()]
    return {
        "name": entry.name,
        "source": entry.source,
        "summary": entry.summary,
        "licence": entry.licence.name,
        "licence_url": entry.licence.url,
        "is_here": holds_weights(entry.directory),
        "num_bytes": sum(sizes),
        "path": str(entry.directory),
    }


def describe_weights(weights: WeightsDir) -> dict[str, Any]:
    """Return a weights directory as a record: settings and where they come from, parts, licence, memory.

    Raises:
        WeightsError: if a part is damaged, or the decoder is in a form that is not read.
    """
    weights.refuse_foreign_decoder()
    parts = {
        "decoder": _describe_part(weights.decoder_file, weights),
        "vqgan": _describe_part(weights.vqgan_file, weights),
    }
    total = sum(part["num_parameters"] for part in parts.values() if part is not None)
    decoder = weights.settings.decoder
    tokenizer = [path.name for path in files.tokenizer_files(weights.path)]
    drafts = None if weights.drafts_file is None else [weights.drafts_file.name]
    licence = weights.entry.licence if weights.entry is not None else None
    return {
        "name": weights.name,
        "path": str(weights.path),
        "fingerprint": weights.fingerprint,
        "licence": None if licence is None else {"name": licence.name, "url": licence.url},
        "parts": {**parts, "text_tokenizer": tokenizer or None, "drafts": drafts},
        "num_parameters": total,
        "memory_bytes": {name: to_dict(estimate_memory(decoder, total, size)) for name, size in _DTYPE_BYTES.items()},
        "settings": to_dict(weights.settings),
        "settings_from": list(weights.sources),
        "provenance": dict(weights.provenance),
    }


def estimate_memory(decoder: DecoderSettings, parameters: int, item_bytes: int) -> Memory:
    """Return the bytes of ``parameters`` numbers and of one full key-value cache, ``item_bytes`` each."""
    cached = 2 * decoder.num_layers * decoder.max_positions * decoder.hidden_size
    return Memory(weights=parameters * item_bytes, cache=cached * item_bytes)


def _describe_part(path: Path | None, weights: WeightsDir) -> dict[str, Any] | None:
    if path is None:
        return None
    if path.name == files.VQGAN_CHECKPOINT:  # it has no header; the settings say what must be in it
        count, dtypes = num_parameters(weights.vqgan_slices()), None
        size = path.stat().st_size
    else:
        source = open_safetensors(path)
        count, dtypes = sum(math.prod(shape) for shape in source.shapes.values()), sorted(set(source.dtypes.values()))
        size = sum(part.stat().st_size for part in network_files(path))
    return {"file": path.name, "num_bytes": size, "num_parameters": count, "dtypes": dtypes}
