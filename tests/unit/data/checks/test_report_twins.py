"""Reports that repeat each other: found by what they share, and nothing else."""

from __future__ import annotations

import json

import pytest

from chexmix_cli.core.data.checks.report_twins import near_twins, normal_words, word_groups


def groups_of(texts):
    return [word_groups(normal_words(text)) for text in texts]


def share(left, right):
    left, right = set(left.tolist()), set(right.tolist())
    return len(left & right) / len(left | right)


def test_words_have_no_case_and_no_punctuation():
    assert normal_words("No effusion,\nXXXX; ___ 2 cm.") == ["no", "effusion", "xxxx", "___", "2", "cm"]
    assert normal_words(" . ") == []


def test_word_groups_are_of_four_and_shorter_reports_are_one():
    assert len(word_groups(normal_words("a b c d e"))) == 2
    assert len(word_groups(normal_words("a b"))) == 1
    assert len(word_groups([])) == 0
    assert len(word_groups(normal_words("a b c d a b c d"))) == 4  # the first of five comes again


LONG = "the heart is normal in size and the lungs are clear without focal consolidation effusion or pneumothorax"


def test_a_changed_word_is_near_and_another_report_is_not():
    texts = [
        LONG,
        "there is a large left pleural effusion with atelectasis of the lower lobe",
        LONG + " today",
        "",
        LONG[4:],
    ]
    found = sorted(near_twins(groups_of(texts), 0.8))
    assert [(index, head) for index, head, _ in found] == [(2, 0), (4, 0)]
    assert all(
        common == pytest.approx(share(*(groups_of(texts)[index] for index in pair[:2]))) for *pair, common in found
    )
    assert list(near_twins(groups_of(texts), 0.99)) == []
    assert list(near_twins([], 0.8)) == []


def test_a_crowd_of_near_reports_is_counted_once_each():
    texts = [f"{LONG} seen on view {number}" for number in range(400)]
    found = list(near_twins(groups_of(texts), 0.7))
    assert len({index for index, _, _ in found}) == len(found) == 399


def test_real_reports_against_every_pair(shared):
    lines = (shared / "data" / "reports" / "iu_reports.jsonl").read_text().splitlines()[:600]
    texts = sorted({" ".join(normal_words(json.loads(line)["report"] or "")) for line in lines} - {""})
    groups = groups_of(texts)
    truth = {
        (left, right)
        for right in range(len(groups))
        for left in range(right)
        if min(len(groups[left]), len(groups[right])) >= 0.8 * max(len(groups[left]), len(groups[right]))
        and share(groups[left], groups[right]) >= 0.8
    }
    assert len(truth) > 3
    found = {(min(index, head), max(index, head)) for index, head, _ in near_twins(groups, 0.8)}
    assert found <= truth
    in_a_pair = {index for pair in truth for index in pair}
    assert len({index for pair in found for index in pair}) >= 0.9 * len(in_a_pair)
