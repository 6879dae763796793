"""Embeddings of images: each layer's hidden states, averaged over the image positions, or over the parts of a grid.

Shape letters: B images, P image positions, T sequence, H hidden, L layers asked for, D numbers of an embedding: H, or
H for each part of a grid.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.infer.decoding.prefixes import NO_PREFIXES, Prefix, PrefixStore
from chexmix_cli.core.models.decoder import Decoder, OnLayer
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
    prefixes: PrefixStore = NO_PREFIXES,
) -> Tensor:
    """Return the embeddings of images, (B, L, D) float32 on the CPU.

    Args:
        decoder: in eval mode.
        vocabulary: the model's ids.
        codes: the codes of each image, raster order, all in one batch.
        layers: 0 for the token embeddings, then each block, the last one after the final norm; default: all
            ``num_layers + 1``. Blocks after the last one asked for are not run.
        grid: parts of the image along a side: an embedding is the means of ``grid * grid`` squares one after the other,
            in raster order. The mean over all positions (1, the paper's) forgets where something was seen.
        is_masked_BP: image positions whose token becomes the mask token; it counts in the mean like any other.
        prefixes: images read before, which are not read again.

    Raises:
        VocabularyError: if an image has not ``tokens_per_image`` codes, or one out of range.
        SettingsError: if there is no such layer, or the image cannot be divided so.
        MachineError: if memory runs out.
    """
    wanted = wanted_layers(decoder, layers)
    require_grid(grid, vocabulary)
    if not codes:
        return torch.empty(0, len(wanted), grid * grid * decoder.settings.hidden_size)
    means: dict[int, Tensor] = {}

    def take(layer: int, state_BTH: Tensor) -> None:
        means[layer] = image_means(state_BTH, vocabulary, grid).cpu()

    read_images(decoder, image_prompts(vocabulary, codes, is_masked_BP), set(wanted), take, prefixes)
    return torch.stack([means[layer] for layer in wanted], dim=1)


@torch.inference_mode()
def read_images(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    layers: Collection[int],
    take: OnLayer,
    prefixes: PrefixStore = NO_PREFIXES,
) -> None:
    """Hand over the hidden states of images, layer by layer, whether they are read now or were before.

    Those that are read to the last block are left in the store; blocks after the last layer that is wanted are not run.

    Args:
        decoder: in eval mode.
        prompts: ``I_s image I_E T_s`` of each image, one at least.
        layers: that are wanted: 0 the token embeddings, then each block, the last one after the final norm.
        take: called with each of them, ascending, and the states of ``I_s`` and the image, (B, 1 + P, H).
        prefixes: images read before.

    Raises:
        MachineError: if memory runs out.
    """
    keys, last, num_seen = [tuple(prompt) for prompt in prompts], max(layers), len(prompts[0]) - 2
    known = {key: prefixes.find(decoder, key, layers) for key in dict.fromkeys(keys)}
    new = [key for key, prefix in known.items() if prefix is None]
    place = {key: row for row, key in enumerate(new)}

    def row(layer: int, key: tuple[int, ...], state_BTH: Tensor | None) -> Tensor:
        prefix = known[key]
        if prefix is not None:
            return prefix.states[layer]
        assert state_BTH is not None, "what is not known is read"
        return state_BTH[place[key]]

    def give(layer: int, state_BTH: Tensor | None) -> None:
        if state_BTH is not None and new == keys:
            take(layer, state_BTH[:, :num_seen])
        else:
            take(layer, torch.stack([row(layer, key, state_BTH)[:num_seen] for key in keys]))

    with memory_errors("embedding images", "--set input.batch_size=1"):
        if new:
            _read_new(decoder, new, layers, give, prefixes if last == decoder.settings.num_layers else NO_PREFIXES)
        else:
            for layer in sorted(layers):
                give(layer, None)


def _read_new(
    decoder: Decoder, prompts: list[tuple[int, ...]], layers: Collection[int], give: OnLayer, prefixes: PrefixStore
) -> None:
    """Read images up to the last layer that is wanted; leave them in the store, if it keeps any."""
    is_kept, states = prefixes.num_bytes > 0, {}
    cache = decoder.new_cache(len(prompts), len(prompts[0])) if is_kept else None
    # ``T_s`` is read for those who will go on behind it.
    read = prompts if is_kept else [prompt[:-1] for prompt in prompts]
    read_BT = torch.tensor(read, device=decoder.embedding.weight.device)
    last = max(layers)
    for layer, state_BTH in enumerate(decoder.layer_states(read_BT, cache=cache)):
        if layer in layers:
            give(layer, state_BTH)
            if is_kept:
                states[layer] = state_BTH
        if layer == last:
            break
    if cache is not None:
        for row, prompt in enumerate(prompts):
            own = {layer: found_BTH[row] for layer, found_BTH in states.items()}
            prefixes.keep(decoder, prompt, Prefix.of_row(cache, row, len(prompt), state_BTH[row, -1], own))


def image_prompts(
    vocabulary: Vocabulary, codes: Sequence[Sequence[int]], is_masked_BP: NDArray[np.bool_] | None = None
) -> list[list[int]]:
    """Return ``I_s image I_E T_s`` of images by their codes, with the mask token where it stands for a code.

    Raises:
        VocabularyError: if an image has not ``tokens_per_image`` codes, or one out of range.
    """
    prompts = [vocabulary.report_prompt([int(code) for code in image]) for image in codes]
    if is_masked_BP is not None:
        for prompt, is_masked_P in zip(prompts, is_masked_BP, strict=True):
            for position in np.flatnonzero(is_masked_P):
                prompt[1 + position] = vocabulary.mask
    return prompts


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
