"""``chexmix generate-report``: evidence, sections, words of comparison, and words against the file's header."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from chexmix_cli.core.text.comparisons import find_comparisons
from chexmix_cli.core.text.header import Header

SHORT = ("--set", "decode.max_new_tokens=12", "--set", "explain.blocks=2")


def test_evidence_leaves_the_report_as_it_is(call, films, debug_weights, tmp_path):
    plain = call("generate-report", films, "--weights", debug_weights, *SHORT).records
    result = call(
        "generate-report", films, "--weights", debug_weights, *SHORT, "--explain", "--picture", tmp_path / "out"
    )
    assert result.code == 0
    for before, record in zip(plain, result.records, strict=True):
        assert record["token_ids"] == before["token_ids"]
        assert "sentences" not in before
        for sentence in record["sentences"]:
            assert len(sentence["drop_blocks"]) == 2
            assert isinstance(sentence["text_prior_only"], bool)
        assert "evidence_picture" not in record
    # Maps point at no finding (docs/report-metrics.md): only who asks for them has them.
    assert not [*(tmp_path / "out").glob("*evidence*")]


def test_heat_maps_go_to_a_folder_of_their_own(call, films, debug_weights, tmp_path):
    codes = call("tokenize", films / "a.png", "--weights", debug_weights)
    folder = tmp_path / "maps"
    result = call(
        "generate-report", "-", "--weights", debug_weights, *SHORT, "--explain", "--set", f"explain.folder={folder}",
        stdin=codes.stdout,
    )  # fmt: skip
    (record,) = result.records
    assert [str(path) for path in folder.iterdir()] == [record["evidence_picture"]]
    assert Path(record["evidence_picture"]).stat().st_size > 5000


def test_evidence_needs_a_text_tokenizer(call, films, debug_weights, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(debug_weights, bare)
    for path in bare.glob("tokenizer*"):
        path.unlink()
    result = call("generate-report", films, "--weights", bare, "--explain")
    assert result.code == 1
    assert "has no text tokenizer, which --explain needs" in result.stderr
    blocked = call("generate-report", films, "--weights", bare, "--set", "decode.comparisons=block")
    assert blocked.code == 2
    assert "decode.comparisons" in blocked.stderr


def saying(text: str, debug_weights, tmp_path) -> Path:
    """Return weights that write nothing but the pieces of a text, in any order when sampled."""
    from safetensors.torch import load_file, safe_open, save_file

    from chexmix_cli.core.weights import open_weights

    folder = tmp_path / "saying"
    shutil.copytree(debug_weights, folder)
    tokenizer = open_weights(debug_weights).load_text_tokenizer()
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(folder / "model.safetensors")
    for token_id in tokenizer.encode(text):
        tensors["lm_head.bias"][token_id] += torch.tensor(30.0, dtype=tensors["lm_head.bias"].dtype)
    save_file(tensors, folder / "model.safetensors", metadata=metadata)
    return folder


def test_claims_of_comparison_are_flagged_or_blocked(call, films, debug_weights, tmp_path):
    comparing = saying(" new", debug_weights, tmp_path)
    arguments = ("generate-report", films / "a.png", "--weights", comparing, "--set", "decode.max_new_tokens=60")
    arguments += ("--set", "decode.min_new_tokens=60", "--set", "decode.temperature=1", "--seed", "1")
    (flagged,) = call(*arguments).records
    assert flagged["comparisons"] == find_comparisons(flagged["report"]) != []
    (allowed,) = call(*arguments, "--set", "decode.comparisons=allow").records
    assert "comparisons" not in allowed
    assert allowed["token_ids"] == flagged["token_ids"]
    (blocked,) = call(*arguments, "--set", "decode.comparisons=block").records
    assert find_comparisons(blocked["report"]) == []
    assert "comparisons" not in blocked


def test_a_report_does_not_contradict_what_the_file_says_of_the_film(call, films, make_dicom, debug_weights, tmp_path):
    import pydicom

    weights = saying(" AP PA viral.", debug_weights, tmp_path)
    path = make_dicom(tmp_path / "adult.dcm", view="PA")
    with pydicom.dcmread(path) as dataset:
        dataset.PatientAge = "060Y"
        dataset.save_as(path)
    lines = [{"id": "line", "file": str(films / "a.png"), "view": "AP"}, {"id": "plain", "file": str(films / "a.png")}]
    stdin = "".join(json.dumps(line) + "\n" for line in [*lines, {"id": "wins", "file": str(path), "view": "AP"}])
    settings = ("--set", "decode.max_new_tokens=60", "--set", "decode.min_new_tokens=60")
    settings += ("--set", "decode.temperature=1", "--seed", "1", "--set", "decode.vocabulary=text")
    arguments = ("generate-report", "-", "--weights", weights, *settings)
    told, plain, header = call(*arguments, stdin=stdin).records
    assert (told["view"], told["view_source"], told["held_to"]) == ("AP", "manifest", ["view"])
    assert (header["view"], header["view_source"], header["age_group"]) == ("PA", "header", "adult")
    assert header["held_to"] == ["view", "age_group"]
    assert plain["view"] is None
    assert not {"view_source", "age_group", "held_to", "against_header"} & set(plain)
    known = Header(view="PA", age_group="adult")
    assert known.contradictions(plain["report"])
    assert known.contradictions(header["report"]) == Header(view="AP").contradictions(told["report"]) == []
    flagged = call(*arguments, "--set", "decode.header=flag", stdin=stdin).records[2]
    assert flagged["against_header"] == known.contradictions(flagged["report"]) != []
    assert "held_to" not in flagged
    allowed = call(*arguments, "--set", "decode.header=allow", stdin=stdin).records[2]
    assert "against_header" not in allowed
    assert allowed["token_ids"] == flagged["token_ids"]
    # Codes keep what their film's file said.
    tokens = call("tokenize", "-", "--weights", weights, stdin=stdin).stdout
    piped = call(*arguments, stdin=tokens).records
    assert [record["token_ids"] for record in piped] == [one["token_ids"] for one in (told, plain, header)]
    assert piped[2]["held_to"] == header["held_to"]


def test_the_embedded_model_gives_its_sections(call, films):
    from chexmix_cli.core.text.sections import read_sections

    (record,) = call("generate-report", films / "a.png").records
    sections = read_sections(record["report"])
    assert record["sections"] == {"findings": sections.findings, "impression": sections.impression}
    assert json.dumps(record)
