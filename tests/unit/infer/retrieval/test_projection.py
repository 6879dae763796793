"""The contrastive head's file and its arithmetic."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.infer.retrieval.projection import Projection
from chexmix_cli.core.weights.formats.header import read_header
from chexmix_cli.core.weights.formats.keys import same_name_slices
from chexmix_cli.core.weights.formats.safetensors_io import ModuleSource, write_safetensors


@pytest.fixture
def projection() -> Projection:
    built = Projection(layer=2, hidden_size=32, size=6)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for value in built.state_dict().values():
            value.copy_(torch.randn(value.shape, generator=generator))
        for tower in (built.image, built.text):
            tower.scale_D.abs_().add_(0.5)
    return built.eval()


def test_a_tower_standardises_projects_and_scales_to_length_1(projection):
    pooled = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    found = projection.text(pooled)
    tower = {name: value.double() for name, value in projection.text.state_dict().items()}
    expected = ((pooled.double() - tower["mean_D"]) / tower["scale_D"]) @ tower["projection.weight"].T
    expected /= expected.square().sum(dim=1, keepdim=True).sqrt()
    assert torch.allclose(found.double(), expected, atol=1e-6)
    assert not torch.allclose(found, projection.image(pooled), atol=0.1)


def test_the_temperature_has_a_lowest_value(projection):
    with torch.no_grad():
        projection.log_temperature.fill_(-1.0)
        assert float(projection.temperature()) == pytest.approx(0.36788, rel=1e-4)
        projection.log_temperature.fill_(-9.0)
        assert float(projection.temperature()) == pytest.approx(0.01)


def test_it_comes_back_as_it_was_saved(projection, model_settings, tmp_path):
    projection.model = "a" * 64
    projection.save(tmp_path, {"task": "retrieve"})
    found = Projection.load(tmp_path, model_settings.decoder)
    assert found is not None
    assert (found.layer, found.size, found.model, found.training) == (2, 6, "a" * 64, False)
    for name, value in projection.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    header = json.loads(read_header(tmp_path / "retrieval.safetensors").metadata["chexmix-retrieval"])
    assert header == {"schema": 1, "layer": 2, "size": 6, "model": "a" * 64, "provenance": {"task": "retrieve"}}


def test_projections_of_other_weights_are_refused(projection):
    projection.model = "a" * 64
    projection.require_model("a" * 64, "x")
    with pytest.raises(WeightsError, match=r"x: was made for other weights \(aaaaaaaaaaaa\); expected one"):
        projection.require_model("b" * 64, "x")


def test_a_directory_without_it_has_none(model_settings, tmp_path):
    assert Projection.load(tmp_path, model_settings.decoder) is None


def test_a_file_that_does_not_fit_is_refused(projection, model_settings, tmp_path):
    projection.save(tmp_path, {})
    narrow = dataclasses.replace(model_settings.decoder, hidden_size=16)
    with pytest.raises(WeightsError, match=r"image\.mean_D is 32, not 16"):
        Projection.load(tmp_path, narrow)
    shallow = dataclasses.replace(model_settings.decoder, num_layers=1)
    with pytest.raises(WeightsError, match=r"reads layer 2; expected 0\.\.1"):
        Projection.load(tmp_path, shallow)
    path = tmp_path / "retrieval.safetensors"
    source = ModuleSource(projection, same_name_slices(projection))
    for header, message in (
        ({}, "header key 'chexmix-retrieval' cannot be read"),
        ({"chexmix-retrieval": '{"schema": 1, "layer": "x", "size": 6}'}, "cannot be read"),
        ({"chexmix-retrieval": '{"schema": 1, "layer": 2, "size": 6}'}, "cannot be read"),
        ({"chexmix-retrieval": '{"schema": 2, "layer": 2, "size": 6, "model": ""}'}, "schema 2; expected 1"),
    ):
        write_safetensors(path, source, metadata=header)
        with pytest.raises(WeightsError, match=message):
            Projection.load(tmp_path, model_settings.decoder)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(WeightsError, match="is cut short"):
        Projection.load(tmp_path, model_settings.decoder)
