"""How probable token sequences are, without their logits ever being in memory at once.

Shape letters: B sequences, T positions, D hidden, V joint vocabulary, C positions of one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chexmix_cli.core.errors import VocabularyError
from chexmix_cli.core.kernels.backend import uses_triton
from chexmix_cli.core.kernels.restricted_head.op import row_logprob
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.linear import Linear
from chexmix_cli.core.runtime import memory_errors

#: Positions whose logits exist together: (chunk x 58562) float32 is 30 MiB for the released vocabulary.
_CHUNK = 128


@torch.inference_mode()
def token_logprobs(decoder: Decoder, sequences: Sequence[Sequence[int]], *, pad: int) -> list[Tensor]:
    """Return log p(next token) along each sequence, over the whole vocabulary.

    Args:
        decoder: in eval mode.
        sequences: token ids of any lengths, at least two each, read in one batch.
        pad: id that fills short rows at their ends; it has no influence.

    Returns:
        For each sequence of n tokens, n - 1 values, float32 on the CPU: value i is of token i + 1 given those up to i.

    Raises:
        ShapeError: if a sequence is longer than the decoder's positions.
        VocabularyError: if a sequence is shorter than two tokens or holds an id without a row.
        MachineError: if memory runs out.
    """
    for index, sequence in enumerate(sequences):
        if len(sequence) < 2 or min(sequence) < 0 or max(sequence) >= decoder.settings.num_rows:
            raise VocabularyError(
                f"{len(sequence)} token ids",
                where=f"sequence {index}",
                expected="two or more ids the decoder has rows for",
            )
    if not sequences:
        return []
    longest = max(len(sequence) for sequence in sequences)
    padded = [[*sequence, *[pad] * (longest - len(sequence))] for sequence in sequences]
    token_ids_BT = torch.tensor(padded, device=decoder.embedding.weight.device)
    with memory_errors("scoring sequences", "score fewer sequences together"):
        # Padding comes last and attention is causal: no position before it can see it.
        state_BTD = decoder(token_ids_BT)
        rows = [
            target_logprobs(decoder, state_TD[: len(sequence) - 1], token_ids_T[1 : len(sequence)])
            for sequence, state_TD, token_ids_T in zip(sequences, state_BTD, token_ids_BT, strict=True)
        ]
    return [row.cpu() for row in rows]


def target_logprobs(decoder: Decoder, state_TD: Tensor, target_T: Tensor) -> Tensor:
    """Return log p of the token that follows each state, (T,) float32.

    Without kernels, or of a quantised head, which they do not read, a chunk of logits at a time.
    """
    head = decoder.head
    if isinstance(head, Linear) and uses_triton(state_TD.device):
        return row_logprob(state_TD, head.weight, head.bias, target_T)
    parts = []
    for start in range(0, len(target_T), _CHUNK):
        logits_CV = decoder.logits(state_TD[start : start + _CHUNK]).float()
        target_C1 = target_T[start : start + _CHUNK, None]
        parts.append(logits_CV.gather(1, target_C1)[:, 0] - logits_CV.logsumexp(dim=1))
    return torch.cat(parts)
