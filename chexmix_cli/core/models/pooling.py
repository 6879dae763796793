"""Mean hidden states of a part of each sequence. Shape letters: B sequences, T positions, D hidden."""

from __future__ import annotations

from torch import Tensor

from chexmix_cli.core.models.decoder import Decoder


def pooled_state(decoder: Decoder, token_ids_BT: Tensor, is_pooled_BT: Tensor, layer: int) -> Tensor:
    """Return the mean of one layer's states over some positions, (B, D) float32, with its gradient.

    Args:
        decoder: blocks after ``layer`` are not run.
        token_ids_BT: token ids, int64; padding after a sequence is not seen by it.
        is_pooled_BT: the positions averaged over, at least one a row.
        layer: 0 for the token embeddings, then each block, the last one after the final norm.
    """
    states = decoder.layer_states(token_ids_BT)
    state_BTD = next(states)
    for _ in range(layer):
        state_BTD = next(states)
    weight_BT = is_pooled_BT.float()
    weight_BT = weight_BT / weight_BT.sum(dim=1, keepdim=True)
    return (state_BTD.float() * weight_BT[..., None]).sum(dim=1)
