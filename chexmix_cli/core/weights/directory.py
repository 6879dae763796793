"""A weights directory: found by name or path, its settings read, its parts loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.errors import ChexmixError, WeightsError
from chexmix_cli.core.settings.load import to_dict
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.weights import files
from chexmix_cli.core.weights.fingerprint import file_sha256
from chexmix_cli.core.weights.header import Header, read_header
from chexmix_cli.core.weights.keys import Slice, decoder_slices, same_name_slices
from chexmix_cli.core.weights.registry import EMBEDDED, RELEASED_ENTRY, Entry, registry
from chexmix_cli.core.weights.released import read_config, read_vqgan_config
from chexmix_cli.core.weights.safetensors_io import SafetensorsSource, TensorSource, check_keys, load_module
from chexmix_cli.core.weights.vqgan_checkpoint import VqganCheckpoint

if TYPE_CHECKING:
    import torch

    from chexmix_cli.core.models.decoder import Decoder
    from chexmix_cli.core.models.vqgan import Vqgan
    from chexmix_cli.core.text.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class Detected:
    """What a directory says of itself.

    Attributes:
        settings: the model.
        sources: the files (or the preset) each part of the settings came from.
        provenance: free form, from our header.
    """

    settings: ModelSettings
    sources: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)


class WeightsDir:
    """One model on disk; made by :func:`open_weights`. Settings are read at once, tensors only when asked for."""

    def __init__(self, path: Path, entry: Entry | None = None) -> None:
        self.path = path
        self._headers = {
            name: read_header(path / name) for name in (files.MODEL_FILE, files.VQGAN_FILE) if (path / name).is_file()
        }
        detected = _detect(path, self._headers, entry)
        self.settings, self.sources, self.provenance = detected.settings, detected.sources, detected.provenance
        self.entry = entry if entry is not None else registry().get(str(self.provenance.get("entry")))

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.settings.name

    @property
    def decoder_file(self) -> Path | None:
        """Return the decoder's file, or None if there is none."""
        return self._existing(files.MODEL_FILE)

    @property
    def vqgan_file(self) -> Path | None:
        """Return the image tokenizer's file, safetensors before the pickled checkpoint, or None."""
        return self._existing(files.VQGAN_FILE) or self._existing(files.VQGAN_CHECKPOINT)

    @property
    def tokenizer_file(self) -> Path | None:
        """Return ``tokenizer.json``, or ``vocab.json`` of the three-file layout, or None."""
        found = files.tokenizer_files(self.path)
        return found[0] if found else None

    @property
    def has_decoder(self) -> bool:
        """Return whether the directory holds a decoder."""
        return self.decoder_file is not None

    @property
    def has_vqgan(self) -> bool:
        """Return whether the directory holds an image tokenizer."""
        return self.vqgan_file is not None

    @cached_property
    def fingerprint(self) -> str:
        """Return the sha256 over the digests of the weight files and the settings, without the model's name."""
        settings = {key: value for key, value in to_dict(self.settings).items() if key != "name"}
        digests = [file_sha256(path) for path in (self.decoder_file, self.vqgan_file) if path is not None]
        return hashlib.sha256(json.dumps([settings, digests], sort_keys=True).encode()).hexdigest()

    def load_decoder(self, device: torch.device | str, dtype: torch.dtype) -> Decoder:
        """Return the decoder in eval mode.

        Raises:
            WeightsError: if the directory has none, or its keys do not fit the settings.
        """
        from chexmix_cli.core.models.decoder import Decoder

        settings = self.settings.decoder
        return load_module(
            lambda: Decoder(settings),
            lambda _: decoder_slices(settings),
            self.decoder_source(),
            device=device,
            dtype=dtype,
        )

    def load_vqgan(self, device: torch.device | str, dtype: torch.dtype) -> Vqgan:
        """Return the image tokenizer in eval mode; errors as :meth:`load_decoder`."""
        from chexmix_cli.core.models.vqgan import Vqgan

        settings = self.settings.vqgan
        return load_module(lambda: Vqgan(settings), same_name_slices, self.vqgan_source(), device=device, dtype=dtype)

    def load_text_tokenizer(self) -> TextTokenizer | None:
        """Return the text tokenizer, or None if the directory has none."""
        from chexmix_cli.core.text.tokenizer import TextTokenizer

        return TextTokenizer.load(self.path, self.settings.vocabulary)

    def decoder_source(self) -> TensorSource:
        """Return the decoder's tensors; WeightsError if there are none."""
        path = self.decoder_file
        if path is None:
            raise WeightsError(f"has no decoder ({files.MODEL_FILE})", where=str(self.path))
        return SafetensorsSource(path, self._headers[files.MODEL_FILE])

    def vqgan_source(self) -> TensorSource:
        """Return the image tokenizer's tensors; WeightsError if there are none."""
        path = self.vqgan_file
        if path is None:
            raise WeightsError(
                f"has no image tokenizer ({files.VQGAN_FILE} or {files.VQGAN_CHECKPOINT})", where=str(self.path)
            )
        if path.name == files.VQGAN_CHECKPOINT:
            return VqganCheckpoint(path)
        return SafetensorsSource(path, self._headers[files.VQGAN_FILE])

    def _existing(self, name: str) -> Path | None:
        path = self.path / name
        return path if path.is_file() else None


def open_weights(name_or_dir: str | Path | None) -> WeightsDir:
    """Return the weights of a model of ``weights.toml``, a weights directory, or a training run's folder.

    Args:
        name_or_dir: None is the embedded model. A string that is an entry's name means that entry; write ``./name``
            for a folder of the same name. A folder with ``model/`` in it, and no weights of its own, is a run.

    Raises:
        WeightsError: if there is no such thing, or its settings cannot be told.
    """
    name_or_dir = EMBEDDED if name_or_dir is None else name_or_dir
    entries = registry()
    if isinstance(name_or_dir, str) and name_or_dir in entries:
        entry = entries[name_or_dir]
        if not entry.directory.is_dir():
            hint = (
                f"chexmix weights fetch {entry.name} --accept-licence"
                if entry.source == "hub"
                else "install chexmix again"
            )
            raise WeightsError(f"the weights {entry.name!r} are not here", where=str(entry.directory), hint=hint)
        return WeightsDir(entry.directory, entry)
    path = Path(name_or_dir).expanduser()
    if not path.is_dir():
        problem = "is a file" if path.exists() else "no such weights"
        raise WeightsError(
            problem, where=str(name_or_dir), expected=f"a weights directory, a run, or one of {', '.join(entries)}"
        )
    if not _holds_weights(path) and _holds_weights(path / files.RUN_MODEL):
        path = path / files.RUN_MODEL
    owner = [entry for entry in entries.values() if entry.directory.is_dir() and entry.directory.samefile(path)]
    return WeightsDir(path, owner[0] if owner else None)


def _holds_weights(path: Path) -> bool:
    names = (files.MODEL_FILE, files.VQGAN_FILE, files.VQGAN_CHECKPOINT)
    return any((path / name).is_file() for name in names)


def _detect(path: Path, headers: Mapping[str, Header], entry: Entry | None) -> Detected:
    if not _holds_weights(path):
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
    return Detected(settings, tuple(f"header of {name}" for name in described), described[first].provenance)


def _differing(one: ModelSettings, other: ModelSettings) -> list[str]:
    mine, theirs = to_dict(one), to_dict(other)
    return [
        f"{section}.{key}"
        for section in ("vocabulary", "image", "vqgan", "decoder")
        for key in mine[section]
        if mine[section][key] != theirs[section][key]
    ]


def _detect_released(path: Path, headers: Mapping[str, Header], entry: Entry | None) -> Detected:
    """Return the settings of a directory without our header: the released vocabulary, sizes from its files.

    The released hub repository need not hold ``config.json`` and ``vqgan.yaml``. Its published sizes stand in for
    them, and for nothing else: tensors of any other shape are refused, here and when they are loaded.
    """
    released = registry()[RELEASED_ENTRY].settings() if entry is None else entry.settings()
    decoder, decoder_from = released.decoder, f"preset of {RELEASED_ENTRY}"
    vqgan, resolution, vqgan_from = released.vqgan, released.image.resolution_px, decoder_from
    if (path / files.CONFIG_FILE).is_file():
        decoder, decoder_from = read_config(path / files.CONFIG_FILE), files.CONFIG_FILE
        _require_released_vocabulary(
            path / files.CONFIG_FILE, "vocab_size", decoder.num_rows, released.decoder.num_rows
        )
    elif files.MODEL_FILE in headers:
        _require_fit(
            path / files.MODEL_FILE, decoder_slices(decoder), SafetensorsSource(path, headers[files.MODEL_FILE])
        )
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
    return Detected(settings, (f"decoder: {decoder_from}", f"vqgan: {vqgan_from}", "vocabulary: released"))


def _require_released_vocabulary(path: Path, key: str, found: int, released: int) -> None:
    if found != released:
        raise WeightsError(
            f"{key} is {found}, a vocabulary that is not known",
            where=str(path),
            expected=f"{released} (the released model's), or files that describe themselves",
            hint="weights written by chexmix carry their vocabulary in the header; use those files as they were",
        )


def _require_fit(path: Path, slices: list[Slice], source: TensorSource) -> None:
    problems = check_keys(slices, source)
    if problems:
        raise WeightsError(
            f"no {files.CONFIG_FILE} beside it, and not the released model's tensors: {'; '.join(problems)}",
            where=str(path),
            expected=f"{files.CONFIG_FILE}, or a file that describes itself",
        )
