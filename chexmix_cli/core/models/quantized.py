"""Linear layers of 8-bit and 4-bit weights, for inference; called as :class:`Linear`.

On a CUDA device activations stay in their dtype (``core/kernels/quantized/op.py``). On a CPU, where the compiled
kernels run, they compute every product: activations in 8 bits, and bits of the result that depend neither on the rows
beside nor on threads. Elsewhere torch's own operations do:

- 8 bits, up to eight rows: its weight-only product, activations in bfloat16. More rows: 8-bit activations, scaled row
  by row, where the CPU multiplies 8-bit numbers (AVX512-VNNI, AMX); else weights widened to float32.
- 4 bits: its weight-only product, activations in bfloat16; as fast as a compiled one in 8 bits for one row, slower than
  float32 for a prompt.

How weights lie in memory depends on which it is, so it is decided when a layer is made: a CUDA device and compiled
kernels have the same panels, and the same file on disk. The numbers are the same everywhere.

Shape letters: R rows, I inputs, O outputs, G groups of 32 inputs.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chexmix_cli.core.kernels.backend import uses_triton
from chexmix_cli.core.kernels.quantized import native, op, reference
from chexmix_cli.core.kernels.quantized.panels import Panels, panel_shapes, to_panels
from chexmix_cli.core.models.linear import FEW_ROWS, Linear, finished, widened
from chexmix_cli.core.runtime import has_cpu_int8
from chexmix_cli.core.settings.inference import Quantize

#: torch's weight-only product of 8 bits reads beyond rows whose length is not a multiple of its vectors (16 numbers
#: with AVX512).
_VECTOR = 32
#: Outputs that torch's weight-only product of 4 bits takes at a time.
_BLOCK = 64
#: Bits of each linear layer. The head stays at 8: it is a twentieth of the weights, and costs a third of the agreement
#: (docs/performance.md).
_BITS: dict[Quantize, dict[str, int]] = {
    "int8": {"input_proj": 8, "output_proj": 8, "head": 8},
    "int4": {"input_proj": 4, "output_proj": 4, "head": 8},
}


class QuantizedLinear(nn.Module):
    """A linear layer whose weights are whole numbers with scales.

    Args:
        like: gives shape and bias; its weights are not taken (see :func:`quantized_state`).
    """

    bits: ClassVar[int]
    weight: Tensor
    scale: Tensor

    def __init__(self, like: Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = like.in_features, like.out_features
        # Without memory, but of the shapes of what will be held: torch compares them when a state is loaded.
        for name, value in zip(("weight", "scale"), self._empty(like.out_features, like.in_features), strict=True):
            self.register_buffer(name, value)
        self.bias = like.bias

    def forward(self, x: Tensor, bias_O: Tensor | None = None, rows: slice | None = None) -> Tensor:
        """Return ``x W^T + b``; arguments as :meth:`Linear.forward`."""
        bias_O = self.bias if bias_O is None else bias_O
        if rows is not None and bias_O is not None:
            bias_O = bias_O[rows]
        return self._product(x, bias_O, rows)

    @classmethod
    def _empty(cls, num_out: int, num_in: int) -> tuple[Tensor, Tensor]:
        with torch.device("meta"):
            steps_OI, scale_O = torch.empty(num_out, num_in, dtype=torch.int8), torch.empty(num_out)
            if cls.bits == 8:
                return cls.hold(steps_OI, scale_O)
            return cls.hold(steps_OI, torch.empty(num_out, -(-num_in // reference.GROUP), dtype=torch.bfloat16))

    @classmethod
    @abstractmethod
    def hold(cls, steps_OI: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return what ``weight`` and ``scale`` hold of quantised weights, as ``reference`` has them."""

    @abstractmethod
    def _product(self, x: Tensor, bias_O: Tensor | None, rows: slice | None) -> Tensor: ...


class _InPanels(QuantizedLinear):
    """Of either number of bits, in panels."""

    @classmethod
    def _empty(cls, num_out: int, num_in: int) -> tuple[Tensor, Tensor]:
        # By their shapes: arithmetic on the meta device would load torch.compile.
        weight_shape, scale_shape = panel_shapes(cls.bits, num_out, num_in)
        scale_dtype = torch.float32 if cls.bits == 8 else torch.bfloat16
        with torch.device("meta"):
            return torch.empty(weight_shape, dtype=torch.uint8), torch.empty(scale_shape, dtype=scale_dtype)

    @classmethod
    def hold(cls, steps_OI: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        return to_panels(steps_OI, scale)[:2]

    @property
    def _panels(self) -> Panels:
        return Panels(self.weight, self.scale, self.out_features, self.in_features)


class _Native(_InPanels):
    """Multiplied by the compiled kernels of a CPU."""

    def _product(self, x: Tensor, bias_O: Tensor | None, rows: slice | None) -> Tensor:
        x_RI = x.reshape(-1, self.in_features).float().contiguous()
        bias_O = None if bias_O is None else bias_O.float()
        return native.product(x_RI, self._panels, bias_O, rows).to(x.dtype).view(*x.shape[:-1], -1)


class _Native8(_Native):
    bits = 8


class _Native4(_Native):
    bits = 4


class _Card(_InPanels):
    """Multiplied on a CUDA device."""

    def _product(self, x: Tensor, bias_O: Tensor | None, rows: slice | None) -> Tensor:
        return op.product(x.reshape(-1, self.in_features), self._panels, bias_O, rows).view(*x.shape[:-1], -1)


class _Card8(_Card):
    bits = 8


class _Card4(_Card):
    bits = 4


class _Torch8(QuantizedLinear):
    """Weights int8 (O, I), scales float32 (O,)."""

    bits = 8

    @classmethod
    def hold(cls, steps_OI: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        return steps_OI, scale

    def _product(self, x: Tensor, bias_O: Tensor | None, rows: slice | None) -> Tensor:
        rows = slice(None) if rows is None else rows
        return int8_product(x, self.weight[rows], self.scale[rows], bias_O)


class _Torch4(QuantizedLinear):
    """Weights packed by torch, of groups and blocks that are full; scales (G, O, 2) bfloat16 with a zero each."""

    bits = 4

    @classmethod
    def hold(cls, steps_OI: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        num_out, num_in = steps_OI.shape
        more_out, more_in = -num_out % _BLOCK, -num_in % reference.GROUP
        scale_GO = F.pad(scale, (0, 0, 0, more_out)).t()
        scale_GO2 = torch.stack((scale_GO, torch.zeros_like(scale_GO)), dim=2)
        if steps_OI.is_meta:
            packed = torch.empty(num_out + more_out, (num_in + more_in) // 2, dtype=torch.uint8, device="meta")
            return packed, scale_GO2
        unsigned_OI = (F.pad(steps_OI, (0, more_in, 0, more_out)) + 8).int()
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(unsigned_OI, 1), scale_GO2

    def _product(self, x: Tensor, bias_O: Tensor | None, rows: slice | None) -> Tensor:
        num_in = self.in_features
        x_RI = F.pad(x.reshape(-1, num_in).bfloat16(), (0, -num_in % reference.GROUP))
        y_RO = torch.ops.aten._weight_int4pack_mm_for_cpu(x_RI, self.weight, reference.GROUP, self.scale)
        return finished(y_RO[:, : self.out_features][:, slice(None) if rows is None else rows].float(), bias_O, x)


def layer_kind(bits: int, device: torch.device) -> type[QuantizedLinear]:
    """Return the class of a layer of 4 or 8 bits that is used on a device."""
    if device.type == "cuda":
        return _Card8 if bits == 8 else _Card4
    if native.uses_native():
        return _Native8 if bits == 8 else _Native4
    return _Torch8 if bits == 8 else _Torch4


def quantized_layer(like: Linear, name: str, quantize: Quantize, device: torch.device) -> QuantizedLinear:
    """Return the layer for a device, yet to be filled, that stands for one of the decoder's of this name."""
    return layer_kind(_BITS[quantize][name], device)(like)


def quantized_state(parameter: str, value: Tensor, quantize: Quantize, device: torch.device) -> dict[str, Tensor]:
    """Return what a decoder's parameter is in one of quantised linear layers: weights and scales, or itself.

    Args:
        parameter: its name.
        value: on the CPU, where what is returned lies, too.
        quantize: the bits.
        device: that the layers are for.
    """
    layer, _, kind = parameter.rpartition(".")
    bits = _BITS[quantize].get(layer.rpartition(".")[2])
    if kind != "weight" or bits is None:
        return {parameter: value}
    narrow = reference.quantize_8 if bits == 8 else reference.quantize_4
    weight, scale = layer_kind(bits, device).hold(*narrow(value, where=parameter))
    return {parameter: weight, f"{layer}.scale": scale}


def packing(quantize: Quantize, device: torch.device) -> dict[str, str | int]:
    """Return all that quantised weights for a device depend on besides the weights themselves, of plain values."""
    # How torch packs 4 bits follows from the CPU's instructions.
    layout = f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()}"
    if issubclass(layer_kind(8, device), _InPanels):
        layout = "panels"
    return {"layout": layout, **_BITS[quantize]}


def product_kind(device: torch.device) -> str:
    """Return what computes the products on a device: ``native``, ``triton`` or ``torch``."""
    if device.type == "cuda":
        return "triton" if uses_triton(device) else "torch"
    return "native" if native.uses_native() else "torch"


def int8_product(x: Tensor, weight_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return ``x (scale W)^T + b`` (..., O) in the dtype of ``x`` (..., I), by torch; weights int8, scales float32."""
    num_rows = x.numel() // x.shape[-1]
    x_RI = x.reshape(num_rows, -1)
    if num_rows <= FEW_ROWS and x_RI.shape[1] % _VECTOR == 0:
        # Scales of 1: this product takes them in bfloat16 only, and a rounded scale shifts its whole row.
        ones_O = torch.ones(len(scale_O), dtype=torch.bfloat16)
        y_RO = torch.ops.aten._weight_int8pack_mm(x_RI.bfloat16(), weight_OI, ones_O).float().mul_(scale_O)
    elif has_cpu_int8() and x_RI.shape[1] > 1:  # of one column torch's product makes nonsense (2.13, AVX512-VNNI)
        step_R1 = (x_RI.float().abs().amax(dim=1, keepdim=True) / 127).clamp_(min=torch.finfo(torch.float32).tiny)
        steps_RI = (x_RI / step_R1).round_().to(torch.int8)
        y_RO = torch._int_mm(steps_RI, weight_OI.t()).float().mul_(step_R1).mul_(scale_O)
    else:
        return widened(x, weight_OI, scale_O, bias_O)
    return finished(y_RO, bias_O, x)
