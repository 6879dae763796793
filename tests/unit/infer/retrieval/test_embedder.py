"""Vectors of images and reports."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import SettingsError, ShapeError, VocabularyError
from chexmix_cli.core.infer.embeddings import image_embeddings
from chexmix_cli.core.infer.retrieval.embedder import Embedder, default_layer, section_text
from chexmix_cli.core.infer.retrieval.projection import Projection
from chexmix_cli.core.infer.retrieval.text_embeddings import text_embeddings
from chexmix_cli.core.settings.model import DecoderSettings
from chexmix_cli.core.settings.retrieval import EmbeddingSettings

REPORTS = [[5, 6, 7], [9], [400, 3, 8, 8, 8], [5, 6, 7]]


@torch.inference_mode()
def test_a_report_is_the_mean_over_its_own_tokens(decoder, vocabulary):
    found = text_embeddings(decoder, vocabulary, REPORTS)
    assert (found.shape, found.dtype) == ((4, 3, 32), torch.float32)
    for row, report in enumerate(REPORTS):
        states = decoder.hidden_states(torch.tensor([[vocabulary.begin_text, *report]]))
        for layer, state in enumerate(states):
            assert torch.allclose(found[row, layer], state[0, 1:].mean(dim=0), atol=1e-5)
    assert torch.equal(text_embeddings(decoder, vocabulary, REPORTS, layers=[2, 0]), found[:, [2, 0]])


def test_reports_are_checked(decoder, vocabulary):
    with pytest.raises(VocabularyError, match="a report of no tokens"):
        text_embeddings(decoder, vocabulary, [[4], []])
    with pytest.raises(VocabularyError, match="text token id 1024"):
        text_embeddings(decoder, vocabulary, [[1024]])
    with pytest.raises(ShapeError, match="a sequence of 65 tokens"):
        text_embeddings(decoder, vocabulary, [[4] * 64])
    with pytest.raises(SettingsError, match=r"expected some of 0\.\.2"):
        text_embeddings(decoder, vocabulary, [[4]], layers=[3])
    assert text_embeddings(decoder, vocabulary, []).shape == (0, 3, 32)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_states_come_out_with_length_1_and_equal_reports_equal(decoder, vocabulary, codes, batch_size):
    settings = EmbeddingSettings(image_layer=2, text_layer=0)
    embedder = Embedder(decoder, vocabulary, None, settings, batch_size=batch_size)
    images, reports = embedder.images(codes), embedder.reports(REPORTS)
    wanted = image_embeddings(decoder, vocabulary, codes, layers=[2])[:, 0]
    assert torch.allclose(images, wanted / wanted.norm(dim=1, keepdim=True), atol=1e-5)
    wanted = text_embeddings(decoder, vocabulary, REPORTS, layers=[0])[:, 0]
    assert torch.allclose(reports, wanted / wanted.norm(dim=1, keepdim=True), atol=1e-5)
    assert torch.equal(reports[0], reports[3])
    assert embedder.images([]).shape == embedder.reports([]).shape == (0, 32)


def test_projections_are_used_where_there_are_some(decoder, vocabulary, codes):
    projection = Projection(layer=1, hidden_size=32, size=6).eval()
    embedder = Embedder(decoder, vocabulary, projection, EmbeddingSettings(), batch_size=2)
    assert (embedder.image_layer, embedder.text_layer, embedder.size) == (1, 1, 6)
    pooled = image_embeddings(decoder, vocabulary, codes, layers=[1])[:, 0]
    with torch.inference_mode():
        assert torch.allclose(embedder.images(codes), projection.image(pooled), atol=1e-5)
        pooled = text_embeddings(decoder, vocabulary, REPORTS, layers=[1])[:, 0]
        assert torch.allclose(embedder.reports(REPORTS), projection.text(pooled), atol=1e-5)
    with pytest.raises(SettingsError, match="layers 1 and 2; expected layer 1"):
        Embedder(decoder, vocabulary, projection, EmbeddingSettings(text_layer=2), batch_size=2)
    with pytest.raises(SettingsError, match="layers"):
        Embedder(decoder, vocabulary, None, EmbeddingSettings(text_layer=9), batch_size=2)


def test_the_layer_is_two_thirds_up_and_no_higher_than_11():
    base = {"num_rows": 9, "hidden_size": 8, "num_heads": 1, "mlp_size": 8, "rotary_size": 4, "max_positions": 8}
    found = {count: default_layer(DecoderSettings(num_layers=count, **base)) for count in (1, 2, 6, 12, 32)}
    assert found == {1: 1, 2: 1, 6: 4, 12: 8, 32: 11}


def test_no_section_stands_in_for_another():
    """The trap of PEERS: the longest section, or ``max`` of two strings, is another protocol."""
    row = ManifestRow(id="a", file=Path("a"), findings="Zebra.", impression=" A much longer impression. ")
    assert section_text(row, "findings") == "Zebra."
    assert section_text(row, "impression") == "A much longer impression."
    assert section_text(row, "both") == "FINDINGS: Zebra.\nIMPRESSION: A much longer impression."
    short = ManifestRow(id="a", file=Path("a"), findings=None, impression="Normal.")
    assert section_text(short, "findings") is None
    assert section_text(ManifestRow(id="a", file=Path("a"), findings="  "), "findings") is None
