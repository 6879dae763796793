"""The text tokenizer: released ids, agreement with transformers, exact round trips, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chexmix_cli.core.errors import TrainingError, VocabularyError, WeightsError
from chexmix_cli.core.text.tokenizer import TextTokenizer
from chexmix_cli.core.text.tokenizer_training import train_tokenizer
from chexmix_cli.core.vocab import RELEASED, compact

TEXTS = [
    "FINDINGS: The heart is normal in size.\nIMPRESSION: No acute disease.",
    "two  spaces, three   spaces,\n\n\nthree lines,\t\ttwo tabs" + " " * 40 + "forty spaces",
    "naïve café 37.5 °C — Ödem, 肺炎, 🫁🫁, it's 100%",
    "<|img|> <|/img|> <|endoftext|> <|img|>",
    "",
    " leading and trailing ",
]
SPACE_RUNS = [" " * count for count in range(31, 1, -1)] + ["\t" * count for count in range(9, 1, -1)]


@pytest.fixture(scope="session")
def released_layout(tmp_path_factory) -> Path:
    """Write files of the released form: 256 bytes and 50,000 merges of byte pairs, whitespace runs, specials."""
    from tokenizers import pre_tokenizers

    folder = tmp_path_factory.mktemp("released")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    common = [character for character in alphabet if character.isascii()] + [chr(0x120)]
    alphabet = [*common, *(character for character in alphabet if character not in common)]
    pairs = [(one, other) for one in alphabet for other in alphabet][:50_000]
    tokens = [*alphabet, *(one + other for one, other in pairs), "<|endoftext|>"]
    added = {run: 50257 + number for number, run in enumerate(SPACE_RUNS)}
    added |= {"<|img|>": 50295, "<|/img|>": 50296, "<|ref|>": 50297}
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{one} {other}\n" for one, other in pairs))
    (folder / "added_tokens.json").write_text(json.dumps(dict(reversed(added.items()))))
    return folder


@pytest.fixture(scope="session")
def released(released_layout) -> TextTokenizer:
    tokenizer = TextTokenizer.load(released_layout, RELEASED)
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(scope="session")
def codegen(released_layout):
    """Return the tokenizer class of transformers that the released layout was made for."""
    from transformers import AddedToken, CodeGenTokenizer

    merges = [tuple(line.split(" ")) for line in (released_layout / "merges.txt").read_text().splitlines()[1:]]
    oracle = CodeGenTokenizer(vocab=json.loads((released_layout / "vocab.json").read_text()), merges=merges)
    oracle.add_tokens([AddedToken(run, normalized=True) for run in SPACE_RUNS])
    oracle.add_special_tokens({"additional_special_tokens": ["<|img|>", "<|/img|>", "<|ref|>"]})
    return oracle


@pytest.fixture(scope="session")
def mini(repository) -> TextTokenizer:
    tokenizer = TextTokenizer.load(repository / "chexmix_cli/assets/chexmix-mini", MINI)
    assert tokenizer is not None
    return tokenizer


MINI = compact(num_text=1024, num_codes=512, tokens_per_image=196)


def test_released_ids_are_those_of_the_codegen_class(released, codegen):
    for text in TEXTS:
        if "<|" not in text:
            assert released.encode(text) == codegen.encode(text), text
    assert released.encode(" " * 31) == [50257]
    assert released.encode("a\t\tb")[1] == 50294
    assert codegen.convert_tokens_to_ids(["<|endoftext|>", "<|img|>", "<|/img|>"]) == [50256, 50295, 50296]


def test_released_decoding_is_that_of_the_codegen_class(released, codegen):
    ids = [50295, *codegen.encode(TEXTS[1] + TEXTS[2]), 50296, 50256, 17, 255, 128, 50299]
    expected = codegen.decode(ids[:-1], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert released.decode(ids) == expected


def test_the_same_layout_as_one_file_gives_the_same_ids(released_layout, released, codegen, tmp_path):
    codegen.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    single = TextTokenizer.load(tmp_path, RELEASED)
    for text in TEXTS:
        assert single.encode(text) == released.encode(text)


@pytest.mark.parametrize("name", ["released", "mini"])
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_text_survives_and_never_becomes_a_special_id(name, text, request):
    tokenizer = request.getfixturevalue(name)
    ids = tokenizer.encode(text)
    vocabulary = tokenizer.vocabulary
    assert tokenizer.decode(ids) == text
    assert not {vocabulary.begin_image, vocabulary.end_image, vocabulary.begin_text} & set(ids)


def test_every_real_report_survives(mini, shared):
    with (shared / "data" / "reports" / "iu_reports.jsonl").open(encoding="utf-8") as lines:
        reports = [json.loads(line)["report"] for line in lines]
    assert len(reports) == 3955
    for report in filter(None, reports):
        assert mini.decode(mini.encode(report)) == report


@pytest.mark.parametrize("name", ["released", "mini"])
def test_streaming_gives_the_same_text_and_whole_characters(name, request):
    tokenizer = request.getfixturevalue(name)
    stream, pieces = tokenizer.stream(), []
    ids = tokenizer.encode(TEXTS[2])
    for token_id in ids:
        pieces.append(stream.push(token_id))
        assert "\ufffd" not in pieces[-1]
    assert "".join(pieces) == TEXTS[2]
    assert stream.finish() == ""
    assert "" in pieces, "no id ended inside a character: the test would not see a broken stream"


def test_a_stream_that_ends_inside_a_character_says_so(mini):
    first = mini.encode("肺")[0]
    stream = mini.stream()
    assert stream.push(first) == ""
    assert stream.finish() == "\ufffd"
    assert mini.decode([first]) == "\ufffd"


def test_special_ids_stand_for_no_text_and_image_ids_are_refused(mini):
    ids = mini.encode("No effusion.")
    assert mini.decode([MINI.begin_image, *ids, MINI.end_image, MINI.begin_text]) == "No effusion."
    for token_id in (MINI.image_start, MINI.mask, MINI.pad, -1):
        with pytest.raises(VocabularyError, match=f"text token id {token_id} is out of range"):
            mini.decode([token_id])


def test_a_directory_without_tokenizer_gives_none(tmp_path):
    assert TextTokenizer.load(tmp_path, MINI) is None


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt", "added_tokens.json"])
def test_an_incomplete_layout_names_the_missing_file(released_layout, tmp_path, missing):
    for path in released_layout.iterdir():
        if path.name != missing:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(WeightsError, match=f"{missing} is missing"):
        TextTokenizer.load(tmp_path, RELEASED)


def test_special_ids_must_be_the_models(released_layout):
    with pytest.raises(WeightsError, match=r"<\|endoftext\|> has id 50256; expected 1021"):
        TextTokenizer.load(released_layout, MINI)


def test_a_gap_in_the_added_ids_is_refused(released_layout, tmp_path):
    for path in released_layout.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    added = json.loads((tmp_path / "added_tokens.json").read_text())
    del added[" " * 5]
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(WeightsError, match=r"is to be id \d+, but \d+ is the next free one"):
        TextTokenizer.load(tmp_path, RELEASED)


def test_ids_beyond_the_text_rows_are_refused(released_layout, tmp_path):
    for path in released_layout.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    added = json.loads((tmp_path / "added_tokens.json").read_text())
    added |= {f"<|extra {number}|>": number for number in range(50298, 50369)}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(WeightsError, match=r"ids up to 50368; expected ids below num_text \(50368\)"):
        TextTokenizer.load(tmp_path, RELEASED)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"model": {"type": "BPE"}}'])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(WeightsError, match=r"tokenizer\.json: not a tokenizer file"):
        TextTokenizer.load(tmp_path, MINI)


@pytest.mark.parametrize("name", ["continuing_subword_prefix", "end_of_word_suffix"])
def test_marks_of_word_pieces_are_refused_before_the_package_sees_them(repository, tmp_path, capfd, name):
    """With merges that have no such prefix the package panics: a text on the terminal, and no Exception."""
    values = json.loads((repository / "chexmix_cli/assets/chexmix-mini/tokenizer.json").read_text())
    values["model"][name] = "a prefix"
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(WeightsError, match=f"not a tokenizer file .{name} is 'a prefix'; expected none"):
        TextTokenizer.load(tmp_path, MINI)
    assert capfd.readouterr() == ("", "")


def test_half_a_pair_of_surrogates_is_no_token(released_layout, tmp_path):
    for path in released_layout.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    added = json.loads((tmp_path / "added_tokens.json").read_text())
    (tmp_path / "added_tokens.json").write_text(json.dumps({**added, "\ud800": len(added) + 50257}))
    with pytest.raises(WeightsError, match="the tokenizer's files cannot be read .*surrogates"):
        TextTokenizer.load(tmp_path, RELEASED)


def test_damaged_merges_are_named(released_layout, tmp_path):
    for path in released_layout.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "merges.txt").write_text("#version: 0.2\nnot tokens at all\n")
    with pytest.raises(WeightsError, match="the tokenizer's files cannot be read"):
        TextTokenizer.load(tmp_path, RELEASED)


def test_another_kind_of_tokenizer_is_refused(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(WeightsError, match="WordLevel.*expected byte-level BPE"):
        TextTokenizer.load(tmp_path, MINI)


def test_training_is_deterministic_and_lays_out_ids_as_compact_does(tmp_path):
    texts = ["No pleural effusion.", "The pleural spaces are clear of effusion."] * 3
    paths = [tmp_path / name / "tokenizer.json" for name in "ab"]
    unused = [train_tokenizer(texts, 300, path) for path in paths]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert unused[0] == unused[1]
    tokenizer = TextTokenizer.load(paths[0].parent, compact(num_text=300, num_codes=8, tokens_per_image=4))
    assert len(tokenizer.encode(" effusion")) == 1
    assert all(len(tokenizer.token_bytes(token_id)) == 1 for token_id in range(256))
    assert [tokenizer.token_bytes(token_id) for token_id in (297, 298, 299)] == [b"", b"", b""]


def test_training_says_how_many_rows_stay_unused(tmp_path):
    unused = train_tokenizer(["ab ab ab"], 300, tmp_path / "tokenizer.json")
    assert unused == 300 - 3 - 256 - 2, "two merges: ' a' + 'b' and 'a' + 'b', or ' ' + 'ab'"
    tokenizer = TextTokenizer.load(tmp_path, compact(num_text=300, num_codes=8, tokens_per_image=4))
    assert tokenizer.decode(tokenizer.encode("<|unused 0|>")) == "<|unused 0|>"
    assert tokenizer.decode(range(258, 300)) == ""


def test_too_few_ids_to_hold_every_byte_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="num_text is 258; expected at least 259"):
        train_tokenizer(["a"], 258, tmp_path / "tokenizer.json")
