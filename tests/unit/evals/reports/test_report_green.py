"""GREEN from answers: the definition, the official parser's faults, the strict parser's refusals, a judge that runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from chexmix_cli.core.errors import DataError, MachineError, WeightsError
from chexmix_cli.core.evals.reports.green_judge import (
    PROMPT,
    answer_key,
    ask_judge,
    green_prompt,
    read_answers,
)
from chexmix_cli.core.evals.reports.metrics.green import green_score, judge
from chexmix_cli.core.evals.reports.pairs import ReportPairs
from chexmix_cli.core.evals.reports.protocol import green_metrics
from chexmix_cli.core.settings.report_evaluation import GreenSettings, ReportEvaluationSettings


def answer(errors: str = "0 1 0 0 0 0", matched: str = "1. cardiomegaly", *, gap: str = "\n\n") -> str:
    lines = [f"({kind}) Kind of error: {count}." for kind, count in zip("abcdef", errors.split(), strict=True)]
    quiet = [f"({kind}) Kind of error: 0." for kind in "abcdef"]
    return (
        "[Explanation]:\nSome words.\n\n[Clinically Significant Errors]:\n" + "\n".join(lines)
        + gap + "[Clinically Insignificant Errors]:\n" + "\n".join(quiet) + "\n\n[Matched Findings]:\n" + matched
    )  # fmt: skip


def test_the_definition():
    assert green_score((0, 1, 0, 0, 0, 2), 3) == 0.5
    assert green_score((0,) * 6, 0) == 0
    assert green_score((0,) * 6, 2) == 1


@pytest.mark.parametrize("parser", ["official", "strict"])
def test_a_complete_answer_is_read_alike(parser):
    found = judge(answer("1 0 2 0 0 0", "3. effusion; edema; mass"), parser)
    assert found.errors == (1, 0, 2, 0, 0, 0)
    assert found.matched == 3
    assert found.green == 0.5
    digits = answer("1 0 2 0 0 0", "3. a").translate(str.maketrans("", ""))
    for letter, digit in zip("abcdef", "123456", strict=True):
        digits = digits.replace(f"({letter})", f"({digit})")
    assert judge(digits, parser).green == 0.5


GARBLED = {
    # what is wrong: answer, official GREEN, strict problem
    "a count without a full stop": (
        answer("0 1 0 0 0 0").replace("(b) Kind of error: 1.", "(b) Kind of error: 1 x"),
        1.0, "a significant error without a count",
    ),
    "no block of significant errors": (
        answer().replace("Clinically Significant Errors", "Errors"), 1.0, "no block of clinically significant errors",
    ),
    "a first line that begins with No": (
        answer().replace("[Clinically Significant Errors]:\n", "[Clinically Significant Errors]:\nNo major errors.\n"),
        1.0, None,
    ),
    "matched findings without a full stop": (
        answer(matched="two findings match"), 0.0, "matched findings without a count",
    ),
    "cut short": (answer().split("[Matched")[0], 0.0, "truncated: it ends before the matched findings"),
    "a kind twice": (
        answer().replace("(c) Kind of error: 0.", "(b) Kind of error: 3."), 0.25,
        "not every kind of significant error once",
    ),
    "garbage": ("The reports agree well.", 0.0, "truncated: it ends before the matched findings"),
}  # fmt: skip


@pytest.mark.parametrize("case", GARBLED)
def test_garbled_answers(case):
    text, official, problem = GARBLED[case]
    assert judge(text, "official").green == official
    strict = judge(text, "strict")
    if problem is None:
        # All six lines are there: what they say counts, not the word in front of them.
        assert strict.green == 0.5
    else:
        assert strict.green is None
        assert strict.problem == problem


def test_a_blank_line_inside_the_errors_hides_them_from_the_official_parser_only():
    text = answer("1 1 0 0 0 0", "1. mass").replace("(b)", "\n(b)", 1)
    assert judge(text, "official").green == 0.5
    assert judge(text, "strict").green == pytest.approx(1 / 3)


@pytest.mark.parametrize("parser", ["official", "strict"])
def test_normal_against_normal_is_0_where_nothing_is_matched(parser):
    assert judge(answer("0 0 0 0 0 0", "0."), parser).green == 0
    assert judge(answer("0 0 0 0 0 0", "No matched findings"), parser).green == 0


def test_strict_reads_a_block_that_says_it_is_empty():
    text = "[Clinically Significant Errors]:\nNone.\n\n[Matched Findings]:\n2. a; b"
    assert judge(text, "strict").green == 1.0
    assert judge(text.replace("None.", "No errors."), "strict").green == 1.0
    vague = judge(text.replace("None.", "Some minor ones."), "strict")
    assert vague.problem == "significant errors without a count"


def pairs(**texts: tuple[str, str]) -> ReportPairs:
    ids, (references, predictions) = list(texts), map(list, zip(*texts.values(), strict=True))
    return ReportPairs(
        ids=ids, references=references, predictions=predictions, whole_references=references,
        whole_predictions=predictions, patients=[None] * len(ids), missing=[], without_reference=[], failed=[],
    )  # fmt: skip


TWO = pairs(a=("Cardiomegaly.", "Big heart."), b=("Normal.", ""))


def write_lines(path: Path, *lines: dict) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_what_cannot_be_parsed_is_null_and_counted(tmp_path):
    saved = write_lines(tmp_path / "judge.jsonl", {"id": "a", "answer": answer()}, {"id": "b", "answer": "So so."})
    answers = read_answers(saved, TWO)
    settings = ReportEvaluationSettings()
    found = green_metrics(TWO.ids, answers, settings, {})
    by_parser = {q.fields["parser"]: q.column[1] for q in found.quantities if q.name == "green"}
    assert by_parser == {"official": [0.5, 0.0], "strict": [0.5, None]}
    (kind_b,) = [q for q in found.quantities if q.fields.get("kind") == "b"]
    assert kind_b.column[1] == [1.0, None]


def test_saved_answers_belong_to_their_texts(tmp_path):
    good = answer_key(("Cardiomegaly.", "Big heart."), "m", "p")
    stale = answer_key(("Cardiomegaly.", "Small heart."), "m", "p")
    lines = [
        {"id": "a", "key": stale, "model": "m", "prompt": "p", "answer": "old"},
        {"id": "a", "key": good, "model": "m", "prompt": "p", "answer": "new"},
        {"id": "elsewhere", "model": "m", "prompt": "p", "answer": "x"},
    ]
    answers = read_answers(write_lines(tmp_path / "judge.jsonl", *lines), TWO)
    assert answers.by_id == {"a": "new"}
    assert answers.fields == {"judge": "m", "prompt": "p", "answers": "saved"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"id": "a"}], "no id or no answer"),
        ([{"id": "a", "answer": "x"}, {"id": "a", "answer": "y"}], "two different answers"),
    ],
)
def test_bad_files_of_answers_are_refused(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        read_answers(write_lines(tmp_path / "judge.jsonl", *lines), TWO)
    with pytest.raises(DataError, match="nowhere.jsonl: cannot be read"):
        read_answers(tmp_path / "nowhere.jsonl", TWO)


class Scripted:
    """A judge whose answers are known."""

    name, fingerprint, end = "scripted", "0" * 12, 7

    def __init__(self) -> None:
        self.asked = 0

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def answer(self, prompts, *, max_new_tokens):
        self.asked += len(prompts)
        return [answer("0 0 0 0 0 0", f"{sum(prompt) % 97}. x") for prompt in prompts]


def test_a_judge_is_asked_once_for_each_pair(tmp_path):
    scripted, saved = Scripted(), tmp_path / "kept" / "judge.jsonl"
    repeated = pairs(a=("x", "y"), b=("x", "z"), c=("x", "y"))
    first = ask_judge(scripted, repeated, GreenSettings(batch_size=1), saved=saved)
    assert scripted.asked == 2
    assert ask_judge(scripted, repeated, GreenSettings(), saved=saved).by_id == first.by_id
    assert scripted.asked == 2
    assert first.by_id["a"] == first.by_id["c"] != first.by_id["b"]
    assert first.fields["prompt"] == PROMPT
    # Another text of the same id is another question.
    ask_judge(scripted, pairs(a=("x", "changed")), GreenSettings(), saved=saved)
    assert scripted.asked == 3
    assert read_answers(saved, repeated).by_id == first.by_id


def test_answers_that_cannot_be_kept_stop_the_judge(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="answers cannot be written"):
        ask_judge(Scripted(), TWO, GreenSettings(), saved=tmp_path / "file" / "judge.jsonl")


def test_the_prompt_holds_both_reports_and_says_when_it_cut_one():
    text, is_cut = green_prompt("ref {candidate} words", "candidate {reference} words")
    assert not is_cut
    assert "Reference report:\nref {candidate} words\n" in text
    assert "Candidate report:\ncandidate {reference} words\n" in text
    for heading in ("[Clinically Significant Errors]:", "[Matched Findings]:", "[Explanation]:"):
        assert heading in text
    long, is_cut = green_prompt(" ".join(str(n) for n in range(301)), "x")
    assert is_cut
    assert " 299\n" in long
    assert " 300" not in long


@pytest.fixture(scope="module")
def phi_folder(tmp_path_factory) -> Path:
    """Write a tiny random PhiForCausalLM with a byte-level tokenizer, as transformers saves one."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("judge")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = transformers.PhiConfig(
        vocab_size=264, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=2048, eos_token_id=256, bos_token_id=256, pad_token_id=257, partial_rotary_factor=0.5,
    )  # fmt: skip
    model = transformers.PhiForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    model.save_pretrained(folder)
    return folder


def test_a_judge_in_hugging_face_layout_answers_as_there(phi_folder):
    import transformers

    from chexmix_cli.core.infer.decoding.text_model import TextModel

    ours = TextModel.load(phi_folder, torch.device("cpu"), torch.float32)
    prompts = [ours.encode("Compare."), ours.encode("A longer question, and a reference.")]
    theirs = transformers.PhiForCausalLM.from_pretrained(phi_folder, dtype=torch.float32).eval()
    expected = []
    for prompt in prompts:
        ids = theirs.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=257)
        new = [token for token in ids[0, len(prompt) :].tolist() if token != 256]
        expected.append(ours._tokenizer.decode(new, skip_special_tokens=True))
    assert ours.answer(prompts, max_new_tokens=12) == expected
    assert all(expected)


def test_a_prompt_without_room_gives_an_empty_answer(phi_folder):
    from chexmix_cli.core.infer.decoding.text_model import TextModel

    ours = TextModel.load(phi_folder, torch.device("cpu"), torch.float32)
    assert ours.answer([[1] * 2048], max_new_tokens=5) == [""]


def test_a_folder_that_is_no_text_model_is_refused(phi_folder, tmp_path):
    import shutil

    from chexmix_cli.core.infer.decoding.text_model import TextModel

    def load(folder):
        return TextModel.load(folder, torch.device("cpu"), torch.float32)

    with pytest.raises(WeightsError, match="cannot be read"):
        load(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(phi_folder, copy)
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"no readable tokenizer\.json"):
        load(copy)
    shutil.copy(phi_folder / "tokenizer.json", copy)
    config = json.loads((copy / "config.json").read_text())
    for value, message in ((264, "uses 257 of 264 rows and ends with 264"), (None, None)):
        (copy / "config.json").write_text(json.dumps({**config, "eos_token_id": value}))
        if message is None:
            assert load(copy).end == 256, "the tokenizer's end of text"
        else:
            with pytest.raises(WeightsError, match=message):
                load(copy)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = []
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(WeightsError, match="no id ends a turn"):
        load(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="has no weights"):
        load(copy)
