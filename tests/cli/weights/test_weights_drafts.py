"""``chexmix weights drafts`` and the drafts and figures of ``generate-report``."""

from __future__ import annotations

import json

import pytest

from chexmix_cli.core.weights import open_weights
from chexmix_cli.core.weights.draft_index import DraftIndex

SHORT = ("--set", "decode.max_new_tokens=20", "--set", "decode.min_new_tokens=20")
SENTENCE = "The heart is enlarged."


@pytest.fixture
def corpus(tmp_path):
    rows = [
        {"id": f"m{n}", "file": f"{n}.png", "patient": f"p{n}", "findings": SENTENCE, "impression": "Large heart."}
        for n in range(3)
    ]
    rows += [{"id": f"s{n}", "file": "s.png", "patient": "one", "findings": "Sword in chest."} for n in range(5)]
    rows.append({"id": "none", "file": "n.png", "findings": None, "impression": None})
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_reports_become_an_index_of_what_patients_share(call, corpus, debug_weights, tmp_path):
    table = tmp_path / "more.csv"
    table.write_text("id,report\n" + "".join(f'{n},"{SENTENCE}"\n' for n in range(2)))
    out = tmp_path / "mine.safetensors"
    done = call("weights", "drafts", corpus, table, "-o", out, "--weights", debug_weights)
    assert done.code == 0, done.stderr
    (record,) = done.records
    assert record["num_reports"] == 10
    assert record["num_without_report"] == 1
    assert "left out, as they have no report: 1 record" in done.stderr
    assert record["num_bytes"] == out.stat().st_size
    weights = open_weights(debug_weights)
    vocabulary = weights.settings.vocabulary
    index = DraftIndex.load(out, tokenizer=weights.text_tokenizer_hash, vocabulary=vocabulary)
    assert record["num_contexts"] == len(index)
    tokenizer, begin_text = weights.load_text_tokenizer(), weights.settings.vocabulary.begin_text
    assert tokenizer.decode(index.draft([begin_text], 40)[:-1]).startswith(f"FINDINGS: {SENTENCE}")
    # Five reports of one patient are one patient.
    told = index.draft(tokenizer.encode("FINDINGS: Sword in"), 4)
    assert "chest" not in tokenizer.decode(told)
    for text in (out.read_bytes(), done.stderr.encode(), done.stdout.encode()):
        assert b"Sword" not in text
        assert b"heart" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.jsonl"], 1, "cannot be read"),
        (["CORPUS", "--set", "drafts.min_patients=50"], 1, "nothing occurs in reports of 50 of 4 patients"),
        (["CORPUS", "--set", "drafts.min_patients=0"], 2, "drafts.min_patients"),
        (["CORPUS", "--set", "drafts.order=99"], 2, "drafts.order"),
    ],
)
def test_what_gives_no_index_says_why_and_writes_none(call, corpus, debug_weights, tmp_path, arguments, code, message):
    out = tmp_path / "out" / "d.safetensors"
    named = [str(corpus) if one == "CORPUS" else one for one in arguments]
    done = call("weights", "drafts", *named, "-o", out, "--weights", debug_weights)
    assert (done.code, done.stdout) == (code, "")
    assert message in done.stderr
    assert not out.exists()


def test_weights_without_a_text_tokenizer_have_nothing_to_count(call, corpus, debug_weights, tmp_path):
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(debug_weights, bare)
    (bare / "tokenizer.json").unlink()
    done = call("weights", "drafts", corpus, "-o", tmp_path / "d.safetensors", "--weights", bare)
    assert (done.code, "has no text tokenizer" in done.stderr) == (1, True)


def test_drafts_change_no_record_and_figures_say_what_they_did(call, films, debug_weights, corpus, tmp_path):
    plain = call("generate-report", films, "--weights", debug_weights, *SHORT, "--set", "decode.draft_rows=0")
    out = tmp_path / "d.safetensors"
    call("weights", "drafts", corpus, "-o", out, "--weights", debug_weights)
    drafted = call(
        "generate-report",
        films,
        "--weights",
        debug_weights,
        *SHORT,
        "--set",
        f"decode.drafts={out}",
        "--set",
        "decode.draft_rows=8",
        "--stats",
        "--json",
    )
    assert drafted.code == 0, drafted.stderr
    for one, other in zip(plain.records, drafted.records, strict=True):
        assert other.pop("logprob") == pytest.approx(one.pop("logprob"), abs=1e-3)
        assert one == other
    stats = json.loads(drafted.stderr)["stats"]
    assert stats["reports"] == 3
    assert stats["decoded_tokens"] == 3 * 19
    assert stats["drafted"] > 0
    assert stats["acceptance"] == pytest.approx(stats["accepted"] / stats["drafted"], abs=1e-5)
    row_passes = stats["decoded_tokens"] - stats["accepted"]
    assert stats["tokens_per_row_pass"] == pytest.approx(stats["decoded_tokens"] / row_passes, abs=1e-5)
    for name in ("prefill_tokens_per_s", "decode_tokens_per_s", "first_token_s", "floor_share", "memory_bytes_per_s"):
        assert stats[name] > 0
    assert stats["peak_bytes"] > 50 * 2**20


def test_figures_are_for_who_asks_and_listens(call, films, debug_weights):
    one = films / "a.png"
    told = call("generate-report", one, "--weights", debug_weights, *SHORT, "--stats")
    assert len(told.records) == 1
    for word in ("prefill", "decode", "passes", "accepted", "bandwidth floor", "peak memory"):
        assert word in told.stderr
    assert call("generate-report", one, "--weights", debug_weights, *SHORT).stderr == ""
    assert call("generate-report", one, "--weights", debug_weights, *SHORT, "--stats", "--quiet").stderr == ""


def test_an_index_of_another_tokenizer_is_refused_before_the_first_record(call, films, debug_weights, tmp_path):
    vocabulary = open_weights(debug_weights).settings.vocabulary
    from chexmix_cli.core.settings.inference import DraftSettings

    index = DraftIndex.build([(n, [1, 2]) for n in range(3)], vocabulary, DraftSettings(), tokenizer="ffff")
    index.save(tmp_path / "other.safetensors")
    done = call(
        "generate-report", films, "--weights", debug_weights, "--set", f"decode.drafts={tmp_path}/other.safetensors"
    )
    assert (done.code, done.stdout) == (1, "")
    assert "was made with another text tokenizer (ffff)" in done.stderr
    none = call("generate-report", films, "--weights", debug_weights, "--set", "decode.drafts=nowhere.safetensors")
    assert (none.code, "no draft index" in none.stderr) == (1, True)


def test_an_index_beside_weights_is_left_out_if_it_is_of_another_tokenizer(call, films, debug_weights, tmp_path):
    from chexmix_cli.core.settings.inference import DraftSettings

    own = tmp_path / "own"
    own.mkdir()
    for path in debug_weights.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    weights = open_weights(own)
    reports, vocabulary = [(n, [1, 2]) for n in range(3)], weights.settings.vocabulary
    index = DraftIndex.build(reports, vocabulary, DraftSettings(), tokenizer=str(weights.text_tokenizer_hash))
    index.save(own / "drafts.safetensors")
    # The same text tokenizer in other bytes.
    (own / "tokenizer.json").write_text(json.dumps(json.loads((own / "tokenizer.json").read_text())))
    arguments = ("generate-report", films / "a.png", "--weights", own, *SHORT)
    done = call(*arguments)
    assert (done.code, done.stderr) == (0, "")
    DraftIndex.build(reports, vocabulary, DraftSettings(), tokenizer="ffff").save(own / "drafts.safetensors")
    foreign = call(*arguments)
    assert (foreign.code, foreign.stdout) == (0, done.stdout)
    assert "was made with another text tokenizer (ffff)" in foreign.stderr
    assert "left out, reports take longer and are the same" in foreign.stderr
