"""How quantised weights lie in memory, for the compiled kernels on a CPU and on a card alike: in panels of 16 outputs.

A panel holds, group of 32 inputs by group, what 16 outputs have there, without a gap: so the numbers that are used
together are read together, in the order in which they lie. Within a group, whose halves have 16 inputs each, a byte's
place is (half, four of its inputs, output, input); numbers are stored above 0, by adding 128 or 8. Of 4 bits a byte
holds an input of the first half in its low bits, and that of the second half in its high bits.

Shape letters: O outputs, I inputs, P panels of 16 outputs, G groups of 32 inputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.kernels.quantized.reference import GROUP

#: Outputs whose weights lie beside each other.
PANEL = 16
#: Numbers laid out at a time.
_PIECE = 1 << 22


class Panels(NamedTuple):
    """Quantised weights as the kernels read them.

    Attributes:
        weight: uint8, (P, G, 512) of 8 bits or (P, G, 256) of 4.
        scale: float32 (P, 16) of 8 bits, bfloat16 (P, G, 16) of 4.
        num_out, num_in: O and I.
    """

    weight: Tensor
    scale: Tensor
    num_out: int
    num_in: int

    @property
    def bits(self) -> int:
        return 8 if self.scale.dim() == 2 else 4

    @property
    def is_whole(self) -> bool:
        """Return whether weights and scales have the shapes of so many outputs and inputs, without gaps in memory."""
        has_shapes = (self.weight.shape, self.scale.shape) == panel_shapes(self.bits, self.num_out, self.num_in)
        return has_shapes and self.weight.is_contiguous() and self.scale.is_contiguous()

    def part(self, first: int, last: int) -> Panels:
        """Return panels ``first`` to ``last`` alone."""
        num_out = min(self.num_out, last * PANEL) - first * PANEL
        return Panels(self.weight[first:last], self.scale[first:last], num_out, self.num_in)


def panel_shapes(bits: int, num_out: int, num_in: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of weights and scales of so many outputs and inputs."""
    num_panels, num_groups = -(-num_out // PANEL), -(-num_in // GROUP)
    weight_shape = (num_panels, num_groups, PANEL * GROUP * bits // 8)
    return weight_shape, (num_panels, PANEL) if bits == 8 else (num_panels, num_groups, PANEL)


def to_panels(steps_OI: Tensor, scale: Tensor) -> Panels:
    """Return quantised weights in panels, filled up with zeros; arguments as ``reference.product``."""
    num_out, num_in = steps_OI.shape
    bits, more_out = (8 if scale.dim() == 1 else 4), -num_out % PANEL
    # In pieces of panels, so that the second matrix of a head is not there in full.
    steps = F.pad(steps_OI, (0, -num_in % GROUP, 0, more_out)) if more_out or num_in % GROUP else steps_OI
    num_panels, num_groups = len(steps) // PANEL, steps.shape[1] // GROUP
    weight = torch.empty(num_panels, num_groups, PANEL * GROUP * bits // 8, dtype=torch.uint8)
    size = max(1, _PIECE // (PANEL * steps.shape[1]))
    for start in range(0, num_panels, size):
        part = steps[start * PANEL : (start + size) * PANEL]
        count = len(part) // PANEL
        # panel, output, group, half of the group, four inputs, input
        unsigned = (part.view(torch.uint8) + (1 << bits - 1)).view(count, PANEL, num_groups, 2, 4, 4)
        if bits == 8:
            laid = unsigned.permute(0, 2, 3, 4, 1, 5)
        else:
            laid = (unsigned[:, :, :, 0] | (unsigned[:, :, :, 1] << 4)).permute(0, 2, 3, 1, 4)
        weight[start : start + count].copy_(laid.reshape(count, num_groups, -1))
    if bits == 8:
        return Panels(weight, F.pad(scale, (0, more_out)).view(num_panels, PANEL), num_out, num_in)
    by_panel = F.pad(scale, (0, 0, 0, more_out)).view(num_panels, PANEL, num_groups).transpose(1, 2)
    return Panels(weight, by_panel.contiguous(), num_out, num_in)


def restored(panels: Panels, dtype: torch.dtype) -> Tensor:
    """Return the numbers (O, I) that weights in panels stand for, on their device: times the scale in float32, rounded.

    What :func:`to_panels` made of whole numbers and scales gives what ``reference.restore`` gives of them.
    """
    bits, (num_panels, num_groups) = panels.bits, panels.weight.shape[:2]
    if bits == 8:
        unsigned = panels.weight.view(num_panels, num_groups, 2, 4, PANEL, 4)
    else:
        packed = panels.weight.view(num_panels, num_groups, 1, 4, PANEL, 4)
        unsigned = torch.cat((packed & 15, packed >> 4), dim=2)
    number = unsigned.permute(0, 4, 1, 2, 3, 5).reshape(num_panels, PANEL, num_groups, GROUP).float()
    number -= 1 << bits - 1
    # (P, 16, 1 or G, 1)
    number *= (panels.scale[..., None] if bits == 8 else panels.scale.transpose(1, 2).float())[..., None]
    return number.view(num_panels * PANEL, -1)[: panels.num_out, : panels.num_in].to(dtype)
