"""Tell the settings of a weights directory: from our header, else from the released layout's files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chexmix_cli.core.errors import ChexmixError, WeightsError
from chexmix_cli.core.settings.load import to_dict
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.weights import files
from chexmix_cli.core.weights.formats.header import Header
from chexmix_cli.core.weights.formats.keys import Slice, decoder_slices
from chexmix_cli.core.weights.formats.released import read_config, read_vqgan_config
from chexmix_cli.core.weights.formats.safetensors_io import TensorSource, check_keys
from chexmix_cli.core.weights.formats.sharded import find_network, foreign_decoder, open_safetensors
from chexmix_cli.core.weights.formats.wrappers import unwrap
from chexmix_cli.core.weights.hub.registry import RELEASED_ENTRY, ModelEntry, registry


@dataclass(frozen=True, slots=True)
class Detected:
    """What a directory says of itself.

    Attributes:
        settings: the model.
        sources: the files (or the preset) each part of the settings came from.
        entry_name: entry of ``weights.toml`` the weights are, or were made from; its licence holds for them.
        provenance: free form, from our header.
    """

    settings: ModelSettings
    sources: tuple[str, ...]
    entry_name: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


def holds_weights(path: Path) -> bool:
    """Return whether a directory has a weight file that is read, by name."""
    networks = (find_network(path, name) for name in (files.MODEL_FILE, files.VQGAN_FILE))
    return (path / files.VQGAN_CHECKPOINT).is_file() or any(network is not None for network in networks)


def detect(path: Path, headers: Mapping[str, Header], entry: ModelEntry | None) -> Detected:
    """Return the settings of a weights directory.

    Args:
        path: the directory.
        headers: of its safetensors files, by file name.
        entry: the entry of ``weights.toml`` that the directory belongs to, if known.

    Raises:
        WeightsError: if there are no weights, their files disagree, or their settings cannot be told.
    """
    if not holds_weights(path):
        problem = foreign_decoder(path)
        if problem is not None:
            raise problem
        expected = f"{files.MODEL_FILE}, {files.VQGAN_FILE} or {files.VQGAN_CHECKPOINT}"
        raise WeightsError("holds no weights", where=str(path), expected=expected)
    described = {name: found for name, header in headers.items() if (found := header.description()) is not None}
    if not described:
        return _detect_released(path, headers, entry)
    first, *others = described
    settings = described[first].settings
    for other in others:
        differing = _differing(settings, described[other].settings)
        if differing:
            raise WeightsError(
                f"{first} and {other} describe different models ({', '.join(differing)})",
                where=str(path),
                hint="they come from different trainings; put files of one model together",
            )
    provenance = described[first].provenance
    entry_name = str(provenance.get("entry", "")) if entry is None else entry.name
    return Detected(settings, tuple(f"header of {name}" for name in described), entry_name, provenance)


def _differing(one: ModelSettings, other: ModelSettings) -> list[str]:
    """Return the settings in which two files differ, but for the decoder's attention: its own file, the first, has it.

    An image tokenizer serves decoders of either kind.
    """
    mine, theirs = to_dict(one), to_dict(other)
    return [
        f"{section}.{key}"
        for section in ("vocabulary", "image", "vqgan", "decoder")
        for key in mine[section]
        if mine[section][key] != theirs[section][key] and (section, key) != ("decoder", "attention")
    ]


def _detect_released(path: Path, headers: Mapping[str, Header], entry: ModelEntry | None) -> Detected:
    """Return the settings of a directory without our header: the released vocabulary, sizes from its files.

    The released hub repository need not hold ``config.json`` and ``vqgan.yaml``. Its published sizes stand in for
    them, and for nothing else: tensors of any other shape are refused, here and when they are loaded.
    """
    owner = registry()[RELEASED_ENTRY] if entry is None or entry.preset is None else entry
    released = owner.model_settings()
    decoder, decoder_from = released.decoder, f"preset {owner.preset}"
    vqgan, resolution, vqgan_from = released.vqgan, released.image.resolution_px, decoder_from
    if (path / files.CONFIG_FILE).is_file():
        decoder, decoder_from = read_config(path / files.CONFIG_FILE), files.CONFIG_FILE
        decoder = dataclasses.replace(decoder, rope_dtype=released.decoder.rope_dtype)
        _require_released_vocabulary(
            path / files.CONFIG_FILE, "vocab_size", decoder.num_rows, released.decoder.num_rows
        )
    elif (network := find_network(path, files.MODEL_FILE)) is not None:
        slices = decoder_slices(decoder)
        _require_released_shapes(slices, unwrap(open_safetensors(network, headers), slices))
    if (path / files.VQGAN_CONFIG).is_file():
        (vqgan, resolution), vqgan_from = read_vqgan_config(path / files.VQGAN_CONFIG), files.VQGAN_CONFIG
        _require_released_vocabulary(path / files.VQGAN_CONFIG, "n_embed", vqgan.num_codes, released.vqgan.num_codes)
    try:
        settings = ModelSettings(
            name=path.resolve().name if entry is None else entry.name,
            vocabulary=released.vocabulary,
            image=dataclasses.replace(released.image, resolution_px=resolution),
            vqgan=vqgan,
            decoder=decoder,
        )
    except ChexmixError as error:
        raise WeightsError(str(error), where=str(path)) from None
    same_tensors = decoder_slices(decoder) == decoder_slices(released.decoder) and vqgan == released.vqgan
    by_size = owner.name if same_tensors else None
    return Detected(
        settings,
        (f"decoder: {decoder_from}", f"vqgan: {vqgan_from}", "vocabulary: released"),
        by_size if entry is None else entry.name,
    )


def _require_released_vocabulary(path: Path, key: str, found: int, released: int) -> None:
    if found != released:
        raise WeightsError(
            f"{key} is {found}, a vocabulary that is not known",
            where=str(path),
            expected=f"{released} (the released model's), or files that describe themselves",
            hint="weights written by chexmix carry their vocabulary in the header; use those files as they were",
        )


def _require_released_shapes(slices: list[Slice], source: TensorSource) -> None:
    problems = check_keys(slices, source)
    if problems:
        raise WeightsError(
            f"no {files.CONFIG_FILE} beside it, and not the released model's tensors: {'; '.join(problems)}",
            where=source.where,
            expected=f"{files.CONFIG_FILE}, or a file that describes itself",
        )
