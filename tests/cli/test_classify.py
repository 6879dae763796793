"""``chexmix classify``: heads, embeddings, masks, studies, pipes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from chexmix_cli.core.infer.classification.heads import Validation
from chexmix_cli.core.infer.embeddings import image_embeddings
from chexmix_cli.core.infer.position_masks import hidden_positions, hiding_order
from chexmix_cli.core.infer.typicality import Typical, codes_statistics
from chexmix_cli.core.weights import open_weights
from tests.unit.infer.classification.test_heads import make_head

LABELS = ("Mass", "Edema", "Hernia")


@pytest.fixture
def head_file(debug_weights, tmp_path):
    weights = open_weights(debug_weights)
    head = make_head(3, weights.settings.decoder.hidden_size, labels=LABELS, layer=1, model=weights.fingerprint)
    head.save(tmp_path / "head.safetensors")
    return tmp_path / "head.safetensors"


@pytest.fixture
def codes(call, films, debug_weights):
    """Return the codes of the three films by id."""
    return {record["id"]: record["codes"] for record in call("tokenize", films, "--weights", debug_weights).records}


def states(debug_weights, codes, **options):
    weights = open_weights(debug_weights)
    decoder = weights.load_decoder("cpu", torch.float32)
    return image_embeddings(decoder, weights.settings.vocabulary, codes, **options).numpy()


def test_probabilities_are_the_heads_of_the_images_embedding(call, films, debug_weights, head_file, codes):
    from chexmix_cli.core.infer.classification.heads import Head

    done = call("classify", films, "--weights", debug_weights, "--head", head_file)
    assert done.code == 0, done.stderr
    wanted = Head.load(head_file).probabilities(states(debug_weights, list(codes.values()))[:, 1])
    for record, values in zip(done.records, wanted, strict=True):
        assert list(record["probabilities"]) == list(LABELS)
        assert list(record["probabilities"].values()) == pytest.approx(values.tolist(), abs=1e-5)
        assert (record["status"], record["scored_by"]) == ("ok", "head")
        assert "not for clinical use" in record["mark"]
    assert [record["id"] for record in done.records] == list(codes)


def test_a_head_of_a_grid_reads_the_grid_and_embeddings_stay_means(call, films, debug_weights, codes, tmp_path):
    weights = open_weights(debug_weights)
    head = make_head(3, 4 * weights.settings.decoder.hidden_size, labels=LABELS, layer=1, grid=2)
    head = replace(head, model=weights.fingerprint)
    head.save(tmp_path / "grid.safetensors")
    common = ("classify", films, "--weights", debug_weights, "--head", tmp_path / "grid.safetensors")
    done = call(*common, "--embeddings", "--layer", "1")
    assert done.code == 0, done.stderr
    wanted = head.probabilities(states(debug_weights, list(codes.values()), layers=[1], grid=2)[:, 0])
    means = states(debug_weights, list(codes.values()), layers=[1])[:, 0]
    for record, values, mean_D in zip(done.records, wanted, means, strict=True):
        assert list(record["probabilities"].values()) == pytest.approx(values.tolist(), abs=1e-5)
        assert record["embeddings"]["1"] == pytest.approx(mean_D.tolist(), abs=1e-5)


def test_what_validation_showed_stands_beside_the_probabilities(call, films, debug_weights, tmp_path):
    weights = open_weights(debug_weights)
    hidden = weights.settings.decoder.hidden_size
    known = {LABELS[0]: Validation(auroc=0.8125, interval=(0.75, 0.875), positives=40, negatives=60)}
    head = make_head(3, hidden, labels=LABELS, layer=1, model=weights.fingerprint, validation=known)
    head.save(tmp_path / "known.safetensors")
    common = ("classify", films, "--weights", debug_weights, "--head", tmp_path / "known.safetensors")
    for record in call(*common).records:
        assert record["val_auroc"] == {LABELS[0]: 0.8125}
    # It was measured on whole images.
    assert all("val_auroc" not in record for record in call(*common, "--mask-ratio", "0.5").records)


def test_records_of_tokenize_and_manifest_lines_give_the_same(call, films, debug_weights, head_file):
    common = ("--weights", debug_weights, "--head", head_file)
    direct = call("classify", films, *common).records
    piped = call("classify", "-", *common, stdin=call("tokenize", films, "--weights", debug_weights).stdout).records
    names = [one["id"].split("/")[-1].removesuffix(".png") for one in direct]
    lines = [
        json.dumps({"id": one["id"], "file": f"{films}/{name}.png"}) for one, name in zip(direct, names, strict=True)
    ]
    listed = call("classify", "-", *common, stdin="\n".join(lines)).records
    for found in (piped, listed):
        assert [one["id"] for one in found] == [one["id"] for one in direct]
        for one, other in zip(found, direct, strict=True):
            assert list(one["probabilities"].values()) == pytest.approx(list(other["probabilities"].values()), abs=1e-5)


def test_embeddings_need_no_head_and_come_by_layer(call, films, debug_weights, codes):
    done = call("classify", films, "--weights", debug_weights, "--embeddings", "--layer", "2", "--layer", "0")
    assert done.code == 0, done.stderr
    wanted = states(debug_weights, list(codes.values()))
    for record, values in zip(done.records, wanted, strict=True):
        assert list(record["embeddings"]) == ["2", "0"]
        assert np.allclose(record["embeddings"]["2"], values[2], atol=1e-5)
        assert "probabilities" not in record
    every = call("classify", films, "--weights", debug_weights, "--embeddings").records[0]["embeddings"]
    assert list(every) == ["0", "1", "2"]


def test_masks_are_nested_by_image_and_hide_what_they_cover(call, debug_weights, codes):
    """A hidden code changes nothing; a visible one does; the masks at 0.25 lie within those at 0.5."""
    name, image = next(iter(codes.items()))
    order = hiding_order("block", 4, seed=3, key=name)
    hidden = {ratio: np.flatnonzero(hidden_positions(order, ratio)) for ratio in (0.25, 0.5)}
    assert set(hidden[0.25]) < set(hidden[0.5])

    def embedding(changed, ratio):
        other = list(image)
        for position in changed:
            other[position] = (other[position] + 1) % 16
        done = call(
            "classify", "-", "--weights", debug_weights, "--embeddings", "--layer", 2, "--mask-ratio", ratio,
            "--seed", 3, "--set", "mask.pattern=block", stdin=json.dumps({"id": name, "codes": other}),
        )  # fmt: skip
        (record,) = done.records
        assert record["masked"] == {"ratio": ratio, "pattern": "block", "seed": 3, "hidden": "tokens"}
        return record["embeddings"]["2"]

    plain = {ratio: embedding([], ratio) for ratio in hidden}
    for ratio, positions in hidden.items():
        assert embedding(positions, ratio) == plain[ratio]
    between = [position for position in hidden[0.5] if position not in hidden[0.25]]
    assert embedding(between, 0.5) == plain[0.5]
    assert embedding(between, 0.25) != plain[0.25]
    is_masked_BP = hidden_positions(order, 0.5)[None]
    assert np.allclose(plain[0.5], states(debug_weights, [image], is_masked_BP=is_masked_BP)[0, 2], atol=1e-5)


def test_a_study_is_scored_by_its_views(call, tmp_path, make_dicom, debug_weights, head_file):
    for number, view in ((1, "PA"), (2, "LL")):
        make_dicom(tmp_path / f"{number}.dcm", number, view=view)
    common = (tmp_path, "--weights", debug_weights, "--head", head_file)
    each = call("classify", *common, "--set", "input.views=all").records
    assert len(each) == 2
    values = np.array([list(record["probabilities"].values()) for record in each])
    for study, pool in (("max", values.max(0)), ("mean", values.mean(0))):
        (record,) = call("classify", *common, "--set", f"study={study}").records
        assert list(record["probabilities"].values()) == pytest.approx(pool.tolist(), abs=1e-5)
        assert record["scored_images"] == 2
    (record,) = call("classify", *common).records
    assert list(record["probabilities"].values()) == pytest.approx(values[0].tolist(), abs=1e-5)


def test_the_head_in_the_weights_is_the_default_and_its_absence_says_what_to_do(call, films, debug_weights, tmp_path):
    none = call("classify", films, "--weights", debug_weights)
    assert none.code == 1
    assert "head.safetensors: no head" in none.stderr
    assert "chexmix finetune --task classify --method probe" in none.stderr
    mine = tmp_path / "mine"
    shutil.copytree(debug_weights, mine)
    weights = open_weights(mine)
    make_head(3, weights.settings.decoder.hidden_size, labels=LABELS, layer=1, model=weights.fingerprint).save(
        mine / "head.safetensors"
    )
    assert list(call("classify", films, "--weights", mine).records[0]["probabilities"]) == list(LABELS)
    make_head(3, weights.settings.decoder.hidden_size, layer=1).save(mine / "head.safetensors")
    other = call("classify", films, "--weights", mine)
    assert (other.code, "made for other weights" in other.stderr) == (1, True)


def test_one_bad_input_leaves_the_others_alone(call, films, debug_weights, head_file):
    (films / "b.png").write_bytes(b"no picture")
    done = call("classify", films, "--weights", debug_weights, "--head", head_file)
    assert done.code == 3
    assert [record["status"] for record in done.records] == ["ok", "error", "ok"]


def test_sentences_are_scored_without_a_head(call, films, debug_weights, codes, tmp_path):
    path = tmp_path / "statements.json"
    path.write_text(json.dumps({"Mass": ["There is a mass.", "No mass."], "Edema": ["Edema.", "No edema is seen."]}))
    done = call("classify", films, "--weights", debug_weights, "--zero-shot", "--set", f"zero_shot.statements={path}")
    assert done.code == 0, done.stderr
    weights = open_weights(debug_weights)
    vocabulary, tokenizer = weights.settings.vocabulary, weights.load_text_tokenizer()
    decoder = weights.load_decoder("cpu", torch.float32)
    for record, image in zip(done.records, codes.values(), strict=True):
        assert record["scored_by"] == "zero-shot"
        for name, pair in json.loads(path.read_text()).items():
            ids = [tokenizer.encode("FINDINGS: " + text) for text in pair]
            means = []
            for one in ids:
                sequence = torch.tensor([[*vocabulary.report_prompt(image), *one]])
                with torch.inference_mode():
                    logprobs = decoder.logits(decoder(sequence))[0].double().log_softmax(dim=-1)
                start = len(sequence[0]) - len(one)
                means.append(np.mean([float(logprobs[start + place - 1, token]) for place, token in enumerate(one)]))
            wanted = np.exp(means[0]) / (np.exp(means[0]) + np.exp(means[1]))
            assert record["probabilities"][name] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "1"], "--layer: is given without --embeddings"),
        (["--embeddings", "--layer", "9"], "--layer: is 9; expected 0..2"),
        (["--zero-shot", "--embeddings"], "--zero-shot: cannot be combined with --head or --embeddings"),
        (["--zero-shot", "--mask-ratio", "0.2"], "--zero-shot: cannot be combined with --mask-ratio"),
        (["--mask-ratio", "1.5"], "--mask-ratio"),
        (["--set", "study=best"], "expected one, max, mean"),
        (["--set", "mask.pattern=stripes"], "expected random, block, border"),
        (["--zero-shot", "--set", "zero_shot.labels=['Gout']"], "zero_shot.labels: no sentences for 'Gout'"),
        (["--zero-shot", "--set", "zero_shot.batch_size=0"], "zero_shot.batch_size"),
        (["--zero-shot", "--set", "zero_shot.statements=nowhere.json"], "nowhere.json: cannot be read"),
    ],
)
def test_what_does_not_go_together_exits_2(call, films, debug_weights, arguments, message):
    done = call("classify", films, "--weights", debug_weights, *arguments)
    assert (done.code, message in done.stderr) == (2, True), done.stderr
    assert done.stdout == ""


def test_a_film_unlike_the_train_films_is_called_so_by_both_commands(call, films, debug_weights, codes, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(debug_weights, mine)
    weights = open_weights(mine)
    make_head(3, weights.settings.decoder.hidden_size, labels=LABELS, layer=1, model=weights.fingerprint).save(
        mine / "head.safetensors"
    )
    decoder = weights.load_decoder("cpu", torch.float32)
    x_BD = codes_statistics(decoder, weights.settings.vocabulary, list(codes.values()))
    whiten_RD = np.eye(x_BD.shape[1], dtype=np.float32)
    typical = Typical(
        mean_D=x_BD[1].astype(np.float32), whiten_RD=whiten_RD, threshold=1.0, share=0.01, model=weights.fingerprint
    )
    # Between the film in the middle, which is no distance from itself, and the nearest of the others.
    threshold = float(np.sort(typical.scores(x_BD))[1]) / 2
    replace(typical, threshold=threshold).save(mine / "typical.safetensors")
    short = ("--set", "decode.max_new_tokens=6")
    for command, *options in (("classify",), ("generate-report", *short), ("classify", "--zero-shot")):
        done = call(command, films, "--weights", mine, *options)
        assert done.code == 0, done.stderr
        found = done.records
        for record, score in zip(found, typical.scores(x_BD), strict=True):
            assert record["typicality"]["score"] == pytest.approx(score, abs=1e-2)
            assert record["typicality"]["threshold"] == pytest.approx(threshold, abs=1e-4)
        said = [[note for note in record.get("notes", []) if "unlike what this model" in note] for record in found]
        assert [len(notes) for notes in said] == [1, 0, 1]
    # Of masked tokens it is not known how probable they are, and embeddings alone do not ask.
    for options in (("--mask-ratio", "0.5"), ("--embeddings", "--layer", "1")):
        for record in call("classify", films, "--weights", mine, *options).records:
            assert "typicality" not in record
    replace(typical, model="0" * 64).save(mine / "typical.safetensors")
    refused = call("classify", films, "--weights", mine)
    assert refused.code == 1
    assert "typical.safetensors: was made for other weights" in refused.stderr
