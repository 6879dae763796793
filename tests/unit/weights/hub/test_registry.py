from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from chexmix_cli.core.errors import SettingsError, VocabularyError, WeightsError
from chexmix_cli.core.vocab import RELEASED
from chexmix_cli.core.weights.hub import registry as registry_module
from chexmix_cli.core.weights.hub.registry import EMBEDDED, RELEASED_ENTRY, read_registry, registry

ENTRY = """
schema = 1
[models.other]
source = "hub"
summary = "x"
repository = "a/b"
preset = "phi2"
licence = { name = "n", url = "u", must_accept = true, text = "t" }
files = [{ name = "model.safetensors" }]
"""


def _read(tmp_path: Path, text: str) -> None:
    (tmp_path / "weights.toml").write_text(text)
    read_registry(tmp_path / "weights.toml")


def test_the_two_models_of_the_project_are_there() -> None:
    entries = registry()
    assert list(entries) == [EMBEDDED, RELEASED_ENTRY]
    released = entries[RELEASED_ENTRY]
    assert (released.repository, released.licence.must_accept) == ("StanfordMIMI/CheXmix", True)
    for word in ("non-commercial", "Chameleon Research License"):
        assert word in released.licence.text
    assert {file.name for file in released.files if file.required} == {"model.safetensors", "vqgan.ckpt"}
    settings = released.model_settings()
    assert settings.name == RELEASED_ENTRY
    assert settings.vocabulary == RELEASED
    assert settings.decoder.rope_dtype == "bfloat16"


def test_what_is_inferred_is_a_setting_of_the_entry(tmp_path: Path) -> None:
    text = Path(registry_module._PACKAGE.parent / "weights.toml").read_text()
    text = re.sub(r"(?m)^mask = \d+", "mask = 58561", text)
    (tmp_path / "weights.toml").write_text(re.sub(r"(?m)^pad = \d+", "pad = 58560", text))
    vocabulary = read_registry(tmp_path / "weights.toml")[RELEASED_ENTRY].model_settings().vocabulary
    assert (vocabulary.mask, vocabulary.pad) == (58561, 58560)


def test_the_wheels_copy_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_PACKAGE", tmp_path / "chexmix_cli")
    source = registry_module.__file__
    assert Path(source).is_file()
    (tmp_path / "weights.toml").write_text(ENTRY)
    registry.cache_clear()
    try:
        assert list(registry()) == ["other"]
        (tmp_path / "chexmix_cli" / "assets").mkdir(parents=True)
        shutil.copy(Path(__file__).parents[4] / "weights.toml", tmp_path / "chexmix_cli" / "assets")
        registry.cache_clear()
        assert list(registry()) == [EMBEDDED, RELEASED_ENTRY]
    finally:
        registry.cache_clear()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema = 1", "schema = 2", "unknown schema"),
        ("schema = 1", "schema = 1\nversion = 3", "version"),
        ('summary = "x"', "", r"models\.other: missing summary"),
        ('summary = "x"', 'sumary = "x"', r"models\.other\.sumary: unknown setting"),
        ('source = "hub"', 'source = "ftp"', "'ftp' is not a choice"),
        ('repository = "a/b"', "", "repository"),
        ('preset = "phi2"', "", "preset"),
        ('[{ name = "model.safetensors" }]', "[]", "files"),
        ("model.safetensors", "../model.safetensors", "a plain file name"),
        ("model.safetensors", ".hidden", "a plain file name"),
        ('"model.safetensors"', '"model.safetensors", sha256 = "abc"', "64 lower-case hexadecimal digits"),
        ("must_accept = true", 'must_accept = "yes"', "expected a bool"),
        ("summary", "summary = [", "not valid TOML"),
        ("[models.other]", "[[models.other]]", r"models\.other: is \[.*expected a section"),
        ("[models.other]", "models = 3\n[other]", "other"),
        ('summary = "x"', 'summary = "x"\nname = "another"', r"models\.other\.name: is 'another'; expected none"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    _read(tmp_path, ENTRY)
    assert old in ENTRY
    with pytest.raises((SettingsError, WeightsError), match=message):
        _read(tmp_path, ENTRY.replace(old, new, 1))


def test_models_that_are_no_section_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="models: is 3; expected a section"):
        _read(tmp_path, "schema = 1\nmodels = 3\n")


def test_settings_of_an_entry_are_strict(tmp_path: Path) -> None:
    for addition, error, message in (
        ("[models.other.settings.vocabulary]\nmasc = 3\n", SettingsError, "vocabulary.masc: unknown setting"),
        ("[models.other.settings.vocabulary]\nmask = 50400\n", VocabularyError, "mask is 50400"),
    ):
        (tmp_path / "weights.toml").write_text(ENTRY + addition)
        entry = read_registry(tmp_path / "weights.toml")["other"]
        with pytest.raises(error, match=message):
            entry.model_settings()
