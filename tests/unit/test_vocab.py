from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chexmix_cli.core.errors import ShapeError, VocabularyError
from chexmix_cli.core.vocab import RELEASED, Vocabulary, compact, grid_side

SMALL = compact(num_text=30, num_codes=9, tokens_per_image=4)
#: The same examples on every run, however slow the machine.
steady = settings(deadline=None, derandomize=True, database=None)
TABLES = pytest.mark.parametrize("vocabulary", [RELEASED, SMALL], ids=["released", "small"])


def test_the_released_table_is_the_published_one():
    """The numbers of CHEXMIX.md, written out a second time."""
    assert dataclasses.asdict(RELEASED) == {
        "num_text": 50368,
        "num_codes": 8192,
        "image_start": 50368,
        "tokens_per_image": 1024,
        "begin_image": 50295,
        "end_image": 50296,
        "begin_text": 50256,
        "mask": 58560,
        "pad": 58561,
        "num_rows": 58562,
    }
    assert RELEASED.image_stop == 58560
    assert RELEASED.prompt_length == 1027


def test_compact_leaves_no_gap_between_text_specials_codes_mask_and_pad():
    assert dataclasses.asdict(compact(num_text=30, num_codes=9, tokens_per_image=4)) == {
        "num_text": 30,
        "begin_text": 27,
        "begin_image": 28,
        "end_image": 29,
        "image_start": 30,
        "num_codes": 9,
        "tokens_per_image": 4,
        "mask": 39,
        "pad": 40,
        "num_rows": 41,
    }


@TABLES
def test_the_ranges_do_not_overlap(vocabulary):
    text, image = set(range(vocabulary.num_text)), set(range(vocabulary.image_start, vocabulary.image_stop))
    assert not text & image
    assert {vocabulary.begin_image, vocabulary.end_image, vocabulary.begin_text} < text
    assert not {vocabulary.mask, vocabulary.pad} & (text | image)
    assert text | image | {vocabulary.mask, vocabulary.pad} == set(range(vocabulary.num_rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_text": 31}, "num_text is 31; expected 1..image_start (30)"),
        ({"num_text": 0}, "num_text is 0; expected 1..image_start (30)"),
        ({"num_codes": 0}, "image ids 30..29 do not fit 41 rows"),
        ({"num_codes": 12}, "image ids 30..41 do not fit 41 rows"),
        ({"begin_image": 30}, "begin_image is 30; expected a text id below 30"),
        ({"end_image": -1}, "end_image is -1; expected a text id below 30"),
        ({"begin_text": 39}, "begin_text is 39; expected a text id below 30"),
        ({"mask": 38}, "mask is 38; expected a row outside the image ids"),
        ({"mask": 41}, "mask is 41; expected a row outside the image ids"),
        ({"mask": -1}, "mask is -1; expected a row outside the image ids"),
        ({"pad": 30}, "pad is 30; expected a row outside the image ids"),
        ({"pad": 39}, "special ids (28, 29, 27, 39, 39) are not distinct"),
        ({"begin_text": 28}, "special ids (28, 29, 28, 39, 40) are not distinct"),
        ({"mask": 27}, "special ids (28, 29, 27, 27, 40) are not distinct"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(VocabularyError) as caught:
        dataclasses.replace(SMALL, **change)
    assert str(caught.value) == f"vocabulary: {message}"


def test_the_smallest_table_and_one_whose_codes_end_with_the_rows_are_tables():
    assert compact(num_text=3, num_codes=1, tokens_per_image=1).num_rows == 6
    # Mask and pad between text and codes, and a special id 0.
    table = dataclasses.replace(SMALL, num_text=28, begin_image=0, end_image=1, mask=28, pad=29, num_rows=39)
    assert (table.image_start, table.image_stop) == (30, 39)
    assert (dataclasses.replace(SMALL, mask=0).mask, dataclasses.replace(SMALL, pad=0).pad) == (0, 0)


KINDS = {
    "list": list,
    "tuple": tuple,
    "numpy": np.array,
    "uint16": lambda values: np.array(values, np.uint16),
    "uint16 tensor": lambda values: torch.tensor(values, dtype=torch.uint16),
    "int16 tensor": lambda values: torch.tensor(values, dtype=torch.int16),
    "torch": torch.tensor,
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@TABLES
def test_codes_and_ids_convert_back_and_forth_in_any_container(vocabulary, kind):
    codes = kind([0, 5, vocabulary.num_codes - 1, 5])
    token_ids = vocabulary.codes_to_ids(codes)
    assert type(token_ids) is type(codes)
    expected = [vocabulary.image_start + code for code in (0, 5, vocabulary.num_codes - 1, 5)]
    assert [int(value) for value in token_ids] == expected
    assert [int(value) for value in vocabulary.ids_to_codes(token_ids)] == [int(code) for code in codes]


def test_conversions_keep_shape_and_leave_their_input():
    codes = torch.arange(8).view(2, 4)
    assert SMALL.codes_to_ids(codes).shape == (2, 4)
    assert torch.equal(codes, torch.arange(8).view(2, 4))
    assert SMALL.codes_to_ids(3) == 33
    assert SMALL.ids_to_codes(33) == 3
    assert SMALL.codes_to_ids([]) == []
    assert SMALL.codes_to_ids(np.zeros((0, 4), np.int64)).shape == (0, 4)


@steady
@given(token_id=st.integers(-(2**40), 2**40))
def test_every_id_is_of_one_kind_and_no_other_converts(token_id):
    is_image = SMALL.image_start <= token_id < SMALL.image_stop
    assert SMALL.is_image(token_id) is is_image
    if is_image:
        assert SMALL.codes_to_ids(SMALL.ids_to_codes(token_id)) == token_id
    else:
        with pytest.raises(VocabularyError, match=f"^image token id {token_id} is out of range; expected 30..38$"):
            SMALL.ids_to_codes(token_id)
    if 0 <= token_id < SMALL.num_text:
        assert SMALL.check_text(token_id) == token_id
    else:
        with pytest.raises(VocabularyError, match=f"^text token id {token_id} is out of range; expected 0..29$"):
            SMALL.check_text(token_id)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor], ids=["list", "tuple", "numpy", "torch"])
@pytest.mark.parametrize("code", [-1, 9, 10**6])
def test_a_code_out_of_range_is_refused_in_any_container(kind, code):
    with pytest.raises(VocabularyError, match=rf"^image code {code} is out of range; expected 0\.\.8$"):
        SMALL.codes_to_ids(kind([0, code, 8]))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([1.0, 2.5], "image codes that are no whole numbers; expected 0..8"),
        (np.array([1.0, 2.5]), "image codes of float64; expected whole numbers"),
        (torch.tensor([1.0, 2.5]), "image codes of float32; expected whole numbers"),
        (torch.tensor([True]), "image codes of bool; expected whole numbers"),
    ],
    ids=["list", "numpy", "torch", "bool"],
)
def test_codes_are_whole_numbers(codes, message):
    with pytest.raises(VocabularyError) as caught:
        SMALL.codes_to_ids(codes)
    assert str(caught.value) == message


def test_image_ids_are_told_in_arrays_too():
    token_ids = [0, 29, 30, 38, 39, 40]
    expected = [False, False, True, True, False, False]
    assert SMALL.is_image(np.array(token_ids)).tolist() == expected
    assert SMALL.is_image(torch.tensor(token_ids)).tolist() == expected


def test_a_document_by_hand():
    document = [28, 30, 38, 33, 31, 29, 27, 5, 26]
    assert SMALL.document([0, 8, 3, 1], [5, 26]) == document
    assert SMALL.parse_document(document) == ([0, 8, 3, 1], [5, 26])
    assert SMALL.parse_document(document[:7]) == ([0, 8, 3, 1], [])
    assert SMALL.report_prompt([0, 8, 3, 1]) == document[:7]
    assert SMALL.image_sequence([0, 8, 3, 1]) == document[:6]


@pytest.mark.parametrize(
    ("token_ids", "report"),
    [([], []), ([5, 6], [5, 6]), ([5, 27, 6], [5]), ([5, 28, 6, 27], [5]), ([27, 5], []), ([5, 29, 6], [5, 29, 6])],
)
def test_a_report_by_hand_is_cut_at_the_first_end_or_begin_of_an_image(token_ids, report):
    assert SMALL.cut_report(token_ids) == report


@pytest.mark.parametrize("token_id", [-1, 29, 39, 40, 41])
def test_an_id_beside_the_images_is_no_code(token_id):
    assert not SMALL.is_image(token_id)
    with pytest.raises(VocabularyError) as caught:
        SMALL.ids_to_codes(token_id)
    assert str(caught.value) == f"image token id {token_id} is out of range; expected 30..38"


def test_text_ids_end_before_the_images():
    assert [SMALL.check_text(token_id) for token_id in (0, 29)] == [0, 29]
    for token_id in (-1, 30):
        with pytest.raises(VocabularyError) as caught:
            SMALL.check_text(token_id)
        assert str(caught.value) == f"text token id {token_id} is out of range; expected 0..29"


codes_of = st.lists(st.integers(0, SMALL.num_codes - 1), min_size=4, max_size=4)
reports_of = st.lists(st.integers(0, SMALL.begin_text - 1), max_size=12)


@steady
@given(codes=codes_of, report=reports_of)
def test_a_document_is_its_parts_in_order(codes, report):
    document = SMALL.document(codes, report)
    assert document == [28, *[30 + code for code in codes], 29, 27, *report]
    assert SMALL.parse_document(document) == (codes, report)
    assert document[: SMALL.prompt_length] == SMALL.report_prompt(codes)
    assert SMALL.report_prompt(codes)[:-1] == SMALL.image_sequence(codes)


@steady
@given(codes=codes_of, report=reports_of, position=st.integers(0, 6), token_id=st.integers(0, SMALL.num_rows - 1))
def test_a_document_with_another_id_in_its_frame_is_no_document(codes, report, position, token_id):
    document = SMALL.document(codes, report)
    is_fine = token_id == document[position] or (1 <= position <= 4 and SMALL.is_image(token_id))
    document[position] = token_id
    if is_fine:
        SMALL.parse_document(document)
    else:
        with pytest.raises(VocabularyError):
            SMALL.parse_document(document)


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [
        ([], "position 0 holds nothing; expected I_s (28)"),
        ([28, 30, 30, 30, 30], "position 5 holds nothing; expected I_E (29)"),
        ([28, 30, 30, 30, 30, 29, 3], "position 6 holds 3; expected T_s (27)"),
        ([28, 30, 30, 30, 30, 29, 27, 39], "text token id 39 is out of range; expected 0..29"),
        ([28, 30, 30, 30, 3, 29, 27], "image token id 3 is out of range; expected 30..38"),
    ],
)
def test_what_is_missing_in_a_document_is_named(token_ids, message):
    with pytest.raises(VocabularyError) as caught:
        SMALL.parse_document(token_ids)
    assert str(caught.value) == message


@pytest.mark.parametrize("count", [0, 3, 5])
def test_an_image_has_all_its_codes(count):
    with pytest.raises(VocabularyError, match=f"^an image of {count} codes; expected 4 codes$"):
        SMALL.image_sequence([0] * count)


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ([3, 30], "text token id 30 is out of range; expected 0..29"),
        ([-1], "text token id -1 is out of range; expected 0..29"),
        ([3, 27], "the report holds the special id begin_text; expected ordinary text ids"),
        ([28], "the report holds the special id begin_image; expected ordinary text ids"),
        ([29], "the report holds the special id end_image; expected ordinary text ids"),
    ],
)
def test_a_report_holds_ordinary_text_ids_only(report, message):
    with pytest.raises(VocabularyError) as caught:
        SMALL.document([0, 0, 0, 0], report)
    assert str(caught.value) == message


@steady
@given(report=reports_of, rest=st.lists(st.integers(0, SMALL.num_rows - 1), max_size=5))
def test_a_report_is_cut_at_the_first_end(report, rest):
    assert SMALL.cut_report(report) == report
    assert SMALL.cut_report([*report, SMALL.begin_text, *rest]) == report
    assert SMALL.cut_report([*report, SMALL.begin_image, *rest]) == report


def test_the_table_is_closed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RELEASED.pad = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Vocabulary(1, 2, 3)  # type: ignore[misc]


def test_an_image_is_a_square():
    assert [grid_side(number) for number in (1, 16, 1024)] == [1, 4, 32]
    assert RELEASED.grid_size == 32
    with pytest.raises(ShapeError, match="^image positions: 15 codes; expected those of a square image$"):
        grid_side(15)
