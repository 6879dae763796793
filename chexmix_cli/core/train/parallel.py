"""How a step's computation is laid out: alone, replicated (DDP) or sharded (FSDP2); compiled; recomputed."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from chexmix_cli.core.kernels.backend import prepare_compiler
from chexmix_cli.core.models.attention import AttentionPlan
from chexmix_cli.core.settings.training import LoopSettings
from chexmix_cli.core.train.distributed import is_main, world_size
from chexmix_cli.core.train.task import Task, autocast


class StepModule(nn.Module):
    """What a task computes as a ``forward``, which is where DDP and FSDP2 hook in: the loss of a step's micro-batch, or
    all of the validation after so many steps where there is no micro-batch.
    """

    def __init__(self, task: Task, train: LoopSettings) -> None:
        super().__init__()
        self.module = task.module
        self._task, self._precision = task, train.precision

    def forward(self, batch: Any, step: int) -> Any:
        if batch is None:
            return self._task.validate(step)
        with autocast(self.module, self._precision):
            terms = self._task.loss(batch, step)
        return terms.total, terms.sums


@functools.cache
def _prepare_compiler() -> None:
    """Tell ``torch.compile`` what it may not trace, once a process; decorators would load the compiler for all."""
    prepare_compiler()
    # Every plan has lengths of its own, and the code around it would be compiled for each anew.
    setattr(AttentionPlan, "attend", torch.compiler.disable(AttentionPlan.attend))  # noqa: B010


class Layout:
    """The module a step calls, laid out as the settings say. The task's module is moved, and under FSDP2 sharded.

    Under FSDP2 rank 0's values are everyone's: the others may bring a module on the meta device, without any.

    Args:
        task: its ``blocks`` are sharded, compiled and recomputed one by one.
        train: ``parallel``, ``compile``, ``checkpoint_activations``, ``precision``.
        device: of this process.
    """

    def __init__(self, task: Task, train: LoopSettings, device: torch.device) -> None:
        is_sharded = world_size() > 1 and train.parallel == "fsdp"
        if not is_sharded:
            task.module.to(device)
        self._module = task.module
        self._step = StepModule(task, train)
        # In place of the method, so that the block's hooks (FSDP2's) stay outside what is compiled and computed twice;
        # compiled first: nothing of a block that is already wrapped would be.
        for block in task.blocks if train.compile else ():
            _prepare_compiler()
            block.forward = torch.compile(block.forward)
        for block in task.blocks if train.checkpoint_activations else ():
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
        self._run: nn.Module = self._step
        if is_sharded:
            self._shard(task, train, device)
        elif world_size() > 1:
            with warnings.catch_warnings():
                # Its new name is not in the oldest torch we run on.
                warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
                self._run = DistributedDataParallel(self._step, broadcast_buffers=False, gradient_as_bucket_view=True)

    def backward(self, batch: Any, num_units: int, *, step: int, is_last: bool) -> dict[str, tuple[Tensor, int]]:
        """Add a micro-batch's gradients, and return its sums; the ``is_last`` one of a step also joins the ranks'."""
        # FSDP2 gives each rank its shard of every micro-batch's sum: there is no room for whole gradients.
        waits = isinstance(self._run, DistributedDataParallel) and not is_last
        with cast("AbstractContextManager[None]", self._run.no_sync()) if waits else nullcontext():  # type: ignore[operator]
            total, sums = self._run(batch, step)
            # Both wrappers average over ranks; the loss is a sum over them.
            (total * (world_size() / num_units)).backward()
        return cast("dict[str, tuple[Tensor, int]]", sums)

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """Return the task's validation metrics after so many steps; every rank computes them."""
        self._reshard()
        figures: dict[str, float] = self._step(None, step)
        self._reshard()
        return figures

    def clip(self, norm: float) -> float:
        """Scale the gradients to a norm of at most ``norm``, and return what it was: that of all ranks' together."""
        found = nn.utils.clip_grad_norm_(self._module.parameters(), norm)
        return float(found.full_tensor() if isinstance(found, DTensor) else found)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Put whole CPU tensors in place of sharded parameters on rank 0, so that it can export the module.

        Every rank must enter; inside, the parameters of the others are of no use.
        """
        kept: list[tuple[nn.Module, str, nn.Parameter]] = []
        for part in self._module.modules():
            for name, parameter in list(part.named_parameters(recurse=False)):
                if isinstance(parameter, DTensor):
                    tensor = parameter.full_tensor()
                    kept.append((part, name, parameter))
                    if is_main():
                        part._parameters[name] = nn.Parameter(tensor.detach().cpu(), parameter.requires_grad)
        try:
            yield
        finally:
            for part, name, parameter in kept:
                part._parameters[name] = parameter

    def _reshard(self) -> None:
        """Forget the whole parameters that FSDP2 keeps between passes: the weights may be others by the next one."""
        for part in self._step.modules():
            if isinstance(part, FSDPModule):
                part.reshard()

    def _shard(self, task: Task, train: LoopSettings, device: torch.device) -> None:
        # FSDP2 takes no other memory format.
        task.module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        whole = _tensors(task.module) if is_main() else {}
        # Sharded before the values arrive, so that no process ever holds the model but rank 0, and that on the CPU.
        task.module.to("meta")
        mesh = init_device_mesh(device.type, (world_size(),))
        # What no gradient reaches stays whole: a codebook that its task writes, weights under an adapter.
        frozen = {parameter for parameter in task.module.parameters() if not parameter.requires_grad}
        shard = functools.partial(fully_shard, mesh=mesh, ignored_params=frozen)
        # Products take bfloat16 anyway (autocast): gathered so, half the bytes travel. Gradients are summed in float32,
        # and what autocast leaves alone stays float32: what a block is given, its norms, the rest of the module.
        policy = MixedPrecisionPolicy(cast_forward_inputs=False)
        if train.precision == "bfloat16":
            policy = dataclasses.replace(policy, param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for block in task.blocks:
            for norm in (part for part in block.modules() if isinstance(part, (nn.LayerNorm, nn.GroupNorm))):
                shard(norm, reshard_after_forward=False)
            shard(block, mp_policy=policy)
        shard(self._step)
        task.module.to_empty(device=device)
        _fill(task.module, whole, mesh, device)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in [*module.named_parameters(), *module.named_buffers()]}


@torch.no_grad()
def _fill(module: nn.Module, whole: Mapping[str, Tensor], mesh: DeviceMesh, device: torch.device) -> None:
    """Give a module of shards and whole tensors the values that rank 0 holds, a tensor at a time."""
    for name, tensor in _tensors(module).items():
        value = whole[name].to(device) if is_main() else torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        if isinstance(tensor, DTensor):
            tensor.to_local().copy_(distribute_tensor(value, mesh, tensor.placements).to_local())
        else:
            distributed.broadcast(value, src=0)
            tensor.copy_(value)
