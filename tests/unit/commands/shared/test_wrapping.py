"""Lines that end between words, in pieces or at once; tables that cut no word, whatever the width."""

from __future__ import annotations

import random

import pytest

from chexmix_cli.commands.shared.wrapping import LineBreaker, draw_table, wrapped

TEXT = (
    "a.png (PA)\n    note: the view is not stated, so it was taken for one that is\n\nsupercalifragilistic-flag ends\n"
)


@pytest.mark.parametrize("width", [12, 20, 60])
def test_lines_end_between_words_however_the_text_comes(width):
    whole = LineBreaker(width).feed(TEXT)
    assert whole.split() == TEXT.split()
    for line in whole.split("\n"):
        assert len(line) <= width or len(line.split()) == 1
    draw = random.Random(width)
    breaker, shown, rest = LineBreaker(width), "", TEXT
    while rest:
        cut = draw.randint(1, 5)
        shown, rest = shown + breaker.feed(rest[:cut]), rest[cut:]
    assert shown == whole


def test_a_continued_line_keeps_its_indent_and_what_fits_is_as_it_was():
    assert LineBreaker(20).feed("    note: seen once before\n") == "    note: seen once\n    before\n"
    assert LineBreaker(80).feed("two  columns   here\n") == "two  columns   here\n"


def test_a_pipe_gets_lines_as_they_are(tmp_path):
    with (tmp_path / "log").open("w") as log:
        assert wrapped("word " * 50, log) == "word " * 50


ROWS = [
    ("auroc", "Pleural_Thickening", "0.9602", "642"),
    ("auprc", "of all findings that a manifest states", "0.5", "7"),
]


@pytest.mark.parametrize("width", [200, 60, 45, 30, 10])
def test_a_table_cuts_no_word(width):
    columns = ("metric", "of", "value", "n")
    drawn = draw_table(columns, ROWS, width)
    words = {word for row in ROWS for cell in row for word in cell.split()}
    assert words <= {word.rstrip(":") for word in drawn.split()}
    for line in drawn.split("\n"):
        assert len(line) <= width or len(line.split()) == 1


def test_a_table_is_as_wide_as_it_needs_and_numbers_stand_to_the_right():
    assert draw_table(("name", "count"), [("a", "7"), ("b", "12")], 80) == "name  count\na         7\nb        12"
    assert draw_table(("a", "b"), [("x", "supercalifragilistic")], 15) == "a: x\n  b:\n  supercalifragilistic"
