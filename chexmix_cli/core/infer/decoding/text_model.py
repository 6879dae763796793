"""A plain text model of the Phi shape in Hugging Face layout (``config.json``, safetensors, ``tokenizer.json``).

It runs in the same decoder and engine as the reports.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.infer.decoding.constraints import Constraint
from chexmix_cli.core.infer.decoding.engine import Engine
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.weights.files import MODEL_FILE
from chexmix_cli.core.weights.fingerprint import file_sha256
from chexmix_cli.core.weights.formats.keys import decoder_slices
from chexmix_cli.core.weights.formats.released import read_config
from chexmix_cli.core.weights.formats.safetensors_io import load_module
from chexmix_cli.core.weights.formats.sharded import find_network, foreign_decoder, network_files, open_safetensors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_END = "<|endoftext|>"


class TextModel:
    """Answers prompts, greedily.

    Args:
        decoder: on its device, in its dtype.
        tokenizer: text to ids and back.
        end: id that ends a turn.
        name: of the folder.
        fingerprint: 12 digits of a sha256 over its files.
    """

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer, *, end: int, name: str, fingerprint: str) -> None:
        self.name, self.fingerprint, self.end = name, fingerprint, end
        self._tokenizer = tokenizer
        constraint = Constraint(slice(0, decoder.settings.num_rows), denied=(), ends=(end,))
        self._engine = Engine(decoder, pad=end, constraints={"all": constraint})

    @classmethod
    def load(cls, path: Path, device: torch.device, dtype: torch.dtype) -> Self:
        """Return the model of a folder.

        Raises:
            WeightsError: if a part is missing, of another kind, or does not fit the others.
        """
        from tokenizers import Tokenizer

        settings = read_config(path / "config.json")
        network = find_network(path, MODEL_FILE)
        if network is None:
            expected = f"{MODEL_FILE}, or its index"
            raise foreign_decoder(path) or WeightsError("has no weights", where=str(path), expected=expected)
        decoder = load_module(
            lambda: Decoder(settings),
            lambda _: decoder_slices(settings),
            open_safetensors(network),
            device=device,
            dtype=dtype,
        )
        try:
            tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        except Exception as error:  # the package raises bare Exception for every kind of bad file
            raise WeightsError(f"no readable tokenizer.json ({error})", where=str(path)) from None
        end = _end_id(path, tokenizer)
        used = tokenizer.get_vocab_size(with_added_tokens=True)
        if not 0 <= end < settings.num_rows or used > settings.num_rows:
            raise WeightsError(
                f"the tokenizer uses {used} of {settings.num_rows} rows and ends with {end}",
                where=str(path),
                expected="a row for every token",
            )
        digests = [file_sha256(file) for file in network_files(network)]
        digest = hashlib.sha256(" ".join(digests).encode()).hexdigest()[:12]
        return cls(decoder, tokenizer, end=end, name=path.resolve().name, fingerprint=digest)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; what the tokenizer adds of its own is left out."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def answer(self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[str]:
        """Return what follows each prompt up to the end of the turn, decoded greedily in one batch.

        A prompt that leaves no position gives an empty answer.
        """
        settings = DecodeSettings(vocabulary="all", max_new_tokens=max_new_tokens, min_new_tokens=0)
        found = self._engine.generate(prompts, settings)
        ids = [[token_id for token_id in one.token_ids if token_id != self.end] for one in found]
        return [self._tokenizer.decode(one, skip_special_tokens=True) for one in ids]


def _end_id(path: Path, tokenizer: Any) -> int:
    """Return the id that ends a turn: what ``config.json`` says, else the tokenizer's end of text."""
    value = json.loads((path / "config.json").read_text(encoding="utf-8")).get("eos_token_id")
    found = value[0] if isinstance(value, list) and value else value
    if not isinstance(found, int):
        found = tokenizer.token_to_id(_END)
    if not isinstance(found, int):
        raise WeightsError(f"no id ends a turn (eos_token_id, {_END})", where=str(path))
    return found
