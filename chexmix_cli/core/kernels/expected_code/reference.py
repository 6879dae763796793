"""The expected code vector in plain torch: the definition. M states, C in a chunk, D hidden, K codes, E code size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.errors import ShapeError

#: States whose logits exist together: (chunk x 8192) float32 is 16 MiB for the released codebook.
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Expected:
    """What a model expects at each state.

    Attributes:
        code_M: most probable code, int64; of equals the lowest.
        prob_M: its probability at temperature 1, float32.
        vector_ME: mean of all code vectors by their probabilities at the temperature, float32.
    """

    code_M: Tensor
    prob_M: Tensor
    vector_ME: Tensor


@torch.no_grad()
def expected_code(
    state_MD: Tensor, weight_KD: Tensor, bias_K: Tensor, codebook_KE: Tensor, *, temperature: float = 1.0
) -> Expected:
    """Return what a model expects at each state. It has no gradient.

    Args:
        state_MD: final hidden states, (M, D), float32, bfloat16 or float16.
        weight_KD, bias_K: the head's rows of the codes, same dtype and device.
        codebook_KE: the codes' vectors, float32.
        temperature: divides the logits of the mean; above 0.

    Raises:
        ShapeError: if shapes or dtypes do not fit, or the temperature is not above 0.

    Numerics: logits are those of ``F.linear`` in the dtype of the inputs, and float32 from there on.
    """
    check(state_MD, weight_KD, bias_K, codebook_KE, temperature)
    parts = []
    for start in range(0, max(1, len(state_MD)), _CHUNK):
        logit_CK = F.linear(state_MD[start : start + _CHUNK], weight_KD, bias_K).float()
        code_C = logit_CK.argmax(dim=1)
        prob_C = logit_CK.softmax(dim=1).gather(1, code_C[:, None])[:, 0]
        parts.append((code_C, prob_C, (logit_CK / temperature).softmax(dim=1) @ codebook_KE))
    return Expected(*(torch.cat(part) for part in zip(*parts, strict=True)))


def check(state_MD: Tensor, weight_KD: Tensor, bias_K: Tensor, codebook_KE: Tensor, temperature: float) -> None:
    """Raise ShapeError unless these fit each other."""
    all_ranks = (state_MD.ndim, weight_KD.ndim, bias_K.ndim, codebook_KE.ndim) == (2, 2, 1, 2)
    fits = all_ranks and state_MD.shape[1] == weight_KD.shape[1] and len(weight_KD) > 0
    fits = fits and len(weight_KD) == len(bias_K) == len(codebook_KE)
    if not fits or not state_MD.dtype == weight_KD.dtype == bias_K.dtype or codebook_KE.dtype != torch.float32:
        given = (state_MD, weight_KD, bias_K, codebook_KE)
        raise ShapeError(
            ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in given),
            where="expected code",
            expected="(M, D), (K, D) and (K,) of one dtype, and (K, E) float32, with K > 0",
        )
    if temperature <= 0:
        raise ShapeError(f"temperature {temperature:g}", where="expected code", expected="above 0")
