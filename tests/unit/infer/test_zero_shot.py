"""Sentences that state findings: ours, and those of a file."""

from __future__ import annotations

import pytest

from chexmix_cli.core.data.labels import CHEXPERT_FINDINGS, NIH_FINDINGS
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.infer.zero_shot import chosen_statements, own_statements, read_statements


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
    with pytest.raises(SettingsError, match="is no table of sentences"):
        read_statements(path)
    path.write_text("{")
    with pytest.raises(SettingsError, match="is not JSON"):
        read_statements(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_statements(tmp_path / "none.json")
