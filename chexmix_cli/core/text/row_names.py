"""Names of the ids that are no text, for the tokenizers of other programs, which want a name for every row.

An image code is ``<|image_17|>``; a row of no text and no code (mask, padding) is ``<|row_2048|>``, by its id. A text
tokenizer of ours knows neither: what was written with them is read without them, and does the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from chexmix_cli.core.vocab import Vocabulary

#: A tokenizer's description: the content of a ``tokenizer.json``.
Description = Mapping[str, Any]

_NAME = re.compile(r"<\|(?:image|row)_\d+\|>")


def row_name(vocabulary: Vocabulary, token_id: int) -> str:
    """Return what other programs call an id that no text has."""
    if vocabulary.is_image(token_id):
        return f"<|image_{vocabulary.ids_to_codes(token_id)}|>"
    return f"<|row_{token_id}|>"


def with_rows(description: Description, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return a tokenizer with a special token for every id that it has none for, in the order of the ids."""
    added = {token["id"]: token for token in description["added_tokens"]}
    known = {*added, *description["model"]["vocab"].values()}
    for token_id in range(vocabulary.num_rows):
        if token_id not in known:
            added[token_id] = {
                "id": token_id,
                "content": row_name(vocabulary, token_id),
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
                "special": True,
            }
    return {**description, "added_tokens": [added[token_id] for token_id in sorted(added)]}


def without_rows(description: Description) -> dict[str, Any]:
    """Return a tokenizer without the tokens of :func:`with_rows`."""
    added = [token for token in description["added_tokens"] if not _NAME.fullmatch(token["content"])]
    return {**description, "added_tokens": added}
