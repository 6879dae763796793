from __future__ import annotations

import pytest
import torch

from chexmix_cli.core.errors import VocabularyError
from chexmix_cli.core.infer.reports.engine import ReportFinish, report_engine
from chexmix_cli.core.infer.reports.writer import ReportWriter
from chexmix_cli.core.settings.inference import DecodeSettings

SETTINGS = DecodeSettings(max_new_tokens=20, min_new_tokens=3)


@pytest.fixture
def writer(decoder, vocabulary, tokenizer):
    with torch.no_grad():  # some reports end, at different places
        decoder.head.bias[vocabulary.begin_text] += 2.4
    return ReportWriter(decoder, vocabulary, tokenizer)


def test_a_report_is_what_follows_its_prompt(writer, vocabulary, tokenizer, codes):
    reports = writer.write(codes, SETTINGS)
    prompts = [vocabulary.report_prompt(image) for image in codes]
    generations = report_engine(writer.engine.decoder, vocabulary).generate(prompts, SETTINGS)
    assert any(report.finish is ReportFinish.END for report in reports)
    for report, generation in zip(reports, generations, strict=True):
        assert report.token_ids == generation.token_ids
        assert report.logprob == generation.logprob
        has_end = report.finish is ReportFinish.END
        assert report.report_ids == (report.token_ids[:-1] if has_end else report.token_ids)
        assert report.text == tokenizer.decode(report.report_ids)
        assert report.num_not_text == 0


def test_streamed_pieces_are_the_text(writer, codes):
    pieces = [""] * len(codes)
    calls = 0

    def on_text(row, piece):
        nonlocal calls
        assert piece
        calls += 1
        pieces[row] += piece

    reports = writer.write(codes, SETTINGS, on_text=on_text)
    assert pieces == [report.text for report in reports]
    assert calls > len(codes), "the text came in one piece"


def test_all_rows_leave_image_ids_out_of_the_text_and_count_them(writer, vocabulary, tokenizer, codes):
    with torch.no_grad():
        writer.engine.decoder.head.bias[vocabulary.image_start :] += 2.0
    settings = DecodeSettings(vocabulary="all", max_new_tokens=20, min_new_tokens=20)
    pieces: list[str] = []
    report = writer.write(codes[:1], settings, on_text=lambda _, piece: pieces.append(piece))[0]
    text_ids = [token_id for token_id in report.report_ids if token_id < vocabulary.num_text]
    assert 0 < report.num_not_text == len(report.report_ids) - len(text_ids) < len(report.report_ids)
    assert report.text == tokenizer.decode(text_ids) == "".join(pieces)


def test_the_text_stops_at_the_next_image_in_all_mode_too(writer, vocabulary, tokenizer, codes):
    with torch.no_grad():
        writer.engine.decoder.head.bias[vocabulary.begin_text] = -100
        writer.engine.decoder.head.bias[vocabulary.begin_image] += 5.0
    settings = DecodeSettings(vocabulary="all", max_new_tokens=40, min_new_tokens=40, temperature=1.0)
    pieces = [""] * len(codes)

    def on_text(row, piece):
        pieces[row] += piece

    reports = writer.write(codes, settings, on_text=on_text)
    behind = [report.token_ids[len(report.report_ids) + 1 :] for report in reports]
    assert any(token_id < vocabulary.begin_text for ids in behind for token_id in ids), "no text follows a cut"
    assert any(report.report_ids for report in reports)
    for report, streamed in zip(reports, pieces, strict=True):
        assert vocabulary.begin_image not in report.report_ids
        assert report.text == streamed


def test_without_a_text_tokenizer_there_are_ids_only(decoder, vocabulary, codes):
    called = []
    report = ReportWriter(decoder, vocabulary, None).write(codes[:1], SETTINGS, on_text=lambda *_: called.append(1))[0]
    assert report.text is None
    assert report.token_ids
    assert not called


def test_codes_are_checked(writer, codes):
    with pytest.raises(VocabularyError, match="an image of 3 codes"):
        writer.write([codes[0], codes[1][:3]], SETTINGS)
