from __future__ import annotations

import dataclasses

import pytest

from chexmix_cli.core.data.presets import INTENSITIES, PRESET_NAMES, resolve_preset
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.settings.model import ImageSettings

PAD = ImageSettings(resolution_px=256, intensity="voi", geometry="pad")


@pytest.mark.parametrize("name", ["official", "official-png", "official-jpg"])
def test_released_presets_crop_whatever_the_model_does(name):
    preset = resolve_preset(name, PAD, 1)
    assert (preset.intensity, preset.geometry, preset.resolution_px) == (name, "crop", 256)


@pytest.mark.parametrize("name", ["voi", "percentile", "mimic-jpg", "chexpert"])
def test_other_presets_take_the_models_geometry(name):
    crop = dataclasses.replace(PAD, geometry="crop")
    assert resolve_preset(name, PAD, 1).geometry == "pad"
    assert resolve_preset(name, crop, 1).geometry == "crop"


def test_model_means_the_models_own_values():
    own = ImageSettings(resolution_px=512, intensity="official", geometry="crop")
    assert resolve_preset("model", own, 3) == resolve_preset("official", PAD_512, 3)


PAD_512 = dataclasses.replace(PAD, resolution_px=512)


def test_hash_changes_with_every_field_and_with_nothing_else():
    preset = resolve_preset("voi", PAD, 1)
    variants = [
        dataclasses.replace(preset, intensity="percentile"),
        dataclasses.replace(preset, geometry="crop"),
        dataclasses.replace(preset, resolution_px=128),
        dataclasses.replace(preset, channels=3),
        dataclasses.replace(preset, version=preset.version + 1),
    ]
    assert len(variants) == len(dataclasses.fields(preset))
    assert len({variant.hash for variant in [preset, *variants]}) == len(variants) + 1
    assert resolve_preset("model", PAD, 1).hash == preset.hash


def test_hash_is_the_same_on_every_machine():
    # Recorded in records and shards: a new value here means PIXELS_VERSION or the fields changed.
    assert resolve_preset("voi", PAD, 1).hash == "9d2e6047aae0"


def test_unknown_name_is_told_with_the_nearest():
    with pytest.raises(SettingsError, match="unknown image preset 'ofical'") as caught:
        resolve_preset("ofical", PAD, 1)
    assert caught.value.hint == "did you mean 'official'?"
    assert caught.value.where == "input.preset"


def test_unknown_intensity_of_a_model_is_the_models_fault():
    with pytest.raises(SettingsError, match=r"image\.intensity"):
        resolve_preset("model", dataclasses.replace(PAD, intensity="x-ray"), 1)


def test_names():
    assert set(PRESET_NAMES) == {*INTENSITIES, "model"}
