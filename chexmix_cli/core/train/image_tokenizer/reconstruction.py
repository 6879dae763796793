"""What the image tokenizer's rebuilt pictures are judged by, element by element. No network trained on photographs.

Shape letters: B images, C channels, Y X rows and columns. Every function takes rebuilt and original pictures
(B, C, Y, X) and returns terms whose mean is the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def edge_difference(rebuilt: Tensor, original: Tensor) -> Tensor:
    """Return the absolute difference of neighbouring-pixel differences, (B, C, Y-1, X-1), rows plus columns."""
    error = rebuilt - original
    rows = (error[..., 1:, :-1] - error[..., :-1, :-1]).abs()
    columns = (error[..., :-1, 1:] - error[..., :-1, :-1]).abs()
    return rows + columns


def focal_frequency(rebuilt: Tensor, original: Tensor) -> Tensor:
    """Return squared errors of the spectrum, weighted by how wrong each frequency is, (B, C, Y, X).

    Source: Jiang et al. 2021 (focal frequency loss) with exponent 1 over the whole picture: the weight of a frequency
    is its error as a share of the picture's largest, and carries no gradient. Unweighted, the mean would be that of
    the squared pixel error (Parseval); the weight turns it towards the frequencies the network leaves out.
    """
    error: Tensor = torch.fft.fft2(rebuilt - original, norm="ortho")
    square = error.real.square() + error.imag.square()
    size = square.detach().sqrt()
    largest = size.amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)
    return size / largest * square


def hinge_generator(fake_scores: Tensor) -> Tensor:
    """Return what the rebuilt pictures' patches lack to look real: the negated scores."""
    return -fake_scores


def hinge_discriminator(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Return the discriminator's hinge terms: real patches should score above 1, rebuilt ones below -1."""
    return 0.5 * (F.relu(1 - real_scores) + F.relu(1 + fake_scores))
