"""Low-rank adapters on the fused decoder (LoRA): frozen matrices, each with a small trained update added to it.

Shape letters: R rank, D hidden, F feed-forward, I inputs and O outputs of one matrix, X all columns of a fused product.

A target is named as checkpoints name it (``q``, ``k``, ``v``, ``fc1``, ``dense``, ``fc2``) and is a slice of a fused
matrix: rows of ``input_proj`` = [q; k; v; fc1] or columns of ``output_proj`` = [dense | fc2]
(core/weights/formats/keys.py). Its product becomes ``W x + alpha / rank * B A x`` with A random and B zero at the
start, so that training begins at the frozen model. Merging writes that sum into W; the result is a plain decoder.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", sections 4.1 and 4.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.models.decoder import Block, Decoder
from chexmix_cli.core.models.meta import on_meta_device
from chexmix_cli.core.settings.finetuning import LoraSettings
from chexmix_cli.core.settings.model import DecoderSettings


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target's matrix lies in a fused one.

    Attributes:
        is_input: rows of ``input_proj``; else columns of ``output_proj``.
        start: first row or column.
        num_in, num_out: I and O of the matrix.
    """

    is_input: bool
    start: int
    num_in: int
    num_out: int

    def of(self, fused: Tensor) -> Tensor:
        """Return the view of a fused matrix that is this target's, (O, I)."""
        dim, size = (0, self.num_out) if self.is_input else (1, self.num_in)
        return fused.narrow(dim, self.start, size)


def places(settings: DecoderSettings) -> dict[str, Place]:
    """Return where every target lies in a block of this shape."""
    hidden, mlp = settings.hidden_size, settings.mlp_size
    return {
        "q": Place(True, 0, hidden, hidden),
        "k": Place(True, hidden, hidden, hidden),
        "v": Place(True, 2 * hidden, hidden, hidden),
        "fc1": Place(True, 3 * hidden, hidden, mlp),
        "dense": Place(False, 0, hidden, hidden),
        "fc2": Place(False, hidden, mlp, hidden),
    }


class LowRank(nn.Module):
    """The update of one target: ``scale * B A dropout(x)``."""

    def __init__(self, place: Place, settings: LoraSettings) -> None:
        super().__init__()
        self.place, self.scale = place, settings.alpha / settings.rank
        self.a_RI = nn.Parameter(torch.zeros(settings.rank, place.num_in))
        self.b_OR = nn.Parameter(torch.zeros(place.num_out, settings.rank))
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x_BTI: Tensor) -> Tensor:
        """Return the update (B, T, O) of inputs (B, T, I)."""
        return F.linear(F.linear(self.dropout(x_BTI), self.a_RI), self.b_OR) * self.scale

    @torch.no_grad()
    def delta(self) -> Tensor:
        """Return the update as one matrix, (O, I)."""
        return self.scale * (self.b_OR @ self.a_RI)


class InputAdapter(nn.Module):
    """Updates of row slices of ``input_proj``."""

    def __init__(self, updates: dict[str, LowRank]) -> None:
        super().__init__()
        self.updates = nn.ModuleDict(updates)

    def forward(self, x_BTD: Tensor, y_BTX: Tensor) -> Tensor:
        """Return the fused product with each target's update added to its columns."""
        parts: list[Tensor] = []
        end = 0
        for update in low_ranks(self):
            start, stop = update.place.start, update.place.start + update.place.num_out
            parts += [y_BTX[..., end:start], y_BTX[..., start:stop] + update(x_BTD)]
            end = stop
        return torch.cat([*parts, y_BTX[..., end:]], dim=-1)


class OutputAdapter(nn.Module):
    """Updates of column slices of ``output_proj``."""

    def __init__(self, updates: dict[str, LowRank]) -> None:
        super().__init__()
        self.updates = nn.ModuleDict(updates)

    def forward(self, x_BTX: Tensor, y_BTD: Tensor) -> Tensor:
        """Return the product with each target's update added."""
        for update in low_ranks(self):
            y_BTD = y_BTD + update(x_BTX.narrow(-1, update.place.start, update.place.num_in))
        return y_BTD


def low_ranks(adapter: nn.Module) -> list[LowRank]:
    """Return the updates of an adapter in the order of their slices."""
    found = [module for module in adapter.modules() if isinstance(module, LowRank)]
    return sorted(found, key=lambda update: update.place.start)


def check_rank(settings: LoraSettings, shape: DecoderSettings) -> None:
    """Raise SettingsError unless the rank is below both sides of every target's matrix."""
    for name, place in places(shape).items():
        side = min(place.num_in, place.num_out)
        if name in settings.targets and settings.rank >= side:
            raise SettingsError(
                f"is {settings.rank}",
                where="lora.rank",
                expected=f"below {side}, the width of {name}: a higher rank saves nothing",
            )


def add_adapters(decoder: Decoder, settings: LoraSettings, generator: Generator, *, num_blocks: int) -> None:
    """Freeze the decoder and put adapters into its first ``num_blocks`` blocks; the only parameters that train.

    Args:
        decoder: changed in place; its own parameters keep their values.
        settings: rank, alpha, dropout and targets.
        generator: draws A, uniform within 1 / sqrt(I) as torch's linear layers start; B is zero.
        num_blocks: blocks after these are left alone.

    Raises:
        SettingsError: as :func:`check_rank`.
    """
    check_rank(settings, decoder.settings)
    decoder.requires_grad_(False)
    for block in list(decoder.blocks)[:num_blocks]:
        assert isinstance(block, Block)
        chosen = {name: place for name, place in places(decoder.settings).items() if name in settings.targets}
        updates = {name: LowRank(place, settings) for name, place in chosen.items()}
        for update in updates.values():
            bound = 1 / math.sqrt(update.place.num_in)
            with torch.no_grad():
                update.a_RI.uniform_(-bound, bound, generator=generator)
        inputs = {name: update for name, update in updates.items() if update.place.is_input}
        outputs = {name: update for name, update in updates.items() if not update.place.is_input}
        block.input_adapter = InputAdapter(inputs) if inputs else None
        block.output_adapter = OutputAdapter(outputs) if outputs else None
    # New modules take on the decoder's mode and device.
    decoder.train(decoder.training).to(decoder.embedding.weight.device)


@torch.no_grad()
def merged(decoder: Decoder) -> Decoder:
    """Return a plain decoder with every adapter's update inside its matrices, in eval mode.

    The decoder that is given is not changed; matrices without an update are shared with it, not copied.
    """
    state = {name: value for name, value in decoder.state_dict().items() if "_adapter." not in name}
    for layer, block in enumerate(decoder.blocks):
        assert isinstance(block, Block)
        for name, adapter in (("input_proj", block.input_adapter), ("output_proj", block.output_adapter)):
            if adapter is None:
                continue
            key = f"blocks.{layer}.{name}.weight"
            state[key] = state[key].clone()
            for update in low_ranks(adapter):
                # Under FSDP the updates were gathered on the CPU, the frozen matrices are where they were.
                update.place.of(state[key]).add_(update.delta().to(state[key].device))
    with on_meta_device():
        plain = Decoder(decoder.settings)
    plain.load_state_dict(state, assign=True)
    return plain.eval()


def adapter_tensors(decoder: Decoder) -> dict[str, Tensor]:
    """Return every A and B under the keys that the ``peft`` package gives them on a ``PhiForCausalLM``."""
    paths = {"fc1": "mlp.fc1", "fc2": "mlp.fc2", "dense": "self_attn.dense"}
    tensors: dict[str, Tensor] = {}
    for layer, block in enumerate(decoder.blocks):
        assert isinstance(block, Block)
        for adapter in (block.input_adapter, block.output_adapter):
            for name, update in [] if adapter is None else adapter.get_submodule("updates").named_children():
                assert isinstance(update, LowRank)
                path = paths.get(name, f"self_attn.{name}_proj")
                key = f"base_model.model.model.layers.{layer}.{path}"
                tensors[f"{key}.lora_A.weight"] = update.a_RI.detach()
                tensors[f"{key}.lora_B.weight"] = update.b_OR.detach()
    return tensors
