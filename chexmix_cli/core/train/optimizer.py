"""AdamW with decay groups, and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn

from chexmix_cli.core.settings.training import OptimizerSettings


def build_optimizer(module: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters; only matrices and kernels of linear and convolution layers decay.

    A part of the module with ``optimizer_options`` (a mapping of AdamW's own names) is a group of its own with those;
    the learning rate is everyone's.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    apart = [part for part in module.modules() if hasattr(part, "optimizer_options")]
    elsewhere = {layer for part in apart for layer in part.modules()}
    for layer in module.modules():
        if layer in elsewhere:
            continue
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter.requires_grad:
                is_weight = name == "weight" and isinstance(layer, (nn.Linear, nn.Conv2d))
                (decayed if is_weight else plain).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    groups += [{"params": list(part.parameters()), **cast(Any, part).optimizer_options} for part in apart]
    # On a GPU one kernel for all parameters; on a CPU the plain form's bits stay what they were.
    fused = next(module.parameters()).device.type == "cuda"
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=fused or None)


def learning_rate(settings: OptimizerSettings, step: int, steps: int) -> float:
    """Return the rate of ``step`` (0-based) of ``steps``: linear warm-up, then the schedule down to the minimum.

    ``cosine`` falls from the end of the warm-up on. ``wsd`` (warm-up, stable, decay; Hu et al. 2024, arXiv:2404.06395)
    stays, and falls linearly over the last ``decay_share`` of all steps. Both would reach the minimum with the step
    behind the last, so that the last one learns where the minimum is 0.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    span = settings.learning_rate - settings.min_learning_rate
    if settings.schedule == "wsd":
        num_decayed = max(1, round(settings.decay_share * steps))
        return settings.min_learning_rate + span * min(1.0, (steps - step) / num_decayed)
    progress = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    return settings.min_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
