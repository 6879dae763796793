"""What the processes of a run send each other, counted from shapes: as FSDP2 and DDP do under ``train/parallel.py``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

_FLOAT_BYTES = 4
#: DDP sums gradients in buckets of so many bytes (torch's default).
_BUCKET_BYTES = 25 << 20


@dataclass(frozen=True, slots=True)
class Parameters:
    """Trained parameters, by what is gathered together.

    Attributes:
        layers: blocks; each is gathered by itself, and each norm in one too.
        blocks: of all blocks, without their norms.
        norms: of the blocks' norms.
        rest: embedding, head and last norm, or all where there are no blocks: gathered once.
    """

    layers: int
    blocks: int
    norms: int
    rest: int

    @property
    def total(self) -> int:
        """Return all of them."""
        return self.blocks + self.norms + self.rest


@dataclass(frozen=True, slots=True)
class Travel:
    """Collectives that run beside the same operations: bytes of the whole tensors, and how many there are."""

    num_bytes: int = 0
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is gathered and reduced, by when.

    Attributes:
        first: gathered before a micro-batch's first operation.
        forward: gathered while one passes forwards.
        again, reduced: gathered again, and reduced, while it passes backwards.
        last: reduced after the last operation of a micro-batch; the next one's run beside that.
        step: summed once a step, while its last micro-batch passes backwards: every byte travels twice.
    """

    first: Travel = Travel()
    forward: Travel = Travel()
    again: Travel = Travel()
    reduced: Travel = Travel()
    last: Travel = Travel()
    step: Travel = Travel()


def parameters_of(module: nn.Module, blocks: nn.ModuleList | None = None) -> Parameters:
    """Return the trained parameters of a module, with blocks or without."""
    total = _count(module)
    if blocks is None:
        return Parameters(0, 0, 0, total)
    inside = sum(map(_count, blocks))
    parts = [part for block in blocks for part in block.modules()]
    norms = sum(_count(part) for part in parts if isinstance(part, (nn.LayerNorm, nn.GroupNorm)))
    return Parameters(len(blocks), inside - norms, norms, total - inside)


def sharded(parameters: Parameters, precision: str) -> Exchange:
    """Return what FSDP2 sends in each micro-batch: blocks are gathered twice, in the precision they are used in.

    Norms and the rest are gathered once, in float32, and every gradient is reduced in float32.
    """
    size = 2 if precision == "bfloat16" else _FLOAT_BYTES
    blocks, norms, layers = parameters.blocks, parameters.norms, parameters.layers
    return Exchange(
        first=Travel(_FLOAT_BYTES * parameters.rest, 1),
        forward=Travel(size * blocks + _FLOAT_BYTES * norms, 2 * layers),
        again=Travel(size * blocks, layers),
        reduced=Travel(_FLOAT_BYTES * (blocks + norms), 2 * layers),
        last=Travel(_FLOAT_BYTES * parameters.rest, 1),
    )


def replicated(parameters: Parameters) -> Exchange:
    """Return what DDP sends in each step: every gradient is summed."""
    size = _FLOAT_BYTES * parameters.total
    return Exchange(step=Travel(size, -(-size // _BUCKET_BYTES)))


def shard_traffic(parameters: Parameters, precision: str, cards: int) -> float:
    """Return the bytes of memory that FSDP2 reads and writes for the blocks in a micro-batch, besides their products.

    A gather reads a float32 share, writes it cast, writes all shares and copies them to where they are used; gradients
    are copied into float32, read to be reduced, and added to those of the micro-batches before.
    """
    size = 2 if precision == "bfloat16" else _FLOAT_BYTES
    gather = (_FLOAT_BYTES + 2 * size) / cards + size + 2 * size
    reduce = size + _FLOAT_BYTES + _FLOAT_BYTES + 4 * _FLOAT_BYTES / cards
    return parameters.blocks * (2 * gather + reduce)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
