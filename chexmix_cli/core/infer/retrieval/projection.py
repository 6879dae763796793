"""The contrastive head: projections of mean-pooled image and report states into one space, made by fine-tuning.

``retrieval.safetensors`` in a weights directory, written by ``chexmix finetune --task retrieve``. Its tensors are
those of :class:`Projection`; the header key ``chexmix-retrieval`` holds JSON: ``schema``, ``layer``, ``size``,
``model`` (fingerprint of the weights whose states it reads) and ``provenance``.

What is projected (both means in float32):

- an image: the mean over the image positions of ``I_s image I_E``, as ``infer/embeddings.py`` gives it for ``layer``;
- a report: the mean over its own tokens, ``T_s`` not among them, of ``T_s report``, at the same layer.

Both have length 1: their dot product is the cosine to rank by. Shape letters: B rows, D hidden, E projected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.settings.model import DecoderSettings
from chexmix_cli.core.weights.files import RETRIEVAL_FILE
from chexmix_cli.core.weights.fingerprint import require_made_for
from chexmix_cli.core.weights.formats.header import RETRIEVAL_KEY, read_header
from chexmix_cli.core.weights.formats.keys import same_name_slices
from chexmix_cli.core.weights.formats.safetensors_io import (
    ModuleSource,
    SafetensorsSource,
    load_module,
    write_safetensors,
)

_SCHEMA = 1
#: Cosines are divided by no less than this in training (Radford et al. 2021 bound it so).
_LOWEST_TEMPERATURE = 0.01


class Tower(nn.Module):
    """One side: standardised, projected, of length 1."""

    def __init__(self, hidden_size: int, size: int) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(hidden_size))
        self.register_buffer("scale_D", torch.ones(hidden_size))
        self.projection = nn.Linear(hidden_size, size, bias=False)
        self.mean_D: Tensor
        self.scale_D: Tensor

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """Return the projections (B, E) of pooled states (B, D); in float32, whatever autocast says."""
        with torch.autocast(pooled_BD.device.type, enabled=False):
            return F.normalize(self.projection((pooled_BD - self.mean_D) / self.scale_D), dim=-1)


class Projection(nn.Module):
    """Both towers and the temperature.

    Args:
        layer: whose states are pooled.
        hidden_size: D of the decoder.
        size: E.

    Attributes:
        model: fingerprint of the weights whose states are projected.
        image, text: the towers.
        log_temperature: natural logarithm of what cosines are divided by in the loss.
    """

    model = ""

    def __init__(self, *, layer: int, hidden_size: int, size: int) -> None:
        super().__init__()
        self.layer, self.hidden_size, self.size = layer, hidden_size, size
        self.image, self.text = Tower(hidden_size, size), Tower(hidden_size, size)
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def temperature(self) -> Tensor:
        """Return the temperature, a scalar with its gradient, not below the lowest one."""
        return self.log_temperature.clamp_min(math.log(_LOWEST_TEMPERATURE)).exp()

    def require_model(self, fingerprint: str, where: str) -> None:
        """Refuse weights whose states it does not project with WeightsError."""
        hint = "make projections: chexmix finetune --task retrieve"
        require_made_for(self.model, fingerprint, what="one", where=where, hint=hint)

    def save(self, directory: Path, provenance: Mapping[str, Any]) -> None:
        """Write ``retrieval.safetensors`` into a weights directory, atomically."""
        numbers = {"schema": _SCHEMA, "layer": self.layer, "size": self.size}
        header = {**numbers, "model": self.model, "provenance": dict(provenance)}
        source = ModuleSource(self, same_name_slices(self))
        write_safetensors(directory / RETRIEVAL_FILE, source, metadata={RETRIEVAL_KEY: json.dumps(header)})

    @classmethod
    def load(cls, directory: Path, decoder: DecoderSettings, device: torch.device | str = "cpu") -> Self | None:
        """Return the projections of a weights directory in eval mode and float32, or None if it has none.

        Args:
            directory: ``WeightsDir.path``.
            decoder: the shape of the directory's decoder.
            device: where the result is.

        Raises:
            WeightsError: if the file is damaged, no such file, of a newer schema or of another decoder.
        """
        path = directory / RETRIEVAL_FILE
        if not path.is_file():
            return None
        header = read_header(path)
        try:
            values = json.loads(header.metadata[RETRIEVAL_KEY])
            schema, layer, size = (values[name] for name in ("schema", "layer", "size"))
            if not isinstance(model := values["model"], str):
                raise TypeError(f"model {model!r}")
            if not all(type(value) is int for value in (schema, layer, size)) or size < 1:
                raise ValueError(f"layer {layer!r}, size {size!r}")
            if header.shapes.get("image.projection.weight", (0,))[0] != size:
                raise ValueError(f"size {size} is not that of the tensors")
        except (KeyError, ValueError, TypeError, IndexError, RecursionError) as error:
            raise WeightsError(f"header key {RETRIEVAL_KEY!r} cannot be read ({error!r})", where=str(path)) from None
        if schema != _SCHEMA:
            raise WeightsError(f"schema {schema}", where=str(path), expected=str(_SCHEMA), hint="use a newer chexmix")
        if not 0 <= layer <= decoder.num_layers:
            raise WeightsError(
                f"reads layer {layer}", where=str(path), expected=f"0..{decoder.num_layers}, the decoder's layers"
            )
        found = load_module(
            lambda: cls(layer=layer, hidden_size=decoder.hidden_size, size=size),
            same_name_slices,
            SafetensorsSource(path, header),
            device=device,
            dtype=torch.float32,
        )
        found.model = model
        return found
