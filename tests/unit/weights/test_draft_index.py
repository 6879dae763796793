"""The index against counting with plain dictionaries; files of it; the embedded one against its templates."""

from __future__ import annotations

import json
import random
import runpy
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from chexmix_cli.core.errors import DataError, SettingsError, WeightsError
from chexmix_cli.core.settings.inference import DraftSettings
from chexmix_cli.core.vocab import compact
from chexmix_cli.core.weights import open_weights
from chexmix_cli.core.weights.draft_index import DraftIndex

VOCABULARY = compact(num_text=40, num_codes=8, tokens_per_image=4)
TOKENIZER = "0123456789ab"


def make_reports(count=120, seed=0):
    """Return reports of phrases, some of the same patient, and some words of one patient only."""
    rng = random.Random(seed)
    phrases = [[rng.randrange(30) for _ in range(rng.randrange(1, 9))] for _ in range(9)]
    found = []
    for number in range(count):
        ids = [token_id for _ in range(rng.randrange(4)) for token_id in rng.choice(phrases)]
        if rng.random() < 0.3:
            ids.insert(rng.randrange(len(ids) + 1), rng.randrange(30))
        found.append((number // 3 if number < 60 else f"p{number}", ids))
    return found


def counted(reports, order, least):
    """Return context -> what follows it with most patients, by plain counting."""
    patients = defaultdict(lambda: defaultdict(set))
    for patient, report in reports:
        ids = [VOCABULARY.begin_text, *report, VOCABULARY.begin_image]
        for end in range(1, len(ids)):
            for length in range(1, min(order, end) + 1):
                patients[tuple(ids[end - length : end])][ids[end]].add(patient)
    found = {}
    for context, followers in patients.items():
        enough = {one: len(who) for one, who in followers.items() if len(who) >= least}
        if enough:
            found[context] = min(enough, key=lambda one: (-enough[one], one))
    return found


def draft_by(table, order, ids, count):
    ids = list(ids)
    start = len(ids)
    while len(ids) < start + count:
        known = [table[tuple(ids[-n:])] for n in range(min(order, len(ids)), 0, -1) if tuple(ids[-n:]) in table]
        if not known:
            break
        ids.append(known[0])
    return ids[start:]


@pytest.mark.parametrize(("order", "least"), [(1, 1), (1, 3), (2, 2), (6, 3), (8, 1), (8, 2), (12, 20)])
def test_drafts_are_those_of_plain_counting(order, least):
    reports = make_reports()
    table = counted(reports, order, least)
    settings = DraftSettings(order=order, min_patients=least)
    index = DraftIndex.build(reports, VOCABULARY, settings, tokenizer=TOKENIZER)
    assert 0 < len(index) <= len(table)
    rng, num_drafts = random.Random(1), 0
    for _, report in [*reports, *make_reports(40, seed=0), *make_reports(40, seed=5)]:
        ids = [VOCABULARY.begin_image, 41, 42, VOCABULARY.begin_text, *report][: 4 + rng.randrange(len(report) + 1)]
        count = rng.randrange(9)
        found = list(index.draft(ids, count))
        assert found == draft_by(table, order, ids, count)
        num_drafts += len(found)
    assert num_drafts > 100


def test_what_the_shorter_context_says_is_not_kept_twice():
    index = DraftIndex.build(
        [(n, [1, 2, 3]) for n in range(3)], VOCABULARY, DraftSettings(order=4), tokenizer=TOKENIZER
    )
    assert len(index) == 4  # T_s, 1, 2, 3: every longer context says the same
    assert list(index.draft([VOCABULARY.begin_text], 9)) == [1, 2, 3, VOCABULARY.begin_image]


def test_what_too_few_patients_have_is_not_in_the_file():
    secret = [7, 8, 9]
    reports = [*[(n, [1, 2]) for n in range(3)], *[("one", secret)] * 5, ("two", secret)]
    index = DraftIndex.build(reports, VOCABULARY, DraftSettings(min_patients=3), tokenizer=TOKENIZER)
    assert list(index.draft([7], 3)) == []
    more = DraftIndex.build([*reports, ("three", secret)], VOCABULARY, DraftSettings(), tokenizer=TOKENIZER)
    assert list(more.draft([7], 2)) == [8, 9]


def test_nothing_shared_is_an_error():
    reports = [(0, [1, 2]), (0, [1, 2]), (1, [3])]
    settings = DraftSettings(min_patients=3)
    with pytest.raises(DataError, match=r"nothing occurs in reports of 3 of 2 patients.*"):
        DraftIndex.build(reports, VOCABULARY, settings, tokenizer=TOKENIZER)
    with pytest.raises(DataError, match="of 0 patients"):
        DraftIndex.build([], VOCABULARY, settings, tokenizer=TOKENIZER)


@pytest.mark.parametrize(("name", "value"), [("order", 0), ("order", 33), ("min_patients", 0)])
def test_settings_have_bounds(name, value):
    with pytest.raises(SettingsError, match=rf"drafts\.{name}"):
        DraftSettings(**{name: value})


@pytest.fixture
def file(tmp_path):
    index = DraftIndex.build(make_reports(), VOCABULARY, DraftSettings(), tokenizer=TOKENIZER)
    index.save(tmp_path / "drafts.safetensors")
    return tmp_path / "drafts.safetensors"


def test_a_file_comes_back_and_is_the_same_each_time(file, tmp_path):
    built = DraftIndex.build(make_reports(), VOCABULARY, DraftSettings(), tokenizer=TOKENIZER)
    loaded = DraftIndex.load(file, tokenizer=TOKENIZER, vocabulary=VOCABULARY)
    assert loaded.info == built.info
    assert (loaded.info.num_reports, loaded.info.min_patients, loaded.info.order) == (120, 3, 6)
    for _, report in make_reports():
        assert list(loaded.draft([VOCABULARY.begin_text, *report[:3]], 7)) == list(
            built.draft([VOCABULARY.begin_text, *report[:3]], 7)
        )
    built.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.safetensors", "drafts.safetensors"]


def test_another_tokenizer_or_none_is_refused(file, tmp_path):
    with pytest.raises(
        WeightsError, match=rf"another text tokenizer \({TOKENIZER}\); expected the one in use \(ffff\)"
    ):
        DraftIndex.load(file, tokenizer="ffff", vocabulary=VOCABULARY)
    with pytest.raises(WeightsError, match="another text tokenizer"):
        DraftIndex.load(file, tokenizer=None, vocabulary=VOCABULARY)
    with pytest.raises(WeightsError, match="no draft index"):
        DraftIndex.load(tmp_path / "none.safetensors", tokenizer=TOKENIZER, vocabulary=VOCABULARY)


def _metadata(file):
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        return json.loads(stream.read(size))["__metadata__"]


def test_what_is_no_index_is_refused(file):
    tensors, metadata = load_file(file), _metadata(file)
    values = json.loads(metadata["chexmix-drafts"])
    damaged = [
        (tensors, {}),
        (tensors, {"chexmix-drafts": "{"}),
        (tensors, {"chexmix-drafts": "[1]"}),
        (tensors, {"chexmix-drafts": json.dumps({**values, "schema": 2})}),
        (tensors, {"chexmix-drafts": json.dumps({**values, "more": 2})}),
        ({"keys": tensors["keys"]}, metadata),
        ({**tensors, "next": tensors["next"][:-1]}, metadata),
        ({**tensors, "next": tensors["next"].astype(np.int64)}, metadata),
        ({name: tensor[:0] for name, tensor in tensors.items()}, metadata),
    ]
    for changed, text in damaged:
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in changed.items()}, file, metadata=text)
        with pytest.raises(WeightsError, match="is no draft index"):
            DraftIndex.load(file, tokenizer=TOKENIZER, vocabulary=VOCABULARY)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(WeightsError):
        DraftIndex.load(file, tokenizer=TOKENIZER, vocabulary=VOCABULARY)


def test_the_embedded_index_is_what_its_tool_makes(repository, tmp_path):
    weights = open_weights(None)
    tool = runpy.run_path(str(repository / "tools" / "make_mini_drafts.py"))
    tool["make"]().save(tmp_path / "drafts.safetensors")
    shipped = weights.path / "drafts.safetensors"
    assert (tmp_path / "drafts.safetensors").read_bytes() == shipped.read_bytes(), "python tools/make_mini_drafts.py"
    assert shipped.stat().st_size < 1_000_000


def test_the_embedded_index_knows_how_reports_go_on():
    weights = open_weights(None)
    tokenizer, index = weights.load_text_tokenizer(), weights.load_drafts()
    begin_text = weights.settings.vocabulary.begin_text
    assert "FINDINGS: ".startswith(tokenizer.decode(index.draft([begin_text], 2)))
    ids = [begin_text, *tokenizer.encode("FINDINGS: Clear lungs.\nIMPRESSION:")]
    assert tokenizer.decode(index.draft(ids, 3)).startswith((" No", " Normal", " Pneumonia"))


def test_weights_without_an_index_have_none(tiny_dir):
    assert open_weights(Path(tiny_dir)).load_drafts() is None
