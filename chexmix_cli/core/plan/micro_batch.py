"""What one micro-batch asks of a card: operations from shapes, bytes from a run of a small model of the same form.

What is not a product costs bytes in proportion to a model's width and to the tokens or pixels; so those of the stage's
own code are counted (``traffic.py``) on models of a few hundred features, at two values of each size, and carried to
the full one. Nothing is timed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator

from chexmix_cli.core.kernels.linear_cross_entropy.chunked import GPU_CHUNK_BYTES
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.plan.exchange import Parameters, parameters_of
from chexmix_cli.core.plan.measure import LiveBytes, Point, extrapolate
from chexmix_cli.core.plan.pretrain_data import DataFacts
from chexmix_cli.core.plan.pretrain_tasks import drawn_decoder_task, drawn_tokenizer_task, empty_tokenizer_task
from chexmix_cli.core.plan.sizes import DecoderSize, PictureSize
from chexmix_cli.core.plan.traffic import Traffic
from chexmix_cli.core.settings.model import DecoderSettings, VqganSettings
from chexmix_cli.core.settings.training import LoopSettings, Stage1Training, Stage2Training, TokenizerTraining
from chexmix_cli.core.train.flop import decoder_flop, seen_pairs
from chexmix_cli.core.train.parallel import Layout
from chexmix_cli.core.train.task import Task

#: Attention heads and codes along a picture's side of the small decoders.
_HEADS, _CODES = 2, 8
#: Their layers, rows a micro-batch and vocabulary: every way in which a cost can grow.
_SMALL_DECODERS = ((1, 1, 512), (2, 1, 512), (1, 2, 512), (2, 2, 512), (1, 1, 1024), (1, 2, 1024))
#: Side of the small image tokenizers' pictures, in codes; their channels and pictures a micro-batch.
_SIDE_CODES = 4
_SMALL_TOKENIZERS = ((32, 1), (32, 2), (64, 1), (64, 2))
#: Rows whose documents are drawn to know a mean row.
_DRAWN_ROWS = 32
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One micro-batch, forwards and backwards, on one card.

    Attributes:
        tokens: that it holds.
        model_flop: operations that learning from it takes, as ``flop.py`` counts them: what MFU is of.
        again_flop: what is computed a second time, activations not having been kept.
        attention_flop: of both together, those of attention.
        is_convolutional: whether the others are convolutions, not products of matrices.
        traffic_bytes: read and written by all that is no product, besides ``weight_bytes``.
        weight_bytes: read and written to cast the blocks' weights and add up their gradients, where a card holds all.
        activation_bytes: alive at most, besides weights, gradients and optimiser state.
        cast_bytes: of weights cast, alive with them where a card holds all.
        operations: kernels started.
        parameters: that are trained.
    """

    tokens: float
    model_flop: float
    again_flop: float
    attention_flop: float
    is_convolutional: bool
    traffic_bytes: float
    weight_bytes: float
    activation_bytes: float
    cast_bytes: float
    operations: float
    parameters: Parameters

    @property
    def forward_share(self) -> float:
        """Return the share of the operations that is done before the backward pass begins."""
        return self.model_flop / 3 / (self.model_flop + self.again_flop)


def decoder_micro_batch(settings: Stage1Training | Stage2Training, facts: DataFacts) -> MicroBatch:
    """Return the mean micro-batch of a decoder stage."""
    train, shape = settings.train, settings.model.decoder
    full = DecoderSize(shape.num_layers, shape.num_rows, _DRAWN_ROWS)
    drawn, _ = drawn_decoder_task(settings, full, facts.report_tokens, has_values=False)
    batch = drawn.examples.prepare(drawn.examples.select(0), Generator().manual_seed(0))
    assert isinstance(drawn.module, Decoder)
    flop, share = decoder_flop(drawn.module), train.micro_batch_size / len(batch.rows)
    tokens, targets = batch.num_tokens() * share, batch.num_targets() * share
    pairs, documents = seen_pairs(batch.contexts()) * share, len(batch.lengths) * share
    again = recomputed_shares(settings) if train.checkpoint_activations else (0.0, 0.0)
    points = [_decoder_point(settings, facts, *small) for small in _SMALL_DECODERS]
    sizes = _byte_sizes(shape, tokens, targets)
    # A card that holds a share of the blocks' weights casts and adds up none of them by itself.
    apart = {**sizes, "block weights": 0.0}
    moved, moved_apart = (_moved(points, wanted, is_fused=train.compile) for wanted in (sizes, apart))
    kept = points if not train.checkpoint_activations else _points_of_kept(settings, facts)
    alive, alive_apart = (_alive(kept, wanted, train, shape) for wanted in (sizes, apart))
    return MicroBatch(
        tokens=tokens,
        model_flop=flop.per_token * tokens + flop.per_pair * pairs + flop.per_target * targets,
        again_flop=again[0] * flop.per_token * tokens + again[1] * flop.per_pair * pairs,
        attention_flop=(1 + again[1]) * flop.per_pair * pairs,
        is_convolutional=False,
        traffic_bytes=moved_apart,
        weight_bytes=moved - moved_apart,
        activation_bytes=alive_apart,
        cast_bytes=alive - alive_apart,
        operations=_carried(points, _call_sizes(shape.num_layers, documents))["operations"],
        parameters=parameters_of(drawn.module, drawn.module.blocks),
    )


def _moved(points: Sequence[Point], sizes: Mapping[str, float], *, is_fused: bool) -> float:
    """Return the bytes read and written; compiled is what the blocks do, not what comes before and behind them."""
    whole = _carried(points, sizes)
    if not is_fused:
        return whole["traffic"]
    ends = _carried(points, {**sizes, "block tokens": 0.0, "block weights": 0.0})
    return ends["traffic"] + whole["fused"] - ends["fused"]


def _points_of_kept(settings: Stage1Training | Stage2Training, facts: DataFacts) -> list[Point]:
    """Return what small models keep alive that recompute nothing: then the peak is the end of the forward pass."""
    train = dataclasses.replace(settings.train, checkpoint_activations=False)
    kept = dataclasses.replace(settings, train=train)
    return [_decoder_point(kept, facts, *small) for small in _SMALL_DECODERS]


def _alive(kept: Sequence[Point], sizes: Mapping[str, float], train: LoopSettings, shape: DecoderSettings) -> float:
    """Return the bytes alive at most. Recomputed, a block leaves its float32 input, and one at a time all it made."""
    # The buffer of logits is cut into chunks, whatever the number of targets.
    wanted = {**sizes, "logits": min(sizes["logits"], GPU_CHUNK_BYTES / _FLOAT_BYTES)}
    if not train.checkpoint_activations:
        return _carried(kept, wanted)["alive"]
    of_one = sizes["block tokens"] / shape.num_layers
    return _carried(kept, {**wanted, "block tokens": of_one})["alive"] + _FLOAT_BYTES * sizes["block tokens"]


def recomputed_shares(settings: Stage1Training | Stage2Training) -> tuple[float, float]:
    """Return the shares of the blocks' products, and of their attention, that recomputed activations add to a step.

    A third of each is the forward pass. Recomputing ends with the last value that is asked for, so a block's output
    product is repeated only for a dropout behind it.
    """
    shape = settings.model.decoder
    into, out = 3 * shape.hidden_size + shape.mlp_size, shape.hidden_size + shape.mlp_size
    return (into + (out if shape.residual_dropout else 0)) / (into + out) / 3, 1 / 3


def tokenizer_micro_batch(settings: TokenizerTraining) -> MicroBatch:
    """Return a micro-batch of the image tokenizer's stage."""
    model, count = settings.model, settings.train.micro_batch_size
    task = empty_tokenizer_task(settings)
    side = model.image.resolution_px
    work = task.work(torch.empty(count, model.vqgan.image_channels, side, side, device="meta"))
    points = [_tokenizer_point(settings, channels, pictures) for channels, pictures in _SMALL_TOKENIZERS]
    found = _carried(points, _picture_sizes(model.vqgan, count * side**2))
    return MicroBatch(
        tokens=work.tokens,
        model_flop=work.flop,
        again_flop=0.0,
        attention_flop=0.0,
        is_convolutional=True,
        traffic_bytes=found["traffic"],
        weight_bytes=0.0,
        activation_bytes=found["alive"],
        cast_bytes=0.0,
        operations=points[0].values["operations"],
        parameters=parameters_of(task.module),
    )


def _byte_sizes(shape: DecoderSettings, tokens: float, targets: float) -> dict[str, float]:
    """Return what the bytes of a decoder's micro-batch are linear in."""
    return {
        "block tokens": shape.num_layers * shape.hidden_size * tokens,
        "tokens": shape.hidden_size * tokens,
        "logits": shape.num_rows * targets,
        "block weights": shape.num_layers * shape.hidden_size**2,
        "row weights": shape.num_rows * shape.hidden_size,
    }


def _call_sizes(layers: int, documents: float) -> dict[str, float]:
    """Return what the number of its operations is linear in: attention runs over one document after the other."""
    return {"layers": layers, "documents": documents, "block documents": layers * documents}


def _picture_sizes(vqgan: VqganSettings, pixels: int) -> dict[str, float]:
    """Return what the bytes of an image tokenizer's micro-batch are linear in."""
    return {"channel pixels": vqgan.channels * pixels, "pixels": pixels, "weights": vqgan.channels**2}


def _decoder_point(
    settings: Stage1Training | Stage2Training, facts: DataFacts, layers: int, examples: int, rows: int
) -> Point:
    shape, grid = settings.model.decoder, settings.model.grid_size
    width = _HEADS * shape.head_size
    mlp = shape.mlp_size * width // shape.hidden_size
    narrow = dataclasses.replace(shape, num_heads=_HEADS, hidden_size=width, mlp_size=mlp)
    shorter = (grid // _CODES) ** 2 if grid % _CODES == 0 else 1
    small = dataclasses.replace(settings, model=dataclasses.replace(settings.model, decoder=narrow))
    task, loop = drawn_decoder_task(small, DecoderSize(layers, rows, examples, shorter), facts.report_tokens)
    batch = task.split(
        task.examples.prepare(task.examples.select(0), Generator().manual_seed(0)), loop.micro_batch_size
    )[0]
    cut = dataclasses.replace(narrow, num_layers=layers, num_rows=rows)
    sizes = _byte_sizes(cut, batch.num_tokens(), batch.num_targets()) | _call_sizes(layers, len(batch.lengths))
    return Point(sizes, _counted(task, loop, batch))


def _tokenizer_point(settings: TokenizerTraining, channels: int, pictures: int) -> Point:
    model = settings.model
    narrow = dataclasses.replace(model.vqgan, channels=channels, num_groups=min(model.vqgan.num_groups, channels))
    small = dataclasses.replace(settings, model=dataclasses.replace(model, vqgan=narrow))
    size = PictureSize(_SIDE_CODES * narrow.downsampling, pictures)
    task, loop = drawn_tokenizer_task(small, size)
    batch = task.split(
        task.examples.prepare(task.examples.select(0), Generator().manual_seed(0)), loop.micro_batch_size
    )[0]
    return Point(_picture_sizes(narrow, size.pixels), _counted(task, loop, batch))


def _counted(task: Task, train: LoopSettings, micro: Any) -> dict[str, float]:
    """Return what a micro-batch of a step moves, starts and keeps alive, once there are gradients to add to."""
    # Compiled, operations are fewer than those counted here, and differ from one torch to the next.
    layout = Layout(task, dataclasses.replace(train, compile=False), torch.device("cpu"))
    units = max(1, task.num_units(micro))
    task.module.train()
    with LiveBytes(task.module) as live:
        layout.backward(micro, units, step=0, is_last=True)
        gradients = live.now
        live.restart()
        with Traffic() as traffic:
            layout.backward(micro, units, step=0, is_last=True)
    return {
        "traffic": traffic.bytes,
        "fused": traffic.fused_bytes,
        "operations": traffic.operations,
        "alive": live.peak - gradients,
    }


def _carried(points: Sequence[Point], target: Mapping[str, float]) -> dict[str, float]:
    """Return the quantities at ``target``; sizes differ by millions, so they are told in those of the first point."""
    first = points[0].sizes
    scaled = [Point({name: point.sizes[name] / first[name] for name in target}, point.values) for point in points]
    return extrapolate(scaled, {name: value / first[name] for name, value in target.items()})
