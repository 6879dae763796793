"""The restricted head in plain torch: the definition and the CPU path.

M states, D hidden, R head rows of an allowed range. ``weight_RD`` and ``bias_R`` are that range of the head; a row that
cannot be chosen has a bias of minus infinity.

Sampling is by Gumbel-max: the argmax of ``logit / temperature + g`` with ``g = -log(-log(u))`` has the softmax's
distribution (Gumbel 1954; Maddison et al. 2014). ``u`` comes from Philox 4x32-10 (Salmon et al. 2011) with the state's
own seed as the key and the row as the counter: it depends neither on blocks nor on other states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.errors import ShapeError

PHILOX_A, PHILOX_B = 0xD2511F53, 0xCD9E8D57
PHILOX_KEY_A, PHILOX_KEY_B = 0x9E3779B9, 0xBB67AE85
PHILOX_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for each state.

    Attributes:
        row_M: chosen head row within the range, int64; of equals the lowest.
        logit_M: its logit, float32.
        logsumexp_M: log of the sum of exp(logit) over the range, float32: ``logit - logsumexp`` is its log-probability
            at temperature 1.
    """

    row_M: Tensor
    logit_M: Tensor
    logsumexp_M: Tensor

    @property
    def logprob_M(self) -> Tensor:
        """Return the chosen rows' log-probabilities at temperature 1, (M,) float32."""
        return self.logit_M - self.logsumexp_M


def choose_row(
    state_MD: Tensor, weight_RD: Tensor, bias_R: Tensor, *, temperature: float = 0.0, seed_M: Tensor | None = None
) -> Choice:
    """Return the most probable head row of each state, or a sampled one.

    Args:
        state_MD: final hidden states, (M, D), float32, bfloat16 or float16.
        weight_RD: head rows, (R, D), same dtype and device.
        bias_R: their biases, (R,); minus infinity bars a row.
        temperature: 0 takes the most probable row; above, one is sampled.
        seed_M: int64, non-negative, one a state; needed to sample.

    Raises:
        ShapeError: if shapes do not fit, R is 0, or a temperature above 0 comes without seeds.

    Numerics: logits in float32 from here on; the product is in the dtype of the inputs, as torch computes it.
    """
    check(state_MD, weight_RD, bias_R, temperature, seed_M)
    logit_MR = F.linear(state_MD, weight_RD).float() + bias_R.float()
    score_MR = logit_MR
    if temperature > 0:
        assert seed_M is not None
        score_MR = logit_MR / temperature + gumbel(seed_M, weight_RD.shape[0])
    row_M = score_MR.argmax(dim=1)
    return Choice(row_M, logit_MR.gather(1, row_M[:, None])[:, 0], logit_MR.logsumexp(dim=1))


def gumbel(seed_M: Tensor, num_rows: int) -> Tensor:
    """Return Gumbel noise, (M, R) float32 on the device of the seeds."""
    bits_MR = philox(seed_M.cpu().numpy(), num_rows)
    uniform_MR = torch.from_numpy(((bits_MR >> np.uint64(8)).astype(np.float32) + np.float32(0.5)) * np.float32(2**-24))
    return -torch.log(-torch.log(uniform_MR)).to(seed_M.device)


def philox(seed_M: NDArray[np.int64], num_rows: int) -> NDArray[np.uint64]:
    """Return the first word of Philox 4x32-10, (M, R) uint64 below 2^32: key = seed, counter = (row, 0, 0, 0)."""
    seed_M = seed_M.astype(np.uint64)
    key_a, key_b = (seed_M & _LOW)[:, None], (seed_M >> np.uint64(32))[:, None]
    c0 = np.broadcast_to(np.arange(num_rows, dtype=np.uint64), (len(seed_M), num_rows))
    c1 = c2 = c3 = np.zeros_like(c0)
    for _ in range(PHILOX_ROUNDS):
        product_a, product_b = np.uint64(PHILOX_A) * c0, np.uint64(PHILOX_B) * c2
        c0, c2 = (product_b >> np.uint64(32)) ^ c1 ^ key_a, (product_a >> np.uint64(32)) ^ c3 ^ key_b
        c1, c3 = product_b & _LOW, product_a & _LOW
        key_a, key_b = (key_a + np.uint64(PHILOX_KEY_A)) & _LOW, (key_b + np.uint64(PHILOX_KEY_B)) & _LOW
    return c0


def check(state_MD: Tensor, weight_RD: Tensor, bias_R: Tensor, temperature: float, seed_M: Tensor | None) -> None:
    """Raise ShapeError unless these fit each other."""
    shapes = (tuple(state_MD.shape), tuple(weight_RD.shape), tuple(bias_R.shape))
    fits = state_MD.ndim == 2 and weight_RD.ndim == 2 and state_MD.shape[1] == weight_RD.shape[1]
    if not fits or bias_R.shape != weight_RD.shape[:1] or len(weight_RD) == 0 or state_MD.dtype != weight_RD.dtype:
        raise ShapeError(
            f"states {shapes[0]} {state_MD.dtype}, rows {shapes[1]} {weight_RD.dtype}, biases {shapes[2]}",
            where="restricted head",
            expected="(M, D), (R, D) of one dtype, and (R,), with R > 0",
        )
    if temperature < 0 or (temperature > 0 and (seed_M is None or seed_M.shape != state_MD.shape[:1])):
        raise ShapeError(
            f"temperature {temperature:g} with seeds {None if seed_M is None else tuple(seed_M.shape)}",
            where="restricted head",
            expected="temperature 0, or above with a seed a state",
        )
