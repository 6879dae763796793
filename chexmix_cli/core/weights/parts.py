"""What is written of a model: its networks, each held against the settings first, and what travels along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from chexmix_cli import __version__
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.weights import files
from chexmix_cli.core.weights.directory import WeightsDir
from chexmix_cli.core.weights.fingerprint import file_sha256
from chexmix_cli.core.weights.formats.header import DESCRIPTION_KEY, Description
from chexmix_cli.core.weights.formats.keys import decoder_slices
from chexmix_cli.core.weights.formats.safetensors_io import (
    TensorSource,
    dtype_codes,
    require_fit,
    require_representable,
)
from chexmix_cli.core.weights.formats.sharded import network_files, plan_files, require_free
from chexmix_cli.core.weights.saving import copy_file

if TYPE_CHECKING:
    import torch

#: Terms and descriptions that travel along with the weights, as they are.
COMPANIONS = ("LICENSE", "LICENSE.md", "NOTICE", "MODEL_CARD.md")


@dataclass(frozen=True, slots=True)
class Parts:
    """The tensors to be written, by part.

    Attributes:
        provenance: how they came to be.
        decoder, vqgan: that fit the settings.
        tokenizer: a text tokenizer that comes with them in one file, as a ``tokenizer.json``.
    """

    settings: ModelSettings
    provenance: Mapping[str, Any]
    decoder: TensorSource | None
    vqgan: TensorSource | None
    tokenizer: str | None = None

    @classmethod
    def of(cls, weights: WeightsDir, decoder: TensorSource | None, vqgan: TensorSource | None) -> Self:
        """Return parts of a weights directory; WeightsError if one does not fit its settings."""
        if decoder is not None:
            require_fit(decoder_slices(weights.settings.decoder), decoder)
        if vqgan is not None:
            require_fit(weights.vqgan_slices(), vqgan)
        entry = {} if weights.entry is None else {"entry": weights.entry.name}
        return cls(weights.settings, {**weights.provenance, **entry}, decoder, vqgan)

    def plan(self, out: Path, dtype: torch.dtype | None, max_bytes: int | None) -> dict[str, dict[str, list[str]]]:
        """Return the files of each network (:func:`plan_files`), by its name.

        Raises:
            WeightsError: before anything is written, if ``out`` or ``dtype`` cannot take every part.
        """
        plans = {}
        for name, part in ((files.MODEL_FILE, self.decoder), (files.VQGAN_FILE, self.vqgan)):
            if part is not None:
                plans[name] = plan_files(name, part, dtype=dtype, max_bytes=max_bytes)
                require_free(out, name, part, plans[name])
                require_representable(part, dtype)
        return plans

    def metadata(self) -> dict[str, str]:
        """Return the header entries: the model, and which files it was made from."""
        networks = [Path(part.where) for part in (self.decoder, self.vqgan) if part is not None]
        sources = [path for network in networks for path in network_files(network)]
        provenance = {
            **self.provenance,
            "converted_from": {path.name: file_sha256(path) for path in sources},
            "converted_by": f"chexmix {__version__}",
        }
        return {DESCRIPTION_KEY: Description(self.settings, provenance).to_json()}


def dtype_name(source: TensorSource, dtype: torch.dtype | None) -> str:
    """Return torch's name of the dtype most of a source's tensors are written in."""
    names = {code: str(known).removeprefix("torch.") for known, code in dtype_codes().items()}
    codes = list(source.dtypes.values())
    return names[max(sorted(set(codes)), key=codes.count)] if dtype is None else str(dtype).removeprefix("torch.")


def existing(directory: Path, names: Sequence[str]) -> list[Path]:
    """Return those of some files that are in a directory."""
    return [directory / name for name in names if (directory / name).is_file()]


def copy_files(sources: Sequence[Path], out: Path) -> list[Path]:
    """Copy files into a folder, each whole or not at all; return the copies."""
    for path in sources:
        copy_file(path, out / path.name)
    return [out / path.name for path in sources]
