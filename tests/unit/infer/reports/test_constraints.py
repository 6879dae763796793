from __future__ import annotations

import pytest
import torch

from chexmix_cli.core.errors import VocabularyError
from chexmix_cli.core.infer.reports.engine import constrain
from chexmix_cli.core.vocab import RELEASED, compact


def test_all_is_every_row_and_only_the_text_marker_ends():
    constraint = constrain(RELEASED, "all")
    assert (constraint.rows, constraint.denied, constraint.ends) == (slice(0, 58562), (), (50256,))


def test_released_text_is_one_slice_without_holes():
    constraint = constrain(RELEASED, "text")
    assert (constraint.rows, constraint.denied) == (slice(0, 50296), ())
    assert set(constraint.ends) == {50256, 50295}


def test_ids_the_tokenizer_does_not_know_are_holes():
    vocabulary = compact(num_text=20, num_codes=4, tokens_per_image=4)
    constraint = constrain(vocabulary, "text", [3, 4, 7, vocabulary.end_image, vocabulary.begin_text])
    assert constraint.rows == slice(3, 19)
    assert constraint.denied == (5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16)
    assert set(constraint.ends) == {17, 18}


@pytest.mark.parametrize("token_id", [-1, 1024, 58560])
def test_an_ordinary_id_must_be_text(token_id):
    vocabulary = compact(num_text=1024, num_codes=8, tokens_per_image=4)
    with pytest.raises(VocabularyError, match=f"ordinary id {token_id}"):
        constrain(vocabulary, "text", [1, token_id])


def test_ends_are_held_back_row_by_row():
    mask = constrain(compact(num_text=6, num_codes=2, tokens_per_image=4), "text", [1]).on(torch.device("cpu"))
    # Columns 0..3 are ids 1..4: 1 is ordinary, 2 unknown, 3 T_s, 4 I_s.
    masked = mask.apply(torch.zeros(2, 4), [True, False])
    assert torch.isinf(masked).tolist() == [[False, True, True, True], [False, True, False, False]]
    assert torch.isinf(mask.apply(torch.zeros(1, 4), [False])).tolist() == [[False, True, False, False]]
