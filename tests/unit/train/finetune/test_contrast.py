"""The contrastive loss and the ranks, against loops in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from chexmix_cli.core.train.finetune.contrast import contrastive_losses, recall_figures


def sides(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(F.normalize(torch.randn(count, 5, generator=generator), dim=1) for _ in range(2))  # type: ignore[return-value]


def test_the_loss_is_the_mean_of_both_directions_without_twins():
    image, text = sides(5)
    text[3] = text[1]
    report = torch.tensor([0, 1, 2, 1, 3])
    found = contrastive_losses(image, text, torch.tensor(0.2), report)
    cosine = (image.double() @ text.double().T / 0.2).tolist()
    for own in range(5):
        others = [other for other in range(5) if other == own or report[other] != report[own]]
        to_text = -cosine[own][own] + math.log(sum(math.exp(cosine[own][other]) for other in others))
        to_image = -cosine[own][own] + math.log(sum(math.exp(cosine[other][own]) for other in others))
        assert float(found[own]) == pytest.approx((to_text + to_image) / 2, rel=1e-5)
    assert not torch.allclose(found, contrastive_losses(image, text, torch.tensor(0.2), torch.arange(5)), atol=1e-3)


def test_autocast_does_not_round_the_cosines():
    image, text = sides(64)
    inputs = (image, text, torch.tensor(0.01), torch.arange(64))
    expected = contrastive_losses(*(value.double() if value.is_floating_point() else value for value in inputs))
    with torch.autocast("cpu", torch.bfloat16):
        found = contrastive_losses(*inputs)
        rounded = image @ text.T / 0.01
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-4)
    assert (rounded.double() - image.double() @ text.double().T / 0.01).abs().max() > 0.1, "what it would lose"


def test_a_batch_of_one_report_has_nothing_to_learn_and_no_nan():
    image, text = sides(4)
    image.requires_grad_()
    losses = contrastive_losses(image, text, torch.tensor(0.1), torch.zeros(4, dtype=torch.int64))
    losses.sum().backward()
    assert torch.equal(losses.detach(), torch.zeros(4))
    assert torch.equal(image.grad, torch.zeros_like(image))


def test_perfect_pairs_are_all_found_and_twins_are_no_mistake():
    image, _ = sides(20)
    report = torch.arange(20)
    report[7] = report[3]
    text = image.clone()
    text[7] = text[3]
    image[7] = image[3]
    figures = recall_figures(image, text, report)
    assert figures["val_recall"] == 1.0
    assert figures["val_image_to_text_mean_rank"] == figures["val_text_to_image_mean_rank"] == 1.0


def test_ranks_are_those_of_a_loop():
    image, text = sides(30, seed=2)
    report = torch.arange(30)
    for twin, of in ((9, 4), (21, 4), (12, 0)):
        report[twin], text[twin] = report[of], text[of]
    figures = recall_figures(image, text, report)
    numbers = report.unique().tolist()
    first = {number: report.tolist().index(number) for number in numbers}
    to_text = [
        1 + sum(float(image[row] @ text[first[number]]) > float(image[row] @ text[row]) for number in numbers)
        for row in range(30)
    ]
    to_image = []
    for number in numbers:
        scores = [float(text[first[number]] @ image[row]) for row in range(30)]
        best = max(score for row, score in enumerate(scores) if report[row] == number)
        to_image.append(1 + sum(score > best for row, score in enumerate(scores) if report[row] != number))
    assert figures["val_image_to_text_mean_rank"] == pytest.approx(sum(to_text) / 30)
    assert figures["val_text_to_image_mean_rank"] == pytest.approx(sum(to_image) / len(numbers))
    assert figures["val_image_to_text_r5"] == pytest.approx(sum(rank <= 5 for rank in to_text) / 30)
    recalls = [figures[f"val_{way}_r{k}"] for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    assert figures["val_recall"] == pytest.approx(sum(recalls) / 6)


def test_a_model_that_says_the_same_of_all_is_at_chance():
    same = torch.ones(9, 4) / 2
    figures = recall_figures(same, same, torch.arange(9))
    assert figures["val_image_to_text_mean_rank"] == 5.0
    assert figures["val_image_to_text_r1"] == 0.0
