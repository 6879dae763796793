from __future__ import annotations

import pytest
import torch

from chexmix_cli.core.errors import VocabularyError
from chexmix_cli.core.infer import scoring
from chexmix_cli.core.infer.scoring import token_logprobs


@pytest.mark.parametrize("chunk", [1, 3, 128])
def test_they_are_the_log_softmax_at_the_next_id(decoder, vocabulary, codes, monkeypatch, chunk):
    monkeypatch.setattr(scoring, "_CHUNK", chunk)
    sequences = [vocabulary.document(codes[0], [5, 6, 7]), [9, 8], vocabulary.image_sequence(codes[1])]
    found = token_logprobs(decoder, sequences, pad=vocabulary.pad)
    for sequence, logprob in zip(sequences, found, strict=True):
        ids = torch.tensor(sequence)
        with torch.inference_mode():
            every = decoder.logits(decoder(ids[None]))[0].log_softmax(dim=-1)
        assert logprob.shape == (len(sequence) - 1,)
        assert torch.allclose(logprob, every[range(len(ids) - 1), ids[1:]], atol=1e-4)


def test_no_more_logits_exist_than_a_chunk(decoder, vocabulary, codes, monkeypatch):
    sizes = []
    logits = decoder.logits
    monkeypatch.setattr(decoder, "logits", lambda state: sizes.append(len(state)) or logits(state))
    monkeypatch.setattr(scoring, "_CHUNK", 7)
    token_logprobs(decoder, [vocabulary.image_sequence(image) for image in codes], pad=vocabulary.pad)
    assert sizes == [7, 7, 3] * 3


@pytest.mark.parametrize("sequence", [[], [4], [4, -1], [4, 1066]], ids=str)
def test_sequences_that_cannot_be_scored_are_refused(decoder, vocabulary, sequence):
    with pytest.raises(VocabularyError, match="sequence 1"):
        token_logprobs(decoder, [[1, 2], sequence], pad=vocabulary.pad)


def test_no_sequences_give_nothing(decoder, vocabulary):
    assert token_logprobs(decoder, [], pad=vocabulary.pad) == []
