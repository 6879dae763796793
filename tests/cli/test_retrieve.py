"""``chexmix retrieve`` and ``chexmix evaluate retrieval``: both directions, resumed, refused, in a pipe."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from tests.cli.conftest import interrupted_behind

WORDS = ("No pleural effusion.", "The heart is large.", "Pneumonia in the left lung.")


@pytest.fixture
def manifest(films, tmp_path):
    """Return a manifest of three films with reports; the first and the last are of one patient."""
    lines = []
    for name, impression, patient in zip("abc", WORDS, ("p", "q", "p"), strict=True):
        labels = {"Edema": 1 if name == "b" else 0}
        line = {"id": f"film-{name}", "file": str(films / f"{name}.png"), "patient": patient, "split": "val"}
        lines.append({**line, "labels": labels, "findings": f"Film {name}.", "impression": impression})
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def run(call, debug_weights):
    return lambda *arguments, stdin="": call(*arguments, "--weights", debug_weights, stdin=stdin)


@pytest.fixture
def index(run, manifest, tmp_path):
    folder = tmp_path / "index"
    assert run("retrieve", "index", manifest, "-o", folder, "--with-text").code == 0
    return folder


def test_every_direction_finds_itself_first(run, index, films, tmp_path):
    page = tmp_path / "found.html"
    done = run("retrieve", "query", index, films, "-k", 2, "--find", "images", "--html", page)
    assert done.code == 0, done.stderr
    # Three films that ask, each with the two that it finds.
    assert page.read_text().count("data:image/webp") == 9
    assert [record["results"][0]["id"] for record in done.records] == ["film-a", "film-b", "film-c"]
    for record in done.records:
        (first, second) = record["results"]
        assert (first["rank"], second["rank"]) == (1, 2)
        assert first["score"] == pytest.approx(1, abs=1e-5)
        assert first["score"] >= second["score"]
    text = f"FINDINGS: Film b.\nIMPRESSION: {WORDS[1]}"
    (record,) = run("retrieve", "query", index, "--text", text, "--find", "reports", "-k", 1).records
    assert record["results"] == [{"rank": 1, "id": "film-b", "score": pytest.approx(1, abs=1e-5), "report": text}]
    (record,) = run("retrieve", "query", index, "--text", text).records
    assert (record["id"], record["find"], len(record["results"])) == ("text-1", "images", 3)
    (record,) = run("retrieve", "query", index, films / "a.png").records
    assert (record["find"], record["scorer"]) == ("reports", "cosine")


def test_likelihood_ranks_as_whole_documents_do(run, index, manifest, films, debug_weights):
    from chexmix_cli.core.infer.scoring import token_logprobs
    from chexmix_cli.core.weights import open_weights

    weights = open_weights(str(debug_weights))
    vocabulary, tokenizer = weights.settings.vocabulary, weights.load_text_tokenizer()
    decoder = weights.load_decoder("cpu", torch.float32)
    (codes,) = [record["codes"] for record in run("tokenize", films / "a.png").records]
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    texts = {row["id"]: f"FINDINGS: {row['findings']}\nIMPRESSION: {row['impression']}" for row in rows}

    def mean(text):
        with torch.inference_mode():
            (found,) = token_logprobs(decoder, [vocabulary.document(codes, tokenizer.encode(text))], pad=vocabulary.pad)
        return float(found[vocabulary.prompt_length - 1 :].mean())

    wanted = {name: mean(text) for name, text in texts.items()}
    plain = ("--scorer", "likelihood", "--set", "likelihood.minus=none")
    (record,) = run("retrieve", "query", index, films / "a.png", *plain).records
    assert [one["id"] for one in record["results"]] == sorted(wanted, key=lambda name: -wanted[name])
    assert {one["id"]: one["score"] for one in record["results"]} == pytest.approx(wanted, abs=1e-4)
    (record,) = run("retrieve", "query", index, "--text", texts["film-b"], *plain).records
    score = {one["id"]: one["score"] for one in record["results"]}
    assert record["find"] == "images"
    assert score["film-a"] == pytest.approx(wanted["film-b"], abs=1e-4)
    assert run("retrieve", "query", index, films / "a.png", "--scorer", "likelihood").code == 0


def test_an_index_is_added_to_and_a_killed_run_goes_on(run, manifest, tmp_path):
    lines = manifest.read_text().splitlines(keepends=True)
    part = manifest.with_name("part.jsonl")
    part.write_text(lines[0])
    folder = tmp_path / "grown"
    first = run("retrieve", "index", part, "-o", folder)
    assert [record["indexed"] for record in first.records] == [["images", "reports"]]
    again = run("retrieve", "index", manifest, "-o", folder)
    assert [record["indexed"] for record in again.records] == [[], ["images", "reports"], ["images", "reports"]]
    whole = tmp_path / "whole"
    run("retrieve", "index", manifest, "-o", whole)
    ours, theirs = (
        [run("retrieve", "query", one, "--text", WORDS[0]).records for one in (folder, whole)][side] for side in (0, 1)
    )
    assert [one["id"] for one in ours[0]["results"]] == [one["id"] for one in theirs[0]["results"]]
    assert not any(word.encode() in path.read_bytes() for word in WORDS for path in folder.iterdir())


#: Rows of the list that shares do: pairs of them are batches, the fourth is of a damaged film, the last an id again.
_LISTED = 9


@pytest.fixture
def rows(manifest, films, tmp_path):
    """Return records of nine rows: one without a text, one of a damaged film, one whose id was there before."""
    (films / "broken.png").write_bytes((films / "b.png").read_bytes()[:300])
    first = json.loads(manifest.read_text().splitlines()[0])
    lines = []
    for number in range(_LISTED):
        name = "broken" if number == 3 else "abc"[number % 3]
        texts = {} if number == 4 else {"findings": f"Film {number}.", "impression": WORDS[number % 3]}
        lines.append({**first, "id": f"row-{number % 8}", "file": str(films / f"{name}.png"), **texts})
    lines[4] |= {"findings": None, "impression": None}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def indexed(run):
    """Return a function that indexes records in small batches into small files, in shares if it is told which."""
    small = ("--with-text", "--set", "input.batch_size=2", "--set", "store.rows=3")
    return lambda source, out, *more: run("retrieve", "index", "-", "-o", out, *small, *more, stdin=source.read_text())


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize(("num_parts", "has_torchrun"), [(5, False), (2, True)])
def test_shares_merged_are_the_index_of_one_process(
    run, call, indexed, rows, tmp_path, monkeypatch, num_parts, has_torchrun
):
    """Five batches; the id that occurs twice stands in two of them, and so in two shares."""
    whole = indexed(rows, tmp_path / "whole")
    assert (whole.code, [record["status"] for record in whole.records].count("error")) == (3, 2)
    for part in range(num_parts):
        with monkeypatch.context() as patch:
            for name, value in (("RANK", part), ("WORLD_SIZE", num_parts), ("LOCAL_RANK", part)):
                if has_torchrun:
                    patch.setenv(name, str(value))
            share = indexed(rows, tmp_path / "index", *(() if has_torchrun else ("--shard", f"{part}/{num_parts}")))
        assert share.stdout == ""
    assert not (tmp_path / "index").exists()
    files = sorted(tmp_path.glob("index.part-*.jsonl"))
    merged = call("data", "merge", *reversed(files), "-o", tmp_path / "index", "--json")
    assert merged.records == [{"id": str(tmp_path / "index"), "status": "ok", "num_records": _LISTED}]
    assert content(tmp_path / "index") == content(tmp_path / "whole")
    assert len(content(tmp_path / "whole")) == 1 + 3 + 2
    # What the index has is not added again, as in one process.
    call("data", "merge", *files, "-o", tmp_path / "index")
    assert content(tmp_path / "index") == content(tmp_path / "whole")
    query = ("--text", WORDS[1], "--find", "reports", "-k", "4")
    found = [run("retrieve", "query", tmp_path / name, *query).records for name in ("index", "whole")]
    assert found[0] == found[1]


def test_a_share_of_an_index_goes_on_where_it_was_stopped(indexed, rows, tmp_path):
    indexed(rows, tmp_path / "whole", "--shard", "0/2")
    with interrupted_behind(3):
        assert indexed(rows, tmp_path / "stopped", "--shard", "0/2").code == 130
    records = [tmp_path / f"{name}.part-000-of-002.jsonl" for name in ("stopped", "whole")]
    assert records[0].read_bytes() != records[1].read_bytes()
    other = indexed(rows, tmp_path / "stopped", "--shard", "0/2", "--only", "images")
    assert (other.code, "was begun with kinds ['images', 'reports']; expected ['images']" in other.stderr) == (2, True)
    resumed = indexed(rows, tmp_path / "stopped", "--shard", "0/2")
    assert "in the file already: 2 records" in resumed.stderr
    assert records[0].read_bytes() == records[1].read_bytes()


def test_shares_are_added_to_an_index_of_the_same_model_only(call, indexed, rows, manifest, tmp_path):
    for part in range(2):
        indexed(rows, tmp_path / "new", "--shard", f"{part}/2")
    files = sorted(tmp_path.glob("new.part-*.jsonl"))
    indexed(manifest, tmp_path / "index")
    before = content(tmp_path / "index")
    assert call("data", "merge", files[0], "-o", tmp_path / "index").code == 1
    assert content(tmp_path / "index") == before
    assert call("data", "merge", *files, "-o", tmp_path / "index").code == 0
    assert content(tmp_path / "index").items() > before.items()
    indexed(manifest, tmp_path / "other", "--set", "embedding.image_layer=0")
    refused = call("data", "merge", *files, "-o", tmp_path / "other")
    assert (refused.code, "an index of image_layer 0; expected image_layer 1" in refused.stderr) == (1, True)


def test_shares_of_token_shards_know_their_texts(run, call, manifest, tmp_path):
    run("tokenize", "-", "-o", tmp_path / "shards", stdin=manifest.read_text())
    run("retrieve", "index", tmp_path / "shards", "-o", tmp_path / "whole", "--set", "input.batch_size=1")
    for part in range(2):
        words = ("-o", tmp_path / "index", "--set", "input.batch_size=1", "--shard", f"{part}/2")
        run("retrieve", "index", tmp_path / "shards", *words)
    call("data", "merge", *tmp_path.glob("index.part-*.jsonl"), "-o", tmp_path / "index")
    assert content(tmp_path / "index") == content(tmp_path / "whole")


def test_bad_rows_are_named_and_the_others_done(run, manifest, films, tmp_path):
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    (films / "broken.png").write_bytes(b"no picture")
    rows[1]["file"] = str(films / "broken.png")
    rows[2] |= {"findings": None, "impression": None}
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("retrieve", "index", manifest, "-o", tmp_path / "i")
    assert done.code == 3
    assert [record["status"] for record in done.records] == ["ok", "error", "ok"]
    assert done.records[2]["indexed"] == ["images"]
    done = run("retrieve", "index", manifest, "-o", tmp_path / "r", "--only", "reports")
    assert done.records[2]["error"]["message"].startswith("has no text")
    changed = rows[0] | {"impression": "Other words."}
    manifest.write_text(json.dumps(changed) + "\n")
    done = run("retrieve", "index", manifest, "-o", tmp_path / "i")
    assert (done.code, done.records[0]["error"]["code"]) == (1, "DUPLICATE")


def test_pipes_and_shards(run, manifest, films, tmp_path):
    tokens = run("tokenize", "-", "-o", tmp_path / "shards", stdin=manifest.read_text())
    assert tokens.code == 0, tokens.stderr
    done = run("retrieve", "index", tmp_path / "shards", "-o", tmp_path / "i")
    assert [record["indexed"] for record in done.records] == [["images", "reports"]] * 3
    refused = run("retrieve", "index", tmp_path / "shards", "-o", tmp_path / "j", "--set", "embedding.section=findings")
    assert "token shards hold whole reports" in refused.stderr
    codes = run("tokenize", films / "a.png", films / "b.png").stdout
    piped = run("retrieve", "index", "-", "-o", tmp_path / "i", stdin=codes)
    assert [record["indexed"] for record in piped.records] == [["images"], ["images"]]
    found = run("retrieve", "query", tmp_path / "i", "-", "--find", "images", "-k", "1", stdin=codes)
    assert [record["results"][0]["id"] for record in found.records] == ["film-a", "film-b"]
    twice = run("retrieve", "index", "-", "-o", tmp_path / "k", stdin=codes + codes)
    assert [record["status"] for record in twice.records] == ["ok", "ok", "error", "error"]


def test_faiss_finds_the_same(run, index, films):
    pytest.importorskip("faiss", reason="faiss-cpu, the extra scale, is not installed")
    ours = run("retrieve", "query", index, films, "--find", "images").records
    theirs = run("retrieve", "query", index, films, "--find", "images", "--set", "search.backend=faiss").records
    for one, other in zip(ours, theirs, strict=True):
        assert [each["id"] for each in one["results"]] == [each["id"] for each in other["results"]]


def test_another_model_is_refused(call, index, films):
    done = call("retrieve", "query", index, films / "a.png")
    assert done.code == 1
    assert "an index of model_hash" in done.stderr
    done = call("retrieve", "index", films, "-o", index)
    assert done.code == 1
    assert "no such manifest or shards" in done.stderr


def test_another_preset_is_refused(run, index, films):
    done = run("retrieve", "query", index, films / "a.png", "--set", "input.preset=percentile")
    assert "an index of preset_hash" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "x", "--scorer", "likelihood", "--find", "reports"], "from a text to reports; expected cosine"),
        (["--scorer", "bm25", "--text", "x"], "--scorer: is 'bm25'"),
        (["--find", "texts", "--text", "x"], "--find: is 'texts'"),
        (["films", "--text", "x"], "cannot be combined with films"),
        ([], "no input"),
    ],
    ids=str,
)
def test_wrong_queries_exit_2(run, index, arguments, message):
    done = run("retrieve", "query", index, *arguments)
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr


def test_what_an_index_lacks_is_said(run, manifest, films, tmp_path):
    run("retrieve", "index", manifest, "-o", tmp_path / "i", "--only", "images")
    done = run("retrieve", "query", tmp_path / "i", "--text", "x", "--find", "reports")
    assert (done.code, "holds no reports" in done.stderr) == (1, True)
    done = run("retrieve", "index", manifest, "-o", tmp_path / "i", "--only", "texts")
    assert (done.code, "--only: is 'texts'" in done.stderr) == (2, True)
    run("retrieve", "index", manifest, "-o", tmp_path / "r", "--only", "reports")
    done = run("retrieve", "query", tmp_path / "r", films / "a.png", "--scorer", "likelihood")
    assert "keeps no texts of reports" in done.stdout + done.stderr


def test_the_head_of_a_pipe_may_close_it(manifest, debug_weights, tmp_path, repository):
    command = f"{sys.executable} -m chexmix_cli retrieve index {manifest} -o {tmp_path / 'i'} --weights {debug_weights}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} | head -n 0; true"],
        capture_output=True,
        text=True,
        cwd=repository,
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_an_evaluation_from_the_manifest_the_index_and_a_file_agree(run, call, manifest, index, tmp_path):
    from safetensors.torch import save_file

    from chexmix_cli.core.infer.retrieval.vector_index import VectorIndex

    common = ("--set", "bootstrap.resamples=100", "--manifest", manifest)
    page = tmp_path / "page.html"
    done = run("evaluate", "retrieval", *common, "--html", page, "--plots", tmp_path / "plots")
    assert done.code == 0, done.stderr
    (result,) = done.records
    assert result["data"] == {"split": "val", "pairs": 3, "patients": 2, "rows without text": 0, "different texts": 3}
    assert (tmp_path / "plots/retrieval-recall.png").stat().st_size > 1000
    assert WORDS[1] in page.read_text()
    assert WORDS[1] not in done.stdout
    from_index = call("evaluate", "retrieval", index, *common).records[0]
    opened = VectorIndex.open(index)
    vectors = {"images": opened.vectors("images").clone(), "texts": opened.vectors("reports").clone()}
    save_file(vectors, tmp_path / "v.safetensors", metadata={"ids": json.dumps(opened.ids("images"))})
    from_file = call("evaluate", "retrieval", tmp_path / "v.safetensors", *common).records[0]

    def numbers(record):
        return [(one["name"], one["value"], one["interval"]) for one in record["metrics"]]

    assert numbers(from_index) == numbers(result) == numbers(from_file)
    assert from_index["metrics"][0]["fields"] == result["metrics"][0]["fields"]
    alone = call("evaluate", "retrieval", tmp_path / "v.safetensors", "--set", "bootstrap.resamples=0").records[0]
    assert {one["fields"]["relevance"] for one in alone["metrics"]} == {"pair"}
    assert len(alone["missing"]) == 3


def test_rows_that_are_not_there_are_listed(run, call, manifest, index):
    lines = manifest.read_text()
    extra = {**json.loads(lines.splitlines()[0]), "id": "film-d"}
    silent = {**extra, "id": "film-e", "findings": None, "impression": None}
    manifest.write_text(lines + json.dumps(extra) + "\n" + json.dumps(silent) + "\n")
    done = call("evaluate", "retrieval", index, "--manifest", manifest, "--set", "bootstrap.resamples=0")
    assert done.code == 3
    assert [one["id"] for one in done.records[0]["failed"]] == ["film-d"]
    assert done.records[0]["data"]["rows without text"] == 1


def test_likelihood_is_evaluated_and_the_scorer_is_in_the_protocol(run, call, manifest, index):
    flags = ("--set", "scorer=likelihood", "--set", "bootstrap.resamples=0", "--manifest", manifest)
    (result,) = run("evaluate", "retrieval", *flags).records
    fields = result["metrics"][0]["fields"]
    assert (fields["scorer"], fields["minus"], fields["top"]) == ("likelihood", "hidden", "100")
    done = call("evaluate", "retrieval", index, *flags)
    assert (done.code, "likelihood needs a manifest alone" in done.stderr) == (2, True)


def test_nothing_to_evaluate_is_said(run, manifest):
    assert "expected a manifest, an index or scores" in run("evaluate", "retrieval").stderr
    manifest.write_text(manifest.read_text().splitlines()[0] + "\n")
    done = run("evaluate", "retrieval", "--manifest", manifest)
    assert (done.code, "1 pairs of image and text" in done.stderr) == (1, True)


def test_contrastive_projections_are_used_if_the_weights_have_them(call, debug_weights, manifest, tmp_path, films):
    from chexmix_cli.core.infer.retrieval.projection import Projection
    from chexmix_cli.core.weights import open_weights

    weights = tmp_path / "weights"
    shutil.copytree(debug_weights, weights)
    projection = Projection(layer=1, hidden_size=32, size=5)
    projection.model = "f" * 64
    projection.save(weights, {})
    refused = call("retrieve", "index", manifest, "-o", tmp_path / "none", "--weights", weights)
    assert (refused.code, "retrieval.safetensors: was made for other weights" in refused.stderr) == (1, True)
    projection.model = open_weights(weights).fingerprint
    projection.save(weights, {})
    index = tmp_path / "p"
    assert call("retrieve", "index", manifest, "-o", index, "--weights", weights).code == 0
    identity = json.loads((index / "index.json").read_text())["identity"]
    assert (identity["size"], identity["image_layer"], len(identity["projection_hash"])) == (5, 1, 64)
    done = call("retrieve", "query", index, films / "b.png", "--find", "images", "-k", 1, "--weights", weights)
    assert done.records[0]["results"][0]["id"] == "film-b"
    done = call("retrieve", "query", index, films / "b.png", "--weights", debug_weights)
    assert "an index of projection_hash" in done.stderr
