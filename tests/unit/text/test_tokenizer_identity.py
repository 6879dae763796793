"""The identity of a text tokenizer is what it does: other bytes are nothing, another encoding is everything."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import chexmix_cli
from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.text.tokenizer import read_backend
from chexmix_cli.core.text.tokenizer_identity import canonical_text
from chexmix_cli.core.weights.fingerprint import known_tokenizer_hash, tokenizer_hash

MINI = Path(chexmix_cli.__file__).parent / "assets" / "chexmix-mini"
Values = dict[str, Any]


def plain_merges(values: Values) -> None:
    values["model"]["merges"] = [" ".join(merge) for merge in values["model"]["merges"]]


def other_post_processor(values: Values) -> None:
    values["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}


def padding_and_truncation(values: Values) -> None:
    side = {"direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"}
    values["padding"] = {"strategy": {"Fixed": 16}, **side}
    values["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}


def other_decoder(values: Values) -> None:
    values["decoder"]["add_prefix_space"] = False


def specials_not_called_special(values: Values) -> None:
    for token in values["added_tokens"]:
        token["special"] = False


def reordered(values: Values) -> None:
    values["model"]["vocab"] = dict(reversed(values["model"]["vocab"].items()))


def fewer_fields(values: Values) -> None:
    for name in ("ignore_merges", "byte_fallback", "fuse_unk"):
        values["model"].pop(name, None)


def lower_case(values: Values) -> None:
    values["normalizer"] = {"type": "Lowercase"}


def prefix_space(values: Values) -> None:
    values["pre_tokenizer"]["add_prefix_space"] = True


def no_words(values: Values) -> None:
    values["pre_tokenizer"]["use_regex"] = False


def other_merges(values: Values) -> None:
    merges = values["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def other_ids(values: Values) -> None:
    vocab = values["model"]["vocab"]
    vocab["!"], vocab["#"] = vocab["#"], vocab["!"]


def whole_words(values: Values) -> None:
    values["added_tokens"][0]["single_word"] = True


def dropout(values: Values) -> None:
    values["model"]["dropout"] = 0.1


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., str | None]:
    """Return a function that gives the hash of the embedded tokenizer with a change to its values."""
    values = json.loads((MINI / "tokenizer.json").read_text())

    def hash_with(change: Callable[[Values], None], **form: Any) -> str | None:
        own = copy.deepcopy(values)
        change(own)
        (tmp_path / "tokenizer.json").write_text(json.dumps(own, **form))
        return tokenizer_hash(tmp_path)

    return hash_with


def test_a_file_of_ours_is_its_own_canonical_text() -> None:
    # So what 0.1.0 wrote of its bytes still holds: drafts, shards.
    assert canonical_text(MINI) == (MINI / "tokenizer.json").read_text()
    assert tokenizer_hash(MINI) == "19bdbd1d65c9"


@pytest.mark.parametrize(
    "change",
    [
        plain_merges,
        other_post_processor,
        padding_and_truncation,
        other_decoder,
        specials_not_called_special,
        reordered,
        fewer_fields,
    ],
)
def test_other_words_for_the_same_are_the_same(changed: Callable[..., str | None], change: Any) -> None:
    for form in ({}, {"indent": 4, "ensure_ascii": False}):
        assert changed(change, **form) == tokenizer_hash(MINI)


@pytest.mark.parametrize(
    "change",
    [lower_case, prefix_space, no_words, other_merges, other_ids, whole_words, dropout],
    ids=lambda change: str(change.__name__),
)
def test_another_encoding_is_another(changed: Callable[..., str | None], change: Any) -> None:
    assert changed(change) != tokenizer_hash(MINI)


def test_saving_again_and_the_layout_of_three_files_change_nothing(tmp_path: Path) -> None:
    Tokenizer.from_file(str(MINI / "tokenizer.json")).save(str(tmp_path / "tokenizer.json"))
    assert (tmp_path / "tokenizer.json").read_bytes() != (MINI / "tokenizer.json").read_bytes()
    assert tokenizer_hash(tmp_path) == tokenizer_hash(MINI)
    parts = tmp_path / "parts"
    parts.mkdir()
    values = json.loads((MINI / "tokenizer.json").read_text())
    added = {token["content"]: token["id"] for token in values["added_tokens"]}
    (parts / "vocab.json").write_text(json.dumps(values["model"]["vocab"]))
    (parts / "merges.txt").write_text("\n".join(" ".join(merge) for merge in values["model"]["merges"]) + "\n")
    (parts / "added_tokens.json").write_text(json.dumps(added))
    assert read_backend(parts) is not None
    assert tokenizer_hash(parts) == tokenizer_hash(MINI)


def test_shards_of_before_know_a_file_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    monkeypatch.setenv("CHEXMIX_HOME", str(tmp_path / "home"))
    content = json.dumps(json.loads((MINI / "tokenizer.json").read_text())).encode()
    (tmp_path / "tokenizer.json").write_bytes(content)
    before = hashlib.sha256(hashlib.sha256(content).hexdigest().encode()).hexdigest()[:12]
    assert known_tokenizer_hash(before, tmp_path) == before
    assert known_tokenizer_hash("ffff", tmp_path) == tokenizer_hash(MINI)
    assert known_tokenizer_hash(None, tmp_path / "home") is None


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("<html>")
    with pytest.raises(WeightsError, match="not a tokenizer file"):
        tokenizer_hash(tmp_path)
