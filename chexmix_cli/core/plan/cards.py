"""``chexmix plan pretrain --cards``: a stage's step on many cards, counted and not measured; no card is needed.

A micro-batch's operations, bytes and kernels (``micro_batch.py``) and what the cards send each other (``exchange.py``)
become seconds by what a card is taken to do (``card.py``). On a card products, attention and the rest follow each
other; gathers and reductions run beside them, and only what they take longer is waited for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.plan.card import Card
from chexmix_cli.core.plan.exchange import Exchange, Travel, replicated, shard_traffic, sharded
from chexmix_cli.core.plan.measure import Need
from chexmix_cli.core.plan.micro_batch import MicroBatch, decoder_micro_batch, tokenizer_micro_batch
from chexmix_cli.core.plan.pretrain_data import data_facts
from chexmix_cli.core.settings.training import LoopSettings, StageTraining, TokenizerTraining

_FLOAT_BYTES = 4
#: Bytes of each parameter in an update: AdamW in one kernel reads weight, gradient and both means and writes all but
#: the gradient; clipping reads the gradient, then reads and writes it scaled; a running mean reads two and writes one.
_ADAMW_BYTES, _CLIP_BYTES, _AVERAGE_BYTES = 28, 12, 12
#: Blocks whose gathered weights exist at once: the one in use, and the next.
_GATHERED_BLOCKS = 2


@dataclass(frozen=True, slots=True)
class CardCount(Need):
    """A step on so many cards. Bytes, operations and seconds are those of one card.

    Attributes:
        cards: how many.
        memory: part -> bytes; together the peak.
        available_bytes: of a card.
        seconds: part -> seconds of a step; together its time.
        bytes: what is read, written, gathered and reduced in a step.
        model_flop, computed_flop: of a step; computed are also activations that were not kept.
        tokens: of a step, on all cards.
        mfu: share of the card's peak that learning takes.
    """

    cards: int
    memory: Mapping[str, int]
    available_bytes: int
    seconds: Mapping[str, float]
    bytes: Mapping[str, int]
    model_flop: int
    computed_flop: int
    tokens: int
    mfu: float

    @property
    def step_s(self) -> float:
        """Return the seconds of a step."""
        return sum(self.seconds.values())

    def record(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "cards": self.cards,
            "fits": self.fits,
            "peak_bytes": self.peak_bytes,
            "memory_bytes": dict(self.memory),
            "step_s": round(self.step_s, 4),
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
            "bytes": dict(self.bytes),
            "model_flop": self.model_flop,
            "computed_flop": self.computed_flop,
            "tokens_per_s": round(self.tokens / self.step_s),
            "mfu": round(self.mfu, 4),
        }


@dataclass(frozen=True, slots=True)
class CardsPlan:
    """A stage on some numbers of cards.

    Attributes:
        command: what was planned.
        counts: one for each number.
        card: every assumption.
        remarks: what the plan leaves out or assumes besides.
    """

    command: str
    counts: Sequence[CardCount]
    card: Card
    remarks: Sequence[str]

    @property
    def fits(self) -> bool:
        """Return whether all of them fit."""
        return all(count.fits for count in self.counts)

    def record(self) -> dict[str, Any]:
        """Return plain values."""
        assumed = {
            name: {"value": value, "source": self.card.source[name]} for name, value in self.card.figures().items()
        }
        return {
            "command": self.command,
            "fits": self.fits,
            "card": self.card.name,
            "counts": [count.record() for count in self.counts],
            "assumptions": assumed,
            "remarks": list(self.remarks),
        }


def plan_cards(
    settings: StageTraining, numbers: Sequence[int], *, card: Card, data: Path | None, name: str
) -> CardsPlan:
    """Return the plan of a stage on each of some numbers of cards.

    Args:
        settings: root of the stage; ``train.precision`` ``auto`` is bfloat16.
        numbers: of cards.
        card: what one does.
        data: manifest; without one reports are assumed to have 64 tokens.
        name: of the stage.

    Raises:
        SettingsError: if a step's micro-batches cannot be shared evenly among so many.
        DataError, TrainingError: if the manifest is unusable.
    """
    train = settings.train
    for cards in numbers:
        _require_even_shares(train, cards)
    if train.precision == "auto":
        settings = dataclasses.replace(settings, train=dataclasses.replace(train, precision="bfloat16"))
    facts = data_facts(data, settings.model)
    remarks = ["counted, not measured; a batch is taken to be ready when a step begins"]
    if isinstance(settings, TokenizerTraining):
        micro = tokenizer_micro_batch(settings)
    else:
        micro = decoder_micro_batch(settings, facts)
        remarks.append("images are encoded before the first step, and not counted")
        if data is None:
            remarks.append(f"without --manifest: reports of {max(facts.report_tokens)} tokens")
    if settings.train.compile:
        remarks.append("compiled: all that a block does between two products is taken to be one kernel")
    counts = [count_step(settings.train, micro, cards, card) for cards in numbers]
    return CardsPlan(f"pretrain {name}", counts, card, remarks)


def count_step(train: LoopSettings, micro: MicroBatch, cards: int, card: Card) -> CardCount:
    """Return a step of the loop on so many cards."""
    is_sharded = cards > 1 and train.parallel == "fsdp"
    exchange = Exchange()
    if cards > 1:
        exchange = sharded(micro.parameters, train.precision) if is_sharded else replicated(micro.parameters)
    micros = train.batch_size // train.micro_batch_size // cards
    computed = micro.model_flop + micro.again_flop
    weights = shard_traffic(micro.parameters, train.precision, cards) if is_sharded else micro.weight_bytes
    traffic = micro.traffic_bytes + weights
    local = micro.parameters.total / (cards if is_sharded else 1)
    update = local * (_ADAMW_BYTES + _CLIP_BYTES + (_AVERAGE_BYTES if train.ema_decay else 0))
    rate, memory_rate = card.flop_rate(train.precision), card.memory_rate * card.memory_share
    share = card.convolution_share if micro.is_convolutional else card.product_share
    busy = {
        "products": (computed - micro.attention_flop) / (rate * share),
        "attention": micro.attention_flop / (rate * card.attention_share),
        "memory": traffic / memory_rate,
    }
    device_s = sum(busy.values())
    host_s = max(0.0, micro.operations * card.launch_s - device_s)
    network_s = _waits(exchange, micro, device_s + host_s, micros, cards, card)
    seconds = {name: micros * value for name, value in busy.items()}
    seconds |= {"host": micros * host_s, "network": network_s, "update": update / memory_rate}
    seconds = {name: value for name, value in seconds.items() if value}
    step_s = sum(seconds.values())
    return CardCount(
        cards=cards,
        memory=_memory(train, micro, cards, card, is_sharded=is_sharded),
        available_bytes=round(card.memory_bytes),
        seconds=seconds,
        bytes={
            "memory": round(micros * traffic),
            "update": round(update),
            "gathered": micros * sum(part.num_bytes for part in (exchange.first, exchange.forward, exchange.again)),
            "reduced": micros * sum(part.num_bytes for part in (exchange.reduced, exchange.last)),
            "summed": exchange.step.num_bytes,
        },
        model_flop=round(micros * micro.model_flop),
        computed_flop=round(micros * computed),
        tokens=round(micros * micro.tokens * cards),
        mfu=micros * micro.model_flop / (step_s * rate),
    )


def _waits(exchange: Exchange, micro: MicroBatch, busy_s: float, micros: int, cards: int, card: Card) -> float:
    """Return the seconds of a step in which a card waits for others, because nothing is left to compute beside it."""
    forward_s = busy_s * micro.forward_share
    backward_s = busy_s - forward_s

    def travel_s(*travels: Travel) -> float:
        return sum(card.travel_s(travel.num_bytes, travel.calls, cards) for travel in travels)

    each = travel_s(exchange.first) + max(0.0, travel_s(exchange.forward) - forward_s)
    each += max(0.0, travel_s(exchange.again, exchange.reduced) - backward_s)
    return micros * each + travel_s(exchange.last) + max(0.0, 2 * travel_s(exchange.step) - backward_s)


def _memory(train: LoopSettings, micro: MicroBatch, cards: int, card: Card, *, is_sharded: bool) -> dict[str, int]:
    parameters = micro.parameters
    local = _FLOAT_BYTES * parameters.total / (cards if is_sharded else 1)
    parts = {
        "context": card.context_bytes,
        "weights": local,
        "optimizer": 2 * local,
        "gradients": local,
        "average": local if train.ema_decay else 0,
        "activations": micro.activation_bytes,
    }
    if is_sharded:
        size = 2 if train.precision == "bfloat16" else _FLOAT_BYTES
        # Beside whole weights, whole gradients that wait to be reduced; of the rest both last as long as a pass does.
        block = parameters.blocks / max(1, parameters.layers)
        parts["gathered"] = _GATHERED_BLOCKS * block * (size + _FLOAT_BYTES) + 2 * _FLOAT_BYTES * parameters.rest
    else:
        parts["casts"] = micro.cast_bytes
    return {name: round(value) for name, value in parts.items() if value}


def _require_even_shares(train: LoopSettings, cards: int) -> None:
    micros = train.batch_size // train.micro_batch_size
    if micros % cards:
        raise SettingsError(
            f"a step has {micros} micro-batches for {cards} cards",
            where="--cards",
            expected="train.batch_size / train.micro_batch_size to be a multiple of it",
            hint="lower train.micro_batch_size, or change train.batch_size",
        )
