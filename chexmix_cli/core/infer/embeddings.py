"""Embeddings of images: each layer's hidden states, averaged over the image positions, or over the parts of a grid.

Shape letters: B images, P image positions, T sequence, H hidden, L layers asked for, D numbers of an embedding: H, or
H for each part of a grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.runtime import memory_errors
from chexmix_cli.core.vocab import Vocabulary


@torch.inference_mode()
def image_embeddings(
    decoder: Decoder,
    vocabulary: Vocabulary,
    codes: Sequence[Sequence[int]],
    *,
    layers: Sequence[int] | None = None,
    grid: int = 1,
    is_masked_BP: NDArray[np.bool_] | None = None,
    on_final: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Return the embeddings of images, (B, L, D) float32 on the CPU.

    Args:
        decoder: in eval mode.
        vocabulary: the model's ids.
        codes: the codes of each image, raster order; read as ``I_s image I_E``, all in one batch.
        layers: 0 for the token embeddings, then each block, the last one after the final norm; default: all
            ``num_layers + 1``. Blocks after the last one asked for are not run.
        grid: parts of the image along a side: an embedding is the means of ``grid * grid`` squares one after the other,
            in raster order. The mean over all positions (1, the paper's) forgets where something was seen.
        is_masked_BP: image positions whose token becomes the mask token; it counts in the mean like any other.
        on_final: called with the final states of the sequences, (B, T, H); all blocks are run for it.

    Raises:
        VocabularyError: if an image has not ``tokens_per_image`` codes, or one out of range.
        SettingsError: if there is no such layer, or the image cannot be divided so.
        MachineError: if memory runs out.
    """
    wanted = wanted_layers(decoder, layers)
    require_grid(grid, vocabulary)
    if not codes:
        return torch.empty(0, len(wanted), grid * grid * decoder.settings.hidden_size)
    sequences = [vocabulary.image_sequence([int(code) for code in image]) for image in codes]
    token_ids_BT = torch.tensor(sequences, device=decoder.embedding.weight.device)
    image = slice(1, 1 + vocabulary.tokens_per_image)
    if is_masked_BP is not None:
        token_ids_BT[:, image][torch.from_numpy(is_masked_BP).to(token_ids_BT.device)] = vocabulary.mask
    means: dict[int, Tensor] = {}
    last = max(wanted) if on_final is None else decoder.settings.num_layers
    with memory_errors("embedding images", "--set input.batch_size=1"):
        for layer, state_BTH in enumerate(decoder.layer_states(token_ids_BT)):
            if layer in wanted:
                means[layer] = image_means(state_BTH, vocabulary, grid).cpu()
            if layer == last:
                break
        if on_final is not None:
            on_final(state_BTH)
    return torch.stack([means[layer] for layer in wanted], dim=1)


def embed_codes(
    decoder: Decoder,
    vocabulary: Vocabulary,
    codes_NP: NDArray[np.integer[Any]],
    *,
    layers: Sequence[int],
    grid: int = 1,
    batch_size: int,
    is_masked_NP: NDArray[np.bool_] | None = None,
    progress: Callable[[int, int | None], None],
) -> dict[int, NDArray[np.float32]]:
    """Return the embeddings of many images, layer to (N, D); arguments and errors as :func:`image_embeddings`."""
    parts = [np.empty((0, len(layers), grid * grid * decoder.settings.hidden_size), np.float32)]
    for start in range(0, len(codes_NP), batch_size):
        part = slice(start, start + batch_size)
        is_masked_BP = None if is_masked_NP is None else is_masked_NP[part]
        states_BLD = image_embeddings(
            decoder, vocabulary, codes_NP[part].tolist(), layers=layers, grid=grid, is_masked_BP=is_masked_BP
        )
        parts.append(states_BLD.numpy())
        progress(min(start + batch_size, len(codes_NP)), len(codes_NP))
    states_NLD = np.concatenate(parts)
    return {layer: states_NLD[:, place] for place, layer in enumerate(layers)}


def image_means(state_BTH: Tensor, vocabulary: Vocabulary, grid: int) -> Tensor:
    """Return the embeddings of images whose sequences begin with ``I_s`` and their codes, (B, grid * grid * H) float32.

    Args:
        state_BTH: one layer's hidden states.
        vocabulary: the model's ids.
        grid: parts along a side; 1 is the mean over the whole image.
    """
    state_BPH = state_BTH[:, 1 : 1 + vocabulary.tokens_per_image]
    if grid == 1:
        return state_BPH.mean(dim=1, dtype=torch.float32)
    side = vocabulary.grid_size
    squares = state_BPH.reshape(-1, grid, side // grid, grid, side // grid, state_BPH.shape[2])
    return squares.mean(dim=(2, 4), dtype=torch.float32).flatten(1)


def require_grid(grid: int, vocabulary: Vocabulary, where: str = "grid") -> None:
    """Refuse a grid that does not divide the image's tokens along a side with SettingsError."""
    side = vocabulary.grid_size
    if grid < 1 or side % grid:
        raise SettingsError(
            f"is {grid}", where=where, expected=f"a number that divides {side}, its tokens along a side"
        )


def wanted_layers(decoder: Decoder, layers: Sequence[int] | None) -> list[int]:
    """Return the layers asked for: all if None; SettingsError if there is no such layer."""
    num_states = decoder.settings.num_layers + 1
    wanted = list(range(num_states)) if layers is None else list(layers)
    if not wanted or not all(0 <= layer < num_states for layer in wanted):
        raise SettingsError(f"layers {wanted}", where="layers", expected=f"some of 0..{num_states - 1}")
    return wanted


def values_read(decoder: Decoder, vqgan: Vqgan) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that hidden states of films follow from: encoder and codebook, and the decoder but its head."""
    for name, tensor in decoder.state_dict().items():
        if not name.startswith("head."):
            yield f"decoder.{name}", tensor
    for name, tensor in vqgan.state_dict().items():
        if name.startswith(("encoder.", "quantize.", "quant_conv.")):
            yield f"vqgan.{name}", tensor
