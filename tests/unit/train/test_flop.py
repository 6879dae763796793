"""Operations counted from shapes: against torch's own counter, and against masks written out."""

from __future__ import annotations

import dataclasses

import pytest
import small_runs
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from chexmix_cli.core.kernels.linear_cross_entropy.chunked import linear_cross_entropy
from chexmix_cli.core.models.attention import AttentionPlan, ContextPart
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.finetuning import LoraSettings
from chexmix_cli.core.train.finetune.trained import set_trained
from chexmix_cli.core.train.flop import decoder_flop, seen_pairs
from chexmix_cli.core.train.image_tokenizer.task import TokenizerTask

CONTEXTS = [
    (ContextPart(7),),
    (ContextPart(1), ContextPart(5, sees_itself=True), ContextPart(4)),
    (ContextPart(3, sees_itself=True),),
]


def test_pairs_are_those_of_the_mask():
    assert seen_pairs(CONTEXTS) == int(AttentionPlan(CONTEXTS).dense_mask().sum())


def all_parameters(decoder):
    pass


def adapters(decoder):
    set_trained(decoder, "lora", LoraSettings(), torch.Generator().manual_seed(0), layer=2)


def last_block(decoder):
    decoder.requires_grad_(False)
    decoder.blocks[1].requires_grad_(True)


def head_alone(decoder):
    decoder.requires_grad_(False)
    decoder.head.requires_grad_(True)


@pytest.mark.parametrize("trained", [all_parameters, adapters, last_block, head_alone])
def test_they_are_what_torch_counts_of_a_step(trained):
    """In one context that sees all of itself: torch counts masked pairs too."""
    decoder, num_tokens, num_targets = Decoder(small_runs.model_settings().decoder), 40, 30
    trained(decoder)
    plan = AttentionPlan([(ContextPart(num_tokens, sees_itself=True),)])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        state_MD = decoder(torch.randint(0, 300, (1, num_tokens)), attend_BTS=plan)[0, :num_targets]
        target_M = torch.randint(0, 300, (num_targets,))
        linear_cross_entropy(state_MD, decoder.head.weight, decoder.head.bias, target_M)[0].backward()
    flop = decoder_flop(decoder)
    found = flop.per_token * num_tokens + flop.per_pair * num_tokens**2 + flop.per_target * num_targets
    # Torch counts no product in place, which the gradient of the head's weight is; its bias' is one with a column.
    learns = decoder.head.weight.requires_grad
    not_counted = 2 * num_targets * (decoder.head.weight.numel() - len(decoder.head.bias)) if learns else 0
    assert found == pytest.approx(counter.get_total_flops() + not_counted, rel=0.02)


def test_blocks_that_are_not_run_take_nothing():
    decoder = Decoder(small_runs.model_settings().decoder)
    whole, half = decoder_flop(decoder), decoder_flop(decoder, layer=1)
    assert (half.per_token, half.per_pair) == (whole.per_token // 2, whole.per_pair // 2)


@pytest.mark.parametrize("adversarial", [0.0, 0.1])
def test_an_image_tokenizers_step_is_what_torch_counts(build, tmp_path, adversarial):
    made = build("tokenizer", tmp_path).task
    losses = dataclasses.replace(made._settings.reconstruction, adversarial=adversarial, discriminator_channels=8)
    settings = dataclasses.replace(made._settings, reconstruction=losses)
    task = TokenizerTask(settings, made.vqgan, made.examples._films, made._val, made.examples._ids)
    assert (task.discriminator is None) == (adversarial == 0)
    batch = task.examples.prepare([0, 1], torch.Generator().manual_seed(0))
    task.loss(batch, 0)  # seeds the codebook
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        task.loss(batch, 0).total.backward()
    work = task.work(batch)
    assert work.tokens == 2 * 16
    # The codebook's distances and the first convolution's gradient of its input, which nobody needs, are the rest.
    assert work.flop == pytest.approx(counter.get_total_flops(), rel=0.05)
