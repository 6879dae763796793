"""What a text tokenizer does, as one text: the same for every file that says the same in other words.

A file may be written by another version of the ``tokenizers`` package, with merges in another form, with other spaces,
or with parts that encoding reports leaves out (``TextTokenizer``): truncation, padding, a post-processor, the decoder's
switches. The text here is laid out as the package lays out a file of ``train_tokenizer``, so that such a file is its
own canonical text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chexmix_cli.core.text.tokenizer import read_backend

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
#: Switches of the BPE model, with what they are where a file does not say.
_SWITCHES: Mapping[str, Any] = {
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}


def canonical_text(directory: Path) -> str | None:
    """Return the canonical text of a directory's text tokenizer, in either layout, or None if it has none.

    Raises:
        WeightsError: if its files are incomplete or damaged.
    """
    backend = read_backend(directory)
    if backend is None:
        return None
    values = json.loads(backend.to_str())
    model, before = values["model"], values["pre_tokenizer"]
    added = sorted(values["added_tokens"], key=lambda token: int(token["id"]))
    if before is not None and before.get("type") == "ByteLevel":
        before = {**_BYTE_LEVEL, **before, "trim_offsets": True}
    canonical = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(token) for token in added],
        "normalizer": values["normalizer"],
        "pre_tokenizer": before,
        "post_processor": None,
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": model.get("type"),
            **{name: model.get(name) or default for name, default in _SWITCHES.items()},
            "vocab": dict(sorted(model["vocab"].items(), key=lambda item: item[1])),
            "merges": [merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges", ())],
        },
    }
    return json.dumps(canonical, indent=2, ensure_ascii=False) + "\n"


def _added_token(token: Mapping[str, Any]) -> dict[str, Any]:
    """Return an added token as ``TextTokenizer`` takes it: all but runs of whitespace are special."""
    return {
        "id": token["id"],
        "content": token["content"],
        **{name: bool(token.get(name)) for name in ("single_word", "lstrip", "rstrip")},
        "normalized": False,
        "special": bool(token["content"].strip()),
    }
