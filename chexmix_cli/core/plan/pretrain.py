"""``chexmix plan pretrain``: memory and time of a stage, before anything large is loaded.

The stage's own task is built on drawn data with a model cut down in layers, vocabulary or pixels (``plan_sizes.py``);
one step of it is taken apart (``plan_step.py``), and what it cost is carried to the full size. Weights, gradients and
optimiser state follow from the shapes alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch

from chexmix_cli.core.infer.image_tokenizer import READ_AHEAD
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.meta import on_meta_device
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.plan.measure import Parts, Plan, Point, Remedy, extrapolate, module_bytes
from chexmix_cli.core.plan.pretrain_data import DataFacts, data_facts
from chexmix_cli.core.plan.pretrain_step import measure_step
from chexmix_cli.core.plan.pretrain_tasks import drawn_decoder_task, drawn_tokenizer_task
from chexmix_cli.core.plan.reports import PASS_S, encode_costs
from chexmix_cli.core.plan.sizes import (
    MEASURED_PARAMETERS,
    Limits,
    decoder_parameters,
    decoder_sizes,
    picture_sizes,
)
from chexmix_cli.core.rates import flop_rate
from chexmix_cli.core.runtime import available_memory, resident_memory
from chexmix_cli.core.settings.training import (
    LoopSettings,
    Stage1Training,
    Stage2Training,
    StageTraining,
    TokenizerTraining,
)
from chexmix_cli.core.train.checkpoint import FILE_BYTES
from chexmix_cli.core.train.examples.code_cache import training_tokenizer
from chexmix_cli.core.train.examples.prefetch import AHEAD
from chexmix_cli.core.train.flop import vqgan_flop
from chexmix_cli.core.train.precision import slow_precision, with_precision

#: Seconds that the repetitions of one measured size may take.
_BUDGET_S = 2.0
#: More than this the allocator never kept; measured with next to no tensors it would look like more.
_MOST_OVERHEAD = 0.5
#: Processes among which a plan spreads a model to find how many it needs.
_MOST_PROCESSES = 1024
_FLOAT_BYTES, _CODE_BYTES = 4, 2


@dataclass(frozen=True, slots=True)
class Costs:
    """A stage at its full size.

    Attributes:
        weights: bytes of all parameters and buffers.
        trained: bytes of the trained parameters, which gradients take once and AdamW twice.
        step: what :func:`measure_step` found, carried to the full size.
        beside: part -> bytes that stay while the stage trains (a frozen image tokenizer).
        before: part -> bytes that preparing the data takes and gives back, besides ``beside``.
        before_s: seconds of it.
        cache_bytes: on disk, in the run's folder, while the stage trains.
        overhead: bytes that the allocator holds on top of each byte of a tensor.
    """

    weights: int
    trained: int
    step: Mapping[str, float]
    beside: Mapping[str, int]
    before: Mapping[str, int]
    before_s: float
    cache_bytes: int
    overhead: float


def plan_pretrain(
    settings: StageTraining,
    *,
    data: Path | None,
    device: torch.device,
    name: str,
    memory_bytes: int | None = None,
    show: Callable[[int, int | None], None] = lambda done, total: None,
) -> Plan:
    """Return the plan of a stage.

    Args:
        settings: root of the stage.
        data: manifest; without one the plan leaves out what depends on it, and says so.
        device: that will train, and that measures.
        name: of the stage.
        memory_bytes: of the machine planned for; default: what is free here.
        show: called with (measurements done, in all as far as known).

    Raises:
        DataError, TrainingError: if the manifest is unusable.
        MachineError: if the system does not tell its memory.
    """
    base = _process_bytes()
    # What this process holds already is in the plan as a part of its own.
    available = memory_bytes if memory_bytes is not None else available_memory(device) + base
    parts = Parts(show)
    facts = data_facts(data, settings.model)
    settings = with_precision(settings, device)
    rate = flop_rate(getattr(torch, settings.train.precision), device)
    if isinstance(settings, TokenizerTraining):
        costs = _tokenizer_costs(settings, facts, device, rate, base, parts)
    else:
        costs = _decoder_costs(settings, facts, device, rate, base, parts)
    plan = Plan(
        command=f"pretrain {name}",
        memory={"process": base, **worker_memory(settings.train, costs, base), **step_memory(settings.train, costs)},
        available_bytes=available,
        times=_times(settings.train, costs, facts),
        sizes=_sizes(settings.train, costs, facts),
        remarks=_remarks(settings, facts, device),
    )
    if plan.fits:
        return plan
    found = remedies(settings.train, costs, plan)
    state = costs.weights + 2 * costs.trained
    if not (isinstance(settings, TokenizerTraining) or settings.train.checkpoint_activations) and state < available:
        # Measured like the plan itself; of no use where weights and optimiser alone are too much.
        train = dataclasses.replace(settings.train, checkpoint_activations=True)
        again = _decoder_costs(dataclasses.replace(settings, train=train), facts, device, rate, base, parts)
        found.insert(0, Remedy("--set train.checkpoint_activations=true", _peak(train, again, plan)))
    return dataclasses.replace(plan, remedies=found)


def step_memory(train: LoopSettings, costs: Costs) -> dict[str, int]:
    """Return the parts of memory at the moment of a run that takes most: data, a pass, an update, a checkpoint."""
    micros = train.batch_size // train.micro_batch_size
    of_pass = round(costs.step["pass_bytes"] + costs.step["kept_bytes"] * max(0, micros - 2))
    gradients = min(costs.trained, of_pass) if micros > 1 else 0
    average = {"average": costs.trained} if train.ema_decay else {}
    state = {"weights": costs.weights, "optimizer": 2 * costs.trained, **average}
    moments = [
        {**state, "gradients": gradients, "activations": of_pass - gradients},
        {**state, "gradients": costs.trained, "update": round(costs.step["update_bytes"])},
        {**state, "gradients": costs.trained, "checkpoint": 2 * min(FILE_BYTES, sum(state.values()))},
        dict(costs.before),
    ]
    largest = max(moments, key=lambda parts: sum(parts.values()))
    parts = {**costs.beside, **largest, "allocator": round(costs.overhead * sum(largest.values()))}
    return {name: value for name, value in parts.items() if value}


def worker_memory(train: LoopSettings, costs: Costs, base: int) -> dict[str, int]:
    """Return the part of memory that processes which prepare batches take, with the batches that wait.

    Args:
        train: how many, and the size of a batch.
        costs: of the stage.
        base: bytes of a process that has imported what it needs.
    """
    if not train.workers:
        return {}
    batch = costs.step["batch_bytes"] * (train.batch_size // train.micro_batch_size)
    return {"workers": train.workers * (base + round(AHEAD * batch))}


def remedies(train: LoopSettings, costs: Costs, plan: Plan) -> list[Remedy]:
    """Return changes that need less memory, with what each comes to; those that are on already are left out."""
    found: list[Remedy] = []
    if train.micro_batch_size > 1:
        smaller = dataclasses.replace(train, micro_batch_size=1)
        share = 1 / train.micro_batch_size
        kept = max(0.0, costs.step["pass_bytes"] - costs.trained) * share + costs.trained
        less = dataclasses.replace(costs, step={**costs.step, "pass_bytes": kept})
        found.append(Remedy("--set train.micro_batch_size=1", _peak(smaller, less, plan)))
    state = round((costs.weights + 3 * costs.trained) * (1 + costs.overhead))
    rest = max(0, plan.peak_bytes - state)
    room = plan.available_bytes - rest
    if room > 0:
        processes = -(-state // room)
        if 1 < processes <= _MOST_PROCESSES:
            what = f"{processes} processes of this much memory each, with --set train.parallel=fsdp"
            found.append(Remedy(what, rest + state // processes))
    return found


def _peak(train: LoopSettings, costs: Costs, plan: Plan) -> int:
    base = plan.memory["process"]
    return base + sum({**worker_memory(train, costs, base), **step_memory(train, costs)}.values())


def _tokenizer_costs(
    settings: TokenizerTraining, facts: DataFacts, device: torch.device, rate: float, base: int, parts: Parts
) -> Costs:
    train, model = settings.train, settings.model
    side, limits = model.image.resolution_px, Limits(MEASURED_PARAMETERS, rate * PASS_S)
    # Backwards costs twice what forwards does.
    flop = 3 * sum(vqgan_flop(model.vqgan, side))
    step_px = model.vqgan.downsampling
    points = []
    sizes = picture_sizes(side, examples=train.micro_batch_size, flop=flop, step_px=step_px, limits=limits)
    parts.expect(len(sizes))
    for size in sizes:
        task, loop = drawn_tokenizer_task(settings, size)
        values = measure_step(task, loop, settings.optimizer, device=device, budget_s=_BUDGET_S)
        weights, trained = module_bytes(task.module)
        points.append(Point({"pixels": size.pixels}, _of_one_micro(values, loop)))
        parts.finish()
    step = extrapolate(points, {"pixels": train.micro_batch_size * side**2})
    return Costs(
        weights=weights,
        trained=trained,
        step=step,
        beside={},
        before={},
        before_s=facts.read_s,
        cache_bytes=facts.film_bytes,
        overhead=_overhead(points, base),
    )


def _decoder_costs(
    settings: Stage1Training | Stage2Training,
    facts: DataFacts,
    device: torch.device,
    rate: float,
    base: int,
    parts: Parts,
) -> Costs:
    model, shape, examples = settings.model, settings.model.decoder, settings.train.micro_batch_size
    tokens = settings.packing.row_tokens or model.vocabulary.prompt_length + max(facts.report_tokens)
    limits = Limits(MEASURED_PARAMETERS, rate * PASS_S)
    sizes = decoder_sizes(shape, tokens=tokens, side_codes=model.grid_size, examples=examples, limits=limits)
    points = []
    parts.expect(len(sizes) + 1)
    for size in sizes:
        task, loop = drawn_decoder_task(settings, size, facts.report_tokens)
        values = measure_step(task, loop, settings.optimizer, device=device, budget_s=_BUDGET_S)
        points.append(Point({"layers": size.layers, "rows": size.rows}, _of_one_micro(values, loop)))
        parts.finish()
    full, first = {"layers": shape.num_layers, "rows": shape.num_rows}, sizes[0]
    if first.share == examples:
        step = extrapolate(points, full)
    else:
        pair = [Point({"examples": size.examples}, point.values) for size, point in zip(sizes, points, strict=True)]
        alone = extrapolate([pair[0], pair[-1]], {"examples": 0})
        numbers = [
            decoder_parameters(shape, layers=n, rows=r)
            for n, r in ((shape.num_layers, shape.num_rows), (first.layers, first.rows))
        ]
        alone = {name: value * numbers[0] / numbers[1] for name, value in alone.items()}
        step = with_examples(extrapolate(points[:-1], full), alone, examples / first.share)
        # Attention costs more than its share of longer documents: forwards and backwards, half of it hidden.
        longer = tokens * (tokens - tokens / first.shorter)
        step["learn_s"] += 7.0 * examples * shape.num_layers * shape.hidden_size * longer / rate
    with on_meta_device():
        decoder = Decoder(shape)
    weights, trained = module_bytes(decoder)
    vqgan = Vqgan(model.vqgan).eval().to(device)
    encode_bytes, encode_s = encode_costs(model, vqgan, training_tokenizer(vqgan, model).batch_size)
    parts.finish()
    # Images read ahead exist twice: one by one, and joined.
    encode_bytes += 2 * READ_AHEAD * model.vqgan.image_channels * model.image.resolution_px**2 * _FLOAT_BYTES
    images = facts.num_train * settings.documents.variants + facts.num_val
    return Costs(
        weights=weights,
        trained=trained,
        step=step,
        beside={"image tokenizer": module_bytes(vqgan)[0]},
        before={"encoding": encode_bytes},
        before_s=facts.read_s + encode_s * images,
        cache_bytes=images * model.vocabulary.tokens_per_image * _CODE_BYTES,
        overhead=_overhead(points, base),
    )


def with_examples(values: Mapping[str, float], alone: Mapping[str, float], times: float) -> dict[str, float]:
    """Return quantities of ``times`` as many examples.

    Args:
        values: of the number that was measured.
        alone: the part of them that does not depend on examples (gradients, casts of weights); the update is all such.
        times: how many times as many.
    """
    result = {}
    for name, value in values.items():
        fixed = value if name.startswith("update") else min(value, alone[name])
        result[name] = fixed + (value - fixed) * times
    return result


def _overhead(points: Sequence[Point], base: int) -> float:
    """Return what the process grew by beyond the tensors of the largest size that was measured, a byte of them.

    The allocator keeps pieces that are free but of no use for what comes next: about a third with small tensors, next
    to nothing with large ones, which it asks the system for one by one.
    """
    largest = max(points, key=lambda point: point.values["tensor_bytes"]).values
    grown = max(point.values["resident_bytes"] for point in points) - base
    return min(_MOST_OVERHEAD, max(0.0, grown / largest["tensor_bytes"] - 1))


def _process_bytes() -> int:
    """Return what a training process holds before its first tensor of any size: everything imported and started."""
    import_module("chexmix_cli.core.train.pretrain.run")
    layer = torch.nn.Linear(8, 8)
    layer(torch.zeros(1, 8)).sum().backward()
    torch.optim.AdamW(layer.parameters()).step()
    return resident_memory()


def _of_one_micro(values: Mapping[str, float], loop: LoopSettings) -> dict[str, float]:
    """Return measured values with a batch's preparation, its time and its bytes, as that of one micro-batch."""
    share = loop.micro_batch_size / loop.batch_size
    return {**values, **{name: values[name] * share for name in ("prepare_s", "batch_bytes")}}


def _times(train: LoopSettings, costs: Costs, facts: DataFacts) -> dict[str, float]:
    micros = train.batch_size // train.micro_batch_size
    learn_s, prepare_s = micros * costs.step["learn_s"] + costs.step["update_s"], micros * costs.step["prepare_s"]
    # Processes that prepare batches are taken to have cores of their own.
    step_s = max(learn_s, prepare_s / train.workers) if train.workers else learn_s + prepare_s
    batches = -(-facts.num_val // train.micro_batch_size)
    batches = min(batches, train.validation_batches) if train.validation_batches else batches
    validations = -(-train.steps // train.validate_every)
    times = {
        "step": step_s,
        "steps": step_s * train.steps,
        "validation": validations * batches * costs.step["validate_s"],
        "data": costs.before_s,
    }
    return {**times, "run": sum(times.values()) - step_s}


def _sizes(train: LoopSettings, costs: Costs, facts: DataFacts) -> dict[str, int]:
    return {
        "trained_parameters": costs.trained // _FLOAT_BYTES,
        "steps": train.steps,
        "batch_size": train.batch_size,
        "micro_batch_size": train.micro_batch_size,
        "checkpoint_bytes": costs.weights + 2 * costs.trained,
        "cache_bytes": costs.cache_bytes,
        "train_films": facts.num_train,
        "val_films": facts.num_val,
    }


def _remarks(settings: StageTraining, facts: DataFacts, device: torch.device) -> list[str]:
    remarks = slow_precision(settings.train.precision, device)
    if facts.num_train:
        return remarks
    assumed = [] if isinstance(settings, TokenizerTraining) else [f"reports of {max(facts.report_tokens)} tokens"]
    return [*remarks, ", ".join(["without --manifest: no films on disk, no time for data and validation", *assumed])]
