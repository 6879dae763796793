"""Write a model as a weights directory that describes itself and is in the released layout at once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.files import atomic_write, write_text
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.weights import files
from chexmix_cli.core.weights.formats.header import DESCRIPTION_KEY, Description
from chexmix_cli.core.weights.formats.keys import decoder_slices, same_name_slices
from chexmix_cli.core.weights.formats.released import config_text, vqgan_config_text
from chexmix_cli.core.weights.formats.safetensors_io import ModuleSource, require_representable, write_safetensors

if TYPE_CHECKING:
    import torch

    from chexmix_cli.core.models.decoder import Decoder
    from chexmix_cli.core.models.vqgan import Vqgan


def save_model(
    directory: Path,
    settings: ModelSettings,
    *,
    decoder: Decoder | None = None,
    vqgan: Vqgan | None = None,
    tokenizer_file: Path | None = None,
    provenance: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the parts that are given; each file is replaced whole or not at all, others in the directory stay.

    Args:
        directory: made if missing. Afterwards it works as ``--weights``; a causal decoder loads in ``transformers``.
        settings: of the whole model; they go into every safetensors header.
        decoder, vqgan: on any device; read, not changed.
        tokenizer_file: ``tokenizer.json``, or ``vocab.json`` with its two companions beside it; copied.
        provenance: how the weights came to be, any JSON values; no patient data.
        dtype: of the files; default: as the modules have it.

    Raises:
        WeightsError: if ``dtype`` cannot hold what a module holds.
    """
    metadata = {DESCRIPTION_KEY: Description(settings, provenance or {}).to_json()}
    if tokenizer_file is not None:
        for file in files.tokenizer_files(tokenizer_file.parent):
            copy_file(file, directory / file.name)
    if vqgan is not None:
        source = ModuleSource(vqgan, same_name_slices(vqgan))
        require_representable(source, dtype)
        write_safetensors(directory / files.VQGAN_FILE, source, metadata=metadata, dtype=dtype)
        write_text(directory / files.VQGAN_CONFIG, vqgan_config_text(settings))
    if decoder is not None:
        source = ModuleSource(decoder, decoder_slices(settings.decoder))
        require_representable(source, dtype)
        write_safetensors(directory / files.MODEL_FILE, source, metadata=metadata, dtype=dtype)
        written = dtype or decoder.embedding.weight.dtype
        write_config(directory, settings, str(written).removeprefix("torch."))


def write_config(directory: Path, settings: ModelSettings, dtype_name: str) -> list[str]:
    """Write ``config.json`` beside a decoder and return its name; arguments as :func:`released.config_text`.

    A decoder that reads images whole has none, and one that lies there goes: it would make ``transformers`` read it as
    a causal one.
    """
    if settings.decoder.attention != "causal" or settings.decoder.rope_grid:
        (directory / files.CONFIG_FILE).unlink(missing_ok=True)
        return []
    write_text(directory / files.CONFIG_FILE, config_text(settings, dtype_name))
    return [files.CONFIG_FILE]


def copy_file(source: Path, target: Path) -> None:
    """Copy a file atomically; a file onto itself is left alone."""
    if target.exists() and target.samefile(source):
        return
    with source.open("rb") as reading, atomic_write(target) as writing:
        shutil.copyfileobj(reading, writing)
