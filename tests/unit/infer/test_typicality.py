"""How like its train films a film is: the statistics, the fit, the file."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from chexmix_cli.core.errors import ShapeError, WeightsError
from chexmix_cli.core.infer.embeddings import image_prompts, read_images
from chexmix_cli.core.infer.typicality import NUM_LIKELIHOOD, Typical, codes_statistics, film_statistics


@pytest.fixture
def fitted():
    rng = np.random.default_rng(1)
    mix_DD = np.eye(12) + 0.2 * rng.normal(size=(12, 12))
    x_ND = rng.normal(size=(400, 12)) @ mix_DD + 5
    return x_ND, Typical.fit(x_ND, np.ones(400), share=0.05, model="f" * 64, provenance={"films": 400})


def reference(decoder, vocabulary, codes):
    """Return the statistics of one film by the definition: a pass, a softmax over image codes, loops."""
    sequence = vocabulary.image_sequence(codes)
    with torch.no_grad():
        states_TH = list(decoder.layer_states(torch.tensor([sequence])))[-1][0].double()
        logits_TV = decoder.double()(torch.tensor([sequence]))[0] @ decoder.head.weight.T + decoder.head.bias
        decoder.float()
    first = vocabulary.image_start
    nll, side = [], vocabulary.grid_size
    for place, code in enumerate(codes):
        weights_K = np.exp(logits_TV[place, first : first + vocabulary.num_codes].detach().numpy())
        nll.append(-np.log(weights_K[code] / weights_K.sum()))
    regions = {}
    for place, value in enumerate(nll):
        regions.setdefault((place // side * 4 // side, place % side * 4 // side), []).append(value)
    worst = max(np.mean(values) for values in regions.values())
    mean_H = states_TH[1 : 1 + len(codes)].mean(dim=0).numpy()
    return np.array([np.mean(nll), np.quantile(nll, 0.1), np.quantile(nll, 0.9), worst, *mean_H])


def test_statistics_are_those_of_the_definition(decoder, vocabulary, codes):
    found_BD = codes_statistics(decoder, vocabulary, codes)
    for found_D, image in zip(found_BD, codes, strict=True):
        np.testing.assert_allclose(found_D, reference(decoder, vocabulary, image), rtol=1e-4, atol=1e-4)


def test_states_that_were_computed_for_something_else_serve_as_well(decoder, vocabulary, codes):
    seen = {}
    read_images(decoder, image_prompts(vocabulary, codes), {0, 2}, seen.__setitem__)
    found_BD = film_statistics(decoder, vocabulary, seen[2], codes)
    np.testing.assert_array_equal(found_BD, codes_statistics(decoder, vocabulary, codes))


def test_small_grids_have_regions_too(decoder, vocabulary):
    small = dataclasses.replace(vocabulary, tokens_per_image=4)
    assert np.isfinite(codes_statistics(decoder, small, [[0, 1, 2, 3]])).all()


def test_the_score_is_mahalanobis_distance_and_the_threshold_what_a_share_exceeds(fitted):
    x_ND, typical = fitted
    score_N = typical.scores(x_ND)
    assert (score_N > typical.threshold).mean() == pytest.approx(0.05, abs=0.003)
    # All components are kept here, so that but for shrinkage these are the textbook's distances: of the likelihood, and
    # of the states beyond what the likelihood says of them.
    centred_ND = x_ND - x_ND.mean(axis=0)
    whole_N, likelihood_N = (
        np.einsum("nd,nd->n", centred_ND[:, :num] @ np.linalg.inv(np.cov(x_ND[:, :num].T)), centred_ND[:, :num])
        for num in (12, NUM_LIKELIHOOD)
    )
    expected_N = likelihood_N / NUM_LIKELIHOOD / 3 + (whole_N - likelihood_N) / 8 * 2 / 3
    np.testing.assert_allclose(score_N**2, expected_N, rtol=0.08)
    assert (score_N**2).mean() == pytest.approx(1, abs=0.03)
    near, far = typical.judge(np.stack([x_ND[0], x_ND[0] + 100]))
    assert not near.is_unlike
    assert near.notes == []
    assert far.is_unlike
    assert "unlike what this model knows" in far.notes[0]


def test_a_film_that_counts_more_moves_the_middle(fitted):
    x_ND, _ = fitted
    weight_N = np.where(x_ND[:, 0] > x_ND[:, 0].mean(), 9.0, 1.0)
    assert Typical.fit(x_ND, weight_N, share=0.05, model="m").mean_D[0] > x_ND[:, 0].mean()


def test_the_file_comes_back_and_belongs_to_its_weights(fitted, tmp_path):
    x_ND, typical = fitted
    path = tmp_path / "typical.safetensors"
    typical.save(path)
    back = Typical.load(path)
    np.testing.assert_array_equal(back.scores(x_ND), typical.scores(x_ND))
    assert (back.threshold, back.share, back.provenance) == (typical.threshold, typical.share, {"films": 400})
    back.require_model("f" * 64, "typical")
    with pytest.raises(WeightsError, match="made for other weights"):
        back.require_model("0" * 64, "typical")


def test_what_does_not_fit_is_refused(fitted, tmp_path):
    x_ND, typical = fitted
    with pytest.raises(ShapeError, match="statistics"):
        typical.scores(x_ND[:, :-1])
    with pytest.raises(ShapeError, match="finite"):
        dataclasses.replace(typical, mean_D=np.full(12, np.nan, np.float32))
    with pytest.raises(ShapeError, match="threshold"):
        dataclasses.replace(typical, threshold=float("nan"))
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(WeightsError, match="safetensors"):
        Typical.load(tmp_path / "junk")


def test_likelihood_and_states_both_count(decoder, vocabulary, codes):
    assert codes_statistics(decoder, vocabulary, codes).shape[1] == NUM_LIKELIHOOD + decoder.settings.hidden_size
