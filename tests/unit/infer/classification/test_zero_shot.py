"""Sentences that state findings: ours, and those of a file."""

from __future__ import annotations

import numpy as np
import pytest

from chexmix_cli.core.data.labels import CHEXPERT_FINDINGS, NIH_FINDINGS
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.infer.classification.heads import sigmoid
from chexmix_cli.core.infer.classification.zero_shot import ZeroShot, chosen_statements, own_statements, read_statements
from chexmix_cli.core.infer.scoring import token_logprobs


def test_every_finding_of_chexpert_and_nih_has_two_sentences():
    found = own_statements()
    assert set(found) == {*CHEXPERT_FINDINGS, *NIH_FINDINGS}
    assert found["Pneumonia"] == ("Pneumonia is present.", "No pneumonia.")
    assert found["Pleural_Thickening"] == ("Pleural thickening is present.", "No pleural thickening.")
    assert all(present != absent for present, absent in found.values())
    assert list(chosen_statements(found, ["competition", "Mass"]))[-2:] == ["Pleural Effusion", "Mass"]
    with pytest.raises(SettingsError, match="no sentences for 'Gout'"):
        chosen_statements(found, ["Gout"])


@pytest.mark.parametrize("text", ["[]", "{}", '{"Mass": ["one"]}', '{"Mass": ["a", ""]}', '{"Mass": "ab"}'])
def test_a_file_of_another_form_is_refused(tmp_path, text):
    path = tmp_path / "statements.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match="is not a table of sentences"):
        read_statements(path)
    path.write_text("{")
    with pytest.raises(SettingsError, match="is not JSON"):
        read_statements(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_statements(tmp_path / "none.json")


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_image_is_read_once_and_the_numbers_are_those_of_whole_documents(
    decoder, vocabulary, tokenizer, codes, batch_size
):
    statements = {name: pair for name, pair in own_statements().items() if len(" ".join(pair)) < 60}
    assert len(statements) > 5
    model = ZeroShot(decoder, vocabulary, tokenizer, statements, prefix="FINDINGS: ", batch_size=batch_size)
    widths = []
    hook = decoder.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape))
    found = [model.probabilities(image) for image in codes]
    hook.remove()
    assert sum(shape[1] >= vocabulary.prompt_length and shape[0] == 1 for shape in widths) == len(codes)
    for image, probabilities_K in zip(codes, found, strict=True):
        means = []
        for text in (one for pair in statements.values() for one in pair):
            ids = tokenizer.encode("FINDINGS: " + text)
            (logprobs,) = token_logprobs(decoder, [vocabulary.document(image, ids)], pad=vocabulary.pad)
            means.append(float(logprobs[-len(ids) :].double().mean()))
        wanted_K = sigmoid(np.array(means[::2]) - np.array(means[1::2]))
        assert probabilities_K == pytest.approx(wanted_K, abs=1e-5)
    assert found[0] != pytest.approx(found[1], abs=1e-4), "the image makes no difference"
