"""The text tokenizer: byte-level BPE whose ids are the text part of a model's vocabulary.

Loads ``tokenizer.json``, or the released layout ``vocab.json`` + ``merges.txt`` + ``added_tokens.json`` (as CodeGen's),
and holds it against the vocabulary of the model. Text in, ordinary ids out: a special string inside a report, such as
``<|img|>``, is encoded as the characters it is made of and never opens an image. ``tokenizer_training.py`` trains one.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.text.row_names import without_rows
from chexmix_cli.core.vocab import Vocabulary

#: Far above what a vocabulary has; the package ``tokenizers`` makes a table up to the greatest id.
_MOST_IDS = 1 << 22
END_OF_TEXT, BEGIN_IMAGE, END_IMAGE = "<|endoftext|>", "<|img|>", "<|/img|>"


class TextTokenizer:
    """Encodes report text to token ids and back, exactly, for one vocabulary.

    Args:
        tokenizer: a ``tokenizers.Tokenizer`` of the byte-level BPE kind.
        vocabulary: the model's ids; specials and size must agree.
        where: what messages name as the source.

    Raises:
        WeightsError: if the tokenizer is of another kind or its ids are not the vocabulary's.
    """

    def __init__(self, tokenizer: Any, vocabulary: Vocabulary, *, where: str = "text tokenizer") -> None:
        self.vocabulary = vocabulary
        self._tokenizer = _plain_specials(tokenizer, where)
        tokens: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        _check_ids(tokens, vocabulary, where)
        added = self._tokenizer.get_added_tokens_decoder()
        self._bytes: dict[int, bytes] = {}
        for token, token_id in tokens.items():
            if token_id not in added:
                self._bytes[token_id] = bytes(_byte_of()[character] for character in token)
            elif not added[token_id].special:
                self._bytes[token_id] = token.encode()

    @classmethod
    def load(cls, directory: Path, vocabulary: Vocabulary) -> Self | None:
        """Return the tokenizer of a weights directory, or None if it has none.

        Raises:
            WeightsError: if its files are incomplete or damaged, or disagree with ``vocabulary``.
        """
        backend, single = read_backend(directory), directory / "tokenizer.json"
        if backend is None:
            return None
        return cls(backend, vocabulary, where=str(single if single.is_file() else directory))

    def encode(self, text: str) -> list[int]:
        """Return the ordinary text ids of ``text``; special strings in it are plain characters."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of ids; special ids and padding rows stand for nothing, broken UTF-8 shows as U+FFFD.

        Raises:
            VocabularyError: if an id is no text id.
        """
        stream = self.stream()
        return "".join([stream.push(token_id) for token_id in token_ids]) + stream.finish()

    def stream(self) -> TextStream:
        """Return a decoder for ids that arrive one by one."""
        return TextStream(self)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes one id stands for: none for a special id or a padding row.

        Raises:
            VocabularyError: if it is no text id.
        """
        return self._bytes.get(self.vocabulary.check_text(token_id), b"")


def read_backend(directory: Path) -> Any | None:
    """Return the ``tokenizers.Tokenizer`` of a directory as its files have it, or None if it has none.

    Names that an export gave to ids of no text (``row_names``) are left out.

    Raises:
        WeightsError: if the files are incomplete or damaged.
    """
    single = directory / "tokenizer.json"
    if single.is_file():
        return _read_json_tokenizer(single)
    parts = [directory / name for name in ("vocab.json", "merges.txt", "added_tokens.json")]
    found = [part for part in parts if part.is_file()]
    if not found:
        return None
    if len(found) < len(parts):
        missing = ", ".join(part.name for part in parts if part not in found)
        raise WeightsError(
            f"{missing} is missing", where=str(directory), expected="vocab.json, merges.txt and added_tokens.json"
        )
    return _read_parts(*parts)


class TextStream:
    """Turns ids into text as they come; a character is given out once all of its bytes are there."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Return the text that this id completes, often none inside a multi-byte character."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """Return what is left: U+FFFD if the ids ended inside a character."""
        return self._decoder.decode(b"", final=True)


@cache
def _byte_of() -> dict[str, int]:
    """Return GPT-2's table of stand-in characters: printable Latin-1 for itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def _bound_ids(ids: Iterable[Any]) -> None:
    """Raise ValueError on an id for which the package would make a table that no memory holds, and end the process."""
    most = max((value for value in ids if isinstance(value, int)), default=0)
    if most > _MOST_IDS:
        raise ValueError(f"an id of {most}; expected at most {_MOST_IDS}")


def _refuse_word_pieces(model: Mapping[str, Any]) -> None:
    """Raise ValueError on marks that byte-level BPE has not: merges without them end in a panic of the package."""
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise ValueError(f"{name} is {model[name]!r}; expected none, as byte-level BPE has it")


def _read_json_tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text)
        _bound_ids([*values["model"]["vocab"].values(), *(token["id"] for token in values["added_tokens"])])
        _refuse_word_pieces(values["model"])
        backend = Tokenizer.from_str(text)
        description = json.loads(backend.to_str())
        plain = without_rows(description)
        return backend if plain == description else Tokenizer.from_str(json.dumps(plain))
    except Exception as error:  # the package raises bare Exception for every kind of bad file
        raise WeightsError(f"not a tokenizer file ({error})", where=str(path)) from None


def _read_parts(vocab_path: Path, merges_path: Path, added_path: Path) -> Any:
    """Return the tokenizer of the released layout; added tokens are CodeGen's whitespace runs and the specials."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    try:
        _bound_ids(json.loads(vocab_path.read_text(encoding="utf-8")).values())
        model = BPE.from_file(str(vocab_path), str(merges_path))
        added: dict[str, int] = json.loads(added_path.read_text(encoding="utf-8"))
        in_order = sorted(added.items(), key=lambda item: item[1])
        "".join(added).encode()  # half a pair of surrogates is text in JSON, and none to the package
    except Exception as error:  # as above
        raise WeightsError(f"the tokenizer's files cannot be read ({error})", where=str(vocab_path.parent)) from None
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if END_OF_TEXT not in added:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False, special=True)])
    for content, token_id in in_order:
        special = bool(content.strip())
        tokenizer.add_tokens([AddedToken(content, normalized=not special, special=special)])
        if tokenizer.token_to_id(content) != token_id:
            raise WeightsError(
                f"{content!r} is to be id {token_id}, but {tokenizer.token_to_id(content)} is the next free one",
                where=str(added_path),
                expected="ids without gaps behind vocab.json",
            )
    return tokenizer


def _plain_specials(tokenizer: Any, where: str) -> Any:
    """Return a copy that reads the strings of special tokens as plain text.

    Every added token but runs of whitespace counts as special, whatever its file says.
    """
    from tokenizers import Tokenizer

    description = json.loads(tokenizer.to_str())
    kinds = [(description[part] or {}).get("type") for part in ("model", "pre_tokenizer", "decoder")]
    if kinds != ["BPE", "ByteLevel", "ByteLevel"] or description["normalizer"] is not None:
        raise WeightsError(f"the tokenizer is built of {kinds}", where=where, expected="byte-level BPE, no normalizer")
    for token in description["added_tokens"]:
        token["special"] = bool(token["content"].strip())
    description["truncation"] = description["padding"] = None
    try:
        plain = Tokenizer.from_str(json.dumps(description))
    except Exception as error:  # as above
        raise WeightsError(f"not a tokenizer file ({error})", where=where) from None
    plain.encode_special_tokens = True
    return plain


def _check_ids(tokens: dict[str, int], vocabulary: Vocabulary, where: str) -> None:
    specials = {
        END_OF_TEXT: vocabulary.begin_text,
        BEGIN_IMAGE: vocabulary.begin_image,
        END_IMAGE: vocabulary.end_image,
    }
    for content, token_id in specials.items():
        if tokens.get(content) != token_id:
            raise WeightsError(
                f"{content} has id {tokens.get(content)}", where=where, expected=f"{token_id}, as the model has it"
            )
    top = max(tokens.values())
    if top >= vocabulary.num_text:
        raise WeightsError(
            f"the tokenizer has ids up to {top}", where=where, expected=f"ids below num_text ({vocabulary.num_text})"
        )
    alphabet = sum(1 for token in tokens if len(token) == 1 and token in _byte_of())
    if alphabet < len(_byte_of()):
        raise WeightsError(f"only {alphabet} of 256 bytes have a token", where=where, expected="byte-level BPE")
