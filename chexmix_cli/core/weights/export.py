"""Write the decoder and text tokenizer for other programs: transformers and vLLM, or llama.cpp.

Neither takes an image: what they read and write are token ids, which `chexmix tokenize` makes of a film.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.files import write_json, write_text
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.text.row_names import with_rows
from chexmix_cli.core.text.tokenizer import END_OF_TEXT, read_backend
from chexmix_cli.core.weights import files
from chexmix_cli.core.weights.directory import WeightsDir, open_weights
from chexmix_cli.core.weights.formats.gguf_file import (
    GGUF_SUFFIX,
    GgufModel,
    GgufQuantize,
    file_encoding,
    plan_encodings,
    write_gguf,
)
from chexmix_cli.core.weights.formats.header import DESCRIPTION_KEY
from chexmix_cli.core.weights.formats.released import config_text, require_phi
from chexmix_cli.core.weights.formats.safetensors_io import require_representable
from chexmix_cli.core.weights.formats.sharded import write_network
from chexmix_cli.core.weights.model_card import card_text, sequence_text
from chexmix_cli.core.weights.parts import COMPANIONS, Parts, copy_files, dtype_name, existing

if TYPE_CHECKING:
    import torch

CARD_FILE = "README.md"
_GENERATION_FILE, _TOKENIZER_CONFIG = "generation_config.json", "tokenizer_config.json"


def export_hf(
    source: str | Path | None, out: Path, *, dtype: torch.dtype | None = None, max_bytes: int | None = None
) -> list[Path]:
    """Write a directory for ``transformers`` and vLLM; return the files written.

    ``AutoModelForCausalLM`` loads it as ``PhiForCausalLM`` and, where there is a text tokenizer, ``AutoTokenizer``. Its
    ``generation_config.json`` decodes as ``chexmix generate-report`` does with ``decode.vocabulary = "all"``.

    Args:
        source, out, dtype, max_bytes: as of :func:`convert`.

    Raises:
        WeightsError: as :func:`convert`, and if a Phi cannot be the decoder.
    """
    weights = open_weights(source)
    require_phi(weights.settings)
    parts = Parts.of(weights, weights.decoder_source(), None)
    assert parts.decoder is not None
    config = config_text(weights.settings, dtype_name(parts.decoder, dtype))
    tokenizer = _tokenizer(weights)
    plan = parts.plan(out, dtype, max_bytes)[files.MODEL_FILE]
    written = write_network(out, files.MODEL_FILE, parts.decoder, plan, metadata=parts.metadata(), dtype=dtype)
    write_text(out / files.CONFIG_FILE, config)
    write_json(out / _GENERATION_FILE, _generation(weights))
    written += [files.CONFIG_FILE, _GENERATION_FILE]
    if tokenizer is not None:
        named = with_rows(tokenizer, weights.settings.vocabulary)
        write_text(out / files.TOKENIZER_FILE, json.dumps(named, indent=2, ensure_ascii=False) + "\n")
        write_json(out / _TOKENIZER_CONFIG, _tokenizer_config(weights))
        written += [files.TOKENIZER_FILE, _TOKENIZER_CONFIG]
    write_text(out / CARD_FILE, card_text(weights, "transformers"))
    companions = existing(weights.path, COMPANIONS)
    return [*(out / name for name in (*written, CARD_FILE)), *copy_files(companions, out)]


def export_gguf(
    source: str | Path | None, out: Path, *, dtype: torch.dtype | None = None, quantize: GgufQuantize | None = None
) -> list[Path]:
    """Write ``model-ENCODING.gguf`` for llama.cpp into a folder; return the files written.

    Args:
        source, out: as of :func:`convert`.
        dtype: of the matrices; default: as stored. Vectors are float32.
        quantize: ``q8_0``: matrices in 8 bits.

    Raises:
        WeightsError: as :func:`export_hf`, and as :func:`plan_encodings` and :func:`write_gguf`.
        MachineError: if the package ``gguf`` is not installed.
    """
    weights = open_weights(source)
    require_phi(weights.settings)
    parts = Parts.of(weights, weights.decoder_source(), None)
    assert parts.decoder is not None
    plan = plan_encodings(parts.decoder, dtype=dtype, quantize=quantize)
    require_representable(parts.decoder, dtype)
    licence = None if weights.entry is None else weights.entry.licence
    model = GgufModel(
        settings=weights.settings,
        description=parts.metadata()[DESCRIPTION_KEY],
        tokenizer=_tokenizer(weights),
        licence=None if licence is None else (licence.name, licence.url),
        note=sequence_text(weights.settings),
    )
    path = out / f"model-{file_encoding(plan)}{GGUF_SUFFIX}"
    write_gguf(path, parts.decoder, plan, model)
    write_text(out / CARD_FILE, card_text(weights, "llama.cpp"))
    return [path, out / CARD_FILE, *copy_files(existing(weights.path, COMPANIONS), out)]


def _tokenizer(weights: WeightsDir) -> dict[str, Any] | None:
    """Return the content of a ``tokenizer.json`` that does what the weights' text tokenizer does, or None."""
    if weights.load_text_tokenizer() is None:  # which holds it against the vocabulary
        return None
    description: dict[str, Any] = json.loads(read_backend(weights.path).to_str())  # type: ignore[union-attr]
    return {**description, "truncation": None, "padding": None, "post_processor": None}


def _generation(weights: WeightsDir) -> dict[str, Any]:
    vocabulary, decode = weights.settings.vocabulary, DecodeSettings()
    return {
        "bos_token_id": vocabulary.begin_text,
        "eos_token_id": [vocabulary.begin_text, vocabulary.begin_image],
        "pad_token_id": vocabulary.pad,
        "do_sample": False,
        "max_new_tokens": decode.max_new_tokens,
        "min_new_tokens": decode.min_new_tokens,
    }


def _tokenizer_config(weights: WeightsDir) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": weights.settings.decoder.max_positions,
    }
