"""A step on many cards, counted: operations and bytes against those of real steps, times against sums by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.plan import micro_batch
from chexmix_cli.core.plan.card import Card, planned_card
from chexmix_cli.core.plan.cards import count_step, plan_cards
from chexmix_cli.core.plan.exchange import Parameters
from chexmix_cli.core.plan.micro_batch import MicroBatch, decoder_micro_batch, recomputed_shares, tokenizer_micro_batch
from chexmix_cli.core.plan.pretrain_data import data_facts
from chexmix_cli.core.plan.pretrain_tasks import drawn_decoder_task, drawn_tokenizer_task
from chexmix_cli.core.plan.sizes import DecoderSize, PictureSize
from chexmix_cli.core.plan.traffic import Traffic
from chexmix_cli.core.settings.training import LoopSettings, resolve_stage
from chexmix_cli.core.train.flop import decoder_flop
from chexmix_cli.core.train.parallel import Layout

CARD = planned_card()
#: One second for each thing: round numbers.
ROUND = dataclasses.replace(
    CARD,
    bfloat16_flop=1000.0,
    product_share=0.5,
    convolution_share=0.25,
    attention_share=0.1,
    memory_rate=100.0,
    memory_share=0.5,
    launch_s=0.01,
    cards_per_node=8,
    link_rate=20.0,
    network_rate=1.25,
    link_share=0.5,
    hop_s=0.001,
)
LOOP = LoopSettings(steps=1, batch_size=64, micro_batch_size=1, precision="bfloat16", parallel="fsdp")


def settings_of(stage="1", decoder=None, **train):
    model = {"decoder": {"num_layers": 4, "hidden_size": 256, "num_heads": 4, "mlp_size": 1024, **(decoder or {})}}
    values = {"batch_size": 8, "micro_batch_size": 2, "precision": "bfloat16", **train}
    return resolve_stage(stage, "debug", [("test", {"train": values, "model": model})]).settings


def micro(**values):
    base = MicroBatch(
        tokens=10.0,
        model_flop=3000.0,
        again_flop=1000.0,
        attention_flop=500.0,
        is_convolutional=False,
        traffic_bytes=100.0,
        weight_bytes=50.0,
        activation_bytes=7.0,
        cast_bytes=3.0,
        operations=2.0,
        parameters=Parameters(layers=2, blocks=200, norms=8, rest=40),
    )
    return dataclasses.replace(base, **values)


@pytest.mark.parametrize(
    ("call", "moved", "fused"),
    [
        (lambda x: x.relu(), 8000, 4000),
        (lambda x: x.relu().exp().neg(), 24000, 4000),
        (lambda x: x.relu().exp() @ x.T, 16000, 8000),  # read once, written for the product
        (lambda x: (x.T @ x).sum(), 400 + 4, 400),
        (lambda x: x.view(10, 100)[2:].T, 0, 0),
        (lambda x: x.clone().zero_(), 8000 + 4000, 4000 + 4000),
        (lambda x: F.embedding(torch.tensor([1, 2]), x), 2 * 80 + 16, 2 * 80 + 16),
    ],
)
def test_bytes_are_those_read_and_written(call, moved, fused):
    x = torch.ones(100, 10)
    with Traffic() as traffic:
        call(x)
    assert (traffic.bytes, traffic.fused_bytes) == (moved, fused)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_recomputed_operations_are_what_torch_counts(dropout):
    counted = {}
    for again in (False, True):
        settings = settings_of(decoder={"residual_dropout": dropout}, checkpoint_activations=again)
        task, loop = drawn_decoder_task(settings, DecoderSize(4, 512, 2), [20])
        batch = task.split(task.examples.prepare(task.examples.select(0), torch.Generator().manual_seed(0)), 2)[0]
        layout = Layout(task, loop, torch.device("cpu"))
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            layout.backward(batch, 1, step=0, is_last=True)
        counted[again] = counter.get_total_flops()
    flop, shares = decoder_flop(task.module), recomputed_shares(settings)
    # Torch counts masked pairs too.
    pairs = sum(length**2 for length in batch.lengths)
    expected = shares[0] * flop.per_token * batch.num_tokens() + shares[1] * flop.per_pair * pairs
    assert counted[True] - counted[False] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("stage", ["1", "2"])
def test_a_decoders_bytes_are_those_of_its_step(stage, again):
    settings = settings_of(stage, checkpoint_activations=again)
    found = decoder_micro_batch(settings, data_facts(None, settings.model))
    shape = settings.model.decoder
    task, loop = drawn_decoder_task(settings, DecoderSize(shape.num_layers, shape.num_rows, 2), [64])
    batch = task.split(task.examples.prepare(task.examples.select(0), torch.Generator().manual_seed(0)), 2)[0]
    counted = micro_batch._counted(task, loop, batch)
    # In stage 2 the targets that count are drawn.
    assert found.model_flop == pytest.approx(task.work(batch).flop, rel=1e-6 if stage == "1" else 0.02)
    assert found.traffic_bytes + found.weight_bytes == pytest.approx(counted["traffic"], rel=0.02)
    assert found.operations == pytest.approx(counted["operations"], rel=0.02)
    alive = (found.activation_bytes + found.cast_bytes) / counted["alive"]
    # Recomputed, what a block makes and the loss's buffers are added up, though they are not alive together.
    assert (1.0 if again else 0.95) < alive < (1.25 if again else 1.05)


def test_an_image_tokenizers_bytes_are_those_of_its_step():
    settings = resolve_stage(
        "tokenizer",
        "debug",
        [("test", {"train": {"batch_size": 4, "micro_batch_size": 2, "precision": "bfloat16"}})],
    ).settings
    found = tokenizer_micro_batch(settings)
    task, loop = drawn_tokenizer_task(settings, PictureSize(settings.model.image.resolution_px, 2))
    batch = task.split(task.examples.prepare(task.examples.select(0), torch.Generator().manual_seed(0)), 2)[0]
    counted = micro_batch._counted(task, loop, batch)
    assert found.model_flop == task.work(batch).flop
    assert found.traffic_bytes == pytest.approx(counted["traffic"], rel=0.05)
    assert found.activation_bytes == pytest.approx(counted["alive"], rel=0.1)
    assert found.operations == pytest.approx(counted["operations"], rel=0.02)


def test_one_card_does_all_of_it():
    count = count_step(LOOP, micro(), 1, ROUND)
    assert count.seconds == pytest.approx(
        {"products": 64 * 7.0, "attention": 64 * 5.0, "memory": 64 * 3.0, "update": 248 * 40 / 50}
    )
    assert count.mfu == pytest.approx(64 * 3000 / 1000 / count.step_s)
    assert count.tokens == 640
    assert count.memory == {
        "context": 2_000_000_000,
        "weights": 992,
        "optimizer": 1984,
        "gradients": 992,
        "activations": 7,
        "casts": 3,
    }


def test_what_the_host_takes_longer_is_waited_for():
    count = count_step(LOOP, micro(operations=2000.0), 1, ROUND)
    assert count.seconds["host"] == pytest.approx(64 * (20.0 - 15.0))


def test_gathers_are_waited_for_where_they_take_longer_than_the_passes():
    """Of 15 s a quarter goes forwards; the embedding and head are gathered before, and reduced at the end."""
    count = count_step(
        dataclasses.replace(LOOP, micro_batch_size=8), micro(weight_bytes=0.0, traffic_bytes=0.0), 8, ROUND
    )
    traffic = 200 * (2 * ((4 + 4) / 8 + 6) + 10 + 16 / 8) / 50
    busy = 12.0 + traffic
    rate = 20 * 0.5 * 8 / 7
    first, forward = 160 / rate + 0.007, (400 + 32) / rate + 4 * 0.007
    back = (400 + 832) / rate + 6 * 0.007
    waits = first + max(0.0, forward - busy / 4) + max(0.0, back - busy * 3 / 4)
    assert count.seconds["network"] == pytest.approx(waits + first)
    assert forward > busy / 4  # else the case says nothing
    assert (count.bytes["gathered"], count.bytes["reduced"], count.bytes["summed"]) == (992, 992, 0)


def test_between_nodes_the_network_decides():
    assert ROUND.bus_rate(8) == 10.0
    assert ROUND.bus_rate(16) == 5.0
    assert CARD.bus_rate(64) == pytest.approx(8 * 50e9 * CARD.link_share)


def test_replicas_sum_once_a_step():
    loop = dataclasses.replace(LOOP, parallel="ddp", micro_batch_size=4)
    slow = dataclasses.replace(ROUND, link_rate=1.0)
    count = count_step(loop, micro(), 8, slow)
    travel = 2 * (992 * 7 / 8 / 0.5 + 0.007)
    assert count.seconds["network"] == pytest.approx(travel - 15.0 * 3 / 4)
    assert count.bytes["summed"] == 992


def test_shares_take_less_memory_each():
    one, eight = (count_step(LOOP, micro(), cards, ROUND).memory for cards in (1, 8))
    assert eight["optimizer"] == one["optimizer"] / 8
    assert eight["gathered"] == 2 * 100 * 6 + 8 * 40
    assert "casts" not in eight


def test_uneven_shares_are_refused():
    with pytest.raises(SettingsError, match="4 micro-batches for 3 cards") as caught:
        plan_cards(settings_of(), [1, 3], card=CARD, data=None, name="stage 1")
    assert caught.value.where == "--cards"


def test_every_assumption_is_said_with_its_source():
    plan = plan_cards(settings_of(precision="auto"), [1, 2], card=CARD, data=None, name="stage 1")
    record = plan.record()
    assert record["assumptions"].keys() == CARD.figures().keys()
    assert all(entry["source"] for entry in record["assumptions"].values())
    assert [count["cards"] for count in record["counts"]] == [1, 2]
    assert record["fits"]
    assert "reports of 64 tokens" in " ".join(record["remarks"])


def test_a_figure_without_a_source_is_refused():
    values = dataclasses.asdict(CARD)
    del values["source"]["hop_s"]
    with pytest.raises(SettingsError, match="is None") as caught:
        Card(**values)
    assert caught.value.where == "card.source.hop_s"


def test_compiled_blocks_move_less():
    plain, compiled = (
        decoder_micro_batch(settings, data_facts(None, settings.model))
        for settings in (settings_of(), settings_of(compile=True))
    )
    assert compiled.traffic_bytes < 0.7 * plain.traffic_bytes
    assert compiled.model_flop == plain.model_flop


def test_the_released_shape_on_eight_cards_reaches_its_aim():
    """By the count: 45 % of the peak, compiled, with activations kept and eight rows a micro-batch."""
    train = {"compile": True, "checkpoint_activations": False, "micro_batch_size": 8}
    settings = resolve_stage("1", "phi2", [("test", {"train": train})]).settings
    (count,) = plan_cards(settings, [8], card=CARD, data=None, name="stage 1").counts
    assert count.fits
    assert count.mfu > 0.45
