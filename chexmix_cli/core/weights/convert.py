"""Turn weights of any accepted layout into files that describe themselves, or into a ``transformers`` directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chexmix_cli import __version__
from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.files import atomic_write, write_json, write_text
from chexmix_cli.core.weights import files
from chexmix_cli.core.weights.directory import WeightsDir, open_weights
from chexmix_cli.core.weights.fingerprint import file_sha256
from chexmix_cli.core.weights.formats.header import (
    DESCRIPTION_KEY,
    HEAD_KEY,
    TYPICAL_KEY,
    Description,
    Header,
    read_header,
)
from chexmix_cli.core.weights.formats.keys import decoder_slices
from chexmix_cli.core.weights.formats.released import config_text, vqgan_config_text
from chexmix_cli.core.weights.formats.safetensors_io import (
    TensorSource,
    dtype_codes,
    require_fit,
    require_representable,
)
from chexmix_cli.core.weights.formats.sharded import INDEX_SUFFIX, network_files, require_free, write_network
from chexmix_cli.core.weights.saving import copy_file, write_config

if TYPE_CHECKING:
    import torch

#: Terms and descriptions that travel along with the weights, as they are.
_COMPANIONS = ("LICENSE", "LICENSE.md", "NOTICE", "MODEL_CARD.md")
#: What was fitted on the model's states, and the header key that says on which weights'.
_FITTED = {files.HEAD_FILE: HEAD_KEY, files.TYPICAL_FILE: TYPICAL_KEY}


@dataclass(frozen=True, slots=True)
class _Parts:
    """The tensors to be written, by part, each held against the model's settings."""

    weights: WeightsDir
    decoder: TensorSource | None
    vqgan: TensorSource | None

    def __post_init__(self) -> None:
        if self.decoder is not None:
            require_fit(decoder_slices(self.weights.settings.decoder), self.decoder)
        if self.vqgan is not None:
            require_fit(self.weights.vqgan_slices(), self.vqgan)

    def require_writable(self, out: Path, dtype: torch.dtype | None) -> None:
        """Raise WeightsError, before anything is written, if ``out`` or ``dtype`` cannot take every part."""
        for name, part in ((files.MODEL_FILE, self.decoder), (files.VQGAN_FILE, self.vqgan)):
            if part is not None:
                require_free(out, name, part)
                require_representable(part, dtype)

    def metadata(self) -> Mapping[str, str]:
        """Return the header entries: the model, and which files it was made from."""
        networks = [Path(part.where) for part in (self.decoder, self.vqgan) if part is not None]
        sources = [path for network in networks for path in network_files(network)]
        provenance = {
            **self.weights.provenance,
            "converted_from": {path.name: file_sha256(path) for path in sources},
            "converted_by": f"chexmix {__version__}",
        }
        if self.weights.entry is not None:
            provenance["entry"] = self.weights.entry.name
        return {DESCRIPTION_KEY: Description(self.weights.settings, provenance).to_json()}


def convert(source: str | Path | None, out: Path, *, dtype: torch.dtype | None = None) -> list[Path]:
    """Write a weights directory, or one weight file of it, self-describing; return the files written.

    Args:
        source: whatever :func:`open_weights` takes, or one weight file (the files beside it tell its settings).
        out: directory, made if missing; it may be the source's own.
        dtype: of the tensors; default: as stored, bit for bit.

    Raises:
        WeightsError: if the source is incomplete, does not fit its settings, or has numbers that ``dtype`` cannot
            hold; nothing is written then.
    """
    if source is not None and Path(source).expanduser().is_file():
        parts = _one_file(Path(source).expanduser())
        companions: list[Path] = []
        fitted: list[_Fitted] = []
    else:
        weights = open_weights(source)
        weights.refuse_foreign_decoder()
        fitted = _fitted(weights)
        decoder = weights.decoder_source() if weights.has_decoder else None
        parts = _Parts(weights, decoder, weights.vqgan_source() if weights.has_vqgan else None)
        kept = (*_COMPANIONS, files.RETRIEVAL_FILE, files.DRAFTS_FILE)
        companions = [*files.tokenizer_files(weights.path), *_existing(weights.path, kept)]
    parts.require_writable(out, dtype)
    settings, metadata, written = parts.weights.settings, parts.metadata(), list[str]()
    if parts.vqgan is not None:
        written += write_network(out, files.VQGAN_FILE, parts.vqgan, metadata=metadata, dtype=dtype)
        write_text(out / files.VQGAN_CONFIG, vqgan_config_text(settings))
        written.append(files.VQGAN_CONFIG)
    if parts.decoder is not None:
        written += write_network(out, files.MODEL_FILE, parts.decoder, metadata=metadata, dtype=dtype)
        written += write_config(out, settings, _dtype_name(parts.decoder, dtype))
    return [*(out / name for name in written), *_copy(companions, out), *_carry(fitted, out)]


def export_hf(source: str | Path | None, out: Path, *, dtype: torch.dtype | None = None) -> list[Path]:
    """Write the decoder and text tokenizer as a directory for ``transformers``; return the files written.

    ``PhiForCausalLM.from_pretrained`` loads it and, where there is a ``tokenizer.json``, ``AutoTokenizer``.
    Arguments and errors as :func:`convert`; a decoder that reads images whole is refused, too. A configuration of
    ``transformers`` cannot say that rotary frequencies are rounded: a model whose ``rope_dtype`` is ``bfloat16``
    computes with exact ones there, logits differ by about 1e-3.
    """
    weights = open_weights(source)
    parts = _Parts(weights, weights.decoder_source(), None)
    assert parts.decoder is not None
    config = config_text(weights.settings, _dtype_name(parts.decoder, dtype))
    parts.require_writable(out, dtype)
    written = write_network(out, files.MODEL_FILE, parts.decoder, metadata=parts.metadata(), dtype=dtype)
    vocabulary, tokenizer = weights.settings.vocabulary, weights.path / files.TOKENIZER_FILE
    texts: dict[str, Any] = {
        "generation_config.json": {
            "bos_token_id": vocabulary.begin_text,
            "eos_token_id": [vocabulary.begin_text, vocabulary.begin_image],
            "pad_token_id": vocabulary.pad,
        }
    }
    if tokenizer.is_file():
        texts["tokenizer_config.json"] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
            "model_max_length": weights.settings.decoder.max_positions,
        }
    write_text(out / files.CONFIG_FILE, config)
    for name, values in texts.items():
        write_json(out / name, values)
    names = (*written, files.CONFIG_FILE, *texts)
    companions = [*files.tokenizer_files(weights.path), *_existing(weights.path, _COMPANIONS)]
    return [*(out / name for name in names), *_copy(companions, out)]


def _one_file(path: Path) -> _Parts:
    networks = (files.MODEL_FILE, files.VQGAN_FILE, files.VQGAN_CHECKPOINT)
    network = path.name.removesuffix(INDEX_SUFFIX)
    if network not in networks:
        raise WeightsError(
            "is no weight file by its name", where=str(path), expected=f"{', '.join(networks)}, or the index of several"
        )
    weights = open_weights(path.parent)
    if network == files.MODEL_FILE:
        return _Parts(weights, weights.decoder_source(), None)
    return _Parts(weights, None, weights.vqgan_source_of(path))


def _dtype_name(decoder: TensorSource, dtype: torch.dtype | None) -> str:
    """Return torch's name of the dtype most of the decoder's tensors are written in."""
    names = {code: str(known).removeprefix("torch.") for known, code in dtype_codes().items()}
    codes = list(decoder.dtypes.values())
    return names[max(set(codes), key=codes.count)] if dtype is None else str(dtype).removeprefix("torch.")


def _existing(directory: Path, names: tuple[str, ...]) -> list[Path]:
    return [directory / name for name in names if (directory / name).is_file()]


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A file beside the weights that was fitted on their states, read before it is written over, and the weights."""

    content: bytes
    header: Header
    model: str


def _fitted(weights: WeightsDir) -> list[_Fitted]:
    paths = _existing(weights.path, tuple(_FITTED))
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
            file.write(save(load(one.content), metadata=metadata))
    return [out / one.header.path.name for one in fitted]


def _copy(sources: list[Path], out: Path) -> list[Path]:
    for path in sources:
        copy_file(path, out / path.name)
    return [out / path.name for path in sources]
