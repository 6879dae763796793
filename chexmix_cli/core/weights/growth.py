"""A language model's checkpoint as the start of a decoder: text rows kept, rows for image ids and specials grown.

The embedding and the head have a row for each id. A PhiForCausalLM such as Phi-2 knows the text ids; the image codes,
``I_s``, ``I_E``, mask and padding are new. Their rows are drawn, feature by feature, from a normal distribution with
the mean and the deviation of the text rows; their head biases are the text rows' mean bias.

Why so: rows like the old ones give logits like theirs, so that at the start the new ids together get about the share of
the probability that they have of the vocabulary, and the old ones keep their logits and so their proportions among each
other. Rows of an initialiser do not: a trained head may have logits far below 0 for nearly all ids, and beside them new
rows with logits near 0 take all of the probability (tests/parity/test_grown_decoder.py shows both). Rows that are all
the mean would start every code from the same point. Source: Hewitt, "Initializing new word embeddings for pretrained
language models" (2021); the deviation of each feature stands in for his covariance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.settings.load import to_dict
from chexmix_cli.core.settings.model import DecoderSettings
from chexmix_cli.core.vocab import Vocabulary
from chexmix_cli.core.weights import files
from chexmix_cli.core.weights.formats.keys import decoder_slices
from chexmix_cli.core.weights.formats.released import is_tied, read_config
from chexmix_cli.core.weights.formats.safetensors_io import TensorSource, load_module
from chexmix_cli.core.weights.formats.sharded import find_network, foreign_decoder, open_safetensors
from chexmix_cli.core.weights.formats.wrappers import unwrap

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from chexmix_cli.core.models.decoder import Decoder

_EMBEDDING, _HEAD, _HEAD_BIAS = "model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"


def holds_language_model(path: Path) -> bool:
    """Return whether a directory has a decoder's files in transformers' layout, by name, and no image tokenizer."""
    has_decoder = find_network(path, files.MODEL_FILE) is not None or foreign_decoder(path) is not None
    has_vqgan = find_network(path, files.VQGAN_FILE) is not None or (path / files.VQGAN_CHECKPOINT).is_file()
    return (path / files.CONFIG_FILE).is_file() and has_decoder and not has_vqgan


def load_grown_decoder(
    directory: Path, settings: DecoderSettings, vocabulary: Vocabulary, generator: Generator
) -> Decoder:
    """Return the decoder of a PhiForCausalLM directory, grown to ``vocabulary``: float32, on the CPU, in eval mode.

    Args:
        directory: ``config.json`` with ``model.safetensors``, or several files and their index; the head may be tied
            to the embedding.
        settings: of the decoder in training; all but its rows must be the checkpoint's.
        vocabulary: whose text ids are the checkpoint's.
        generator: draws the new rows.

    Raises:
        WeightsError: if files are missing or damaged, or the checkpoint is of another shape or has fewer text rows.
    """
    import torch

    from chexmix_cli.core.models.decoder import Decoder

    config = directory / files.CONFIG_FILE
    found = read_config(config, allow_tied=True)
    # What a training may choose: rows are grown, dropout is its own, and frequencies are float32 unless it says so.
    wanted = dataclasses.replace(
        found,
        num_rows=settings.num_rows,
        residual_dropout=settings.residual_dropout,
        rope_dtype=settings.rope_dtype,
    )
    if wanted != settings:
        differing = [key for key, value in to_dict(settings).items() if to_dict(wanted)[key] != value]
        raise WeightsError(
            f"its decoder differs in {', '.join(differing)}",
            where=str(config),
            expected="the decoder in training",
            hint="choose the --preset whose model has this shape",
        )
    specials = max(vocabulary.begin_image, vocabulary.end_image) + 1
    if found.num_rows < min(vocabulary.num_text, specials):
        raise WeightsError(
            f"vocab_size is {found.num_rows}", where=str(config), expected=f"the {vocabulary.num_text} text ids"
        )
    source = _Grown(_open(directory, found), vocabulary, found.num_rows, is_tied(config), generator)
    return load_module(
        lambda: Decoder(settings), lambda _: decoder_slices(settings), source, device="cpu", dtype=torch.float32
    )


class _Grown:
    """A checkpoint's tensors with a row for every id of a larger vocabulary."""

    def __init__(
        self, source: TensorSource, vocabulary: Vocabulary, num_rows: int, tied: bool, generator: Generator
    ) -> None:
        self.where, self._source, self._vocabulary, self._generator = source.where, source, vocabulary, generator
        # Ids of specials are reserved in the old vocabulary, but no text has taught it what they mean.
        specials = {vocabulary.begin_image, vocabulary.end_image, vocabulary.mask, vocabulary.pad}
        self._kept = [row for row in range(min(num_rows, vocabulary.num_text)) if row not in specials]
        self._from = {_HEAD: _EMBEDDING} if tied else {}
        shapes, dtypes = dict(source.shapes), dict(source.dtypes)
        if tied:
            shapes[_HEAD], dtypes[_HEAD] = shapes[_EMBEDDING], dtypes[_EMBEDDING]
        for key in (_EMBEDDING, _HEAD, _HEAD_BIAS):
            if key in shapes and shapes[key][0] == num_rows:
                shapes[key] = (vocabulary.num_rows, *shapes[key][1:])
        self.shapes: Mapping[str, tuple[int, ...]] = shapes
        self.dtypes: Mapping[str, str] = dtypes

    def get(self, key: str) -> Tensor:
        tensor = self._source.get(self._from.get(key, key))
        return self._grow(tensor) if key in (_EMBEDDING, _HEAD, _HEAD_BIAS) else tensor

    def release(self) -> None:
        self._source.release()

    def _grow(self, tensor: Tensor) -> Tensor:
        import torch

        kept = tensor[torch.tensor(self._kept)].float()
        grown = kept.mean(dim=0).expand(self._vocabulary.num_rows, *kept.shape[1:]).clone()
        if kept.ndim == 2:
            grown += kept.std(dim=0) * torch.randn(grown.shape, generator=self._generator)
        grown[torch.tensor(self._kept)] = kept
        return grown


def _open(directory: Path, settings: DecoderSettings) -> TensorSource:
    network = find_network(directory, files.MODEL_FILE)
    if network is None:
        problem = foreign_decoder(directory)
        expected = f"{files.MODEL_FILE}, or its index"
        raise problem or WeightsError("has no weights", where=str(directory), expected=expected)
    return unwrap(open_safetensors(network), decoder_slices(settings))
