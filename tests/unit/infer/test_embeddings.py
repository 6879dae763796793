from __future__ import annotations

import numpy as np
import pytest
import torch

from chexmix_cli.core.errors import SettingsError, VocabularyError
from chexmix_cli.core.infer.embeddings import embed_codes, image_embeddings


@torch.inference_mode()
def test_they_are_means_over_the_image_positions_of_each_layer(decoder, vocabulary, codes):
    found = image_embeddings(decoder, vocabulary, codes)
    assert (found.shape, found.dtype) == ((3, 3, 32), torch.float32)
    for row, image in enumerate(codes):
        ids = [vocabulary.begin_image, *[code + vocabulary.image_start for code in image], vocabulary.end_image]
        for layer, state in enumerate(decoder.hidden_states(torch.tensor([ids]))):
            assert torch.allclose(found[row, layer], state[0, 1:17].mean(dim=0), atol=1e-5)


@torch.inference_mode()
def test_a_grid_is_the_means_of_its_squares_in_raster_order(decoder, vocabulary, codes):
    found = image_embeddings(decoder, vocabulary, codes, layers=[1], grid=2)
    assert (found.shape, found.dtype) == ((3, 1, 4 * 32), torch.float32)
    ids = [
        [vocabulary.begin_image, *[c + vocabulary.image_start for c in image], vocabulary.end_image] for image in codes
    ]
    state_BPH = decoder.hidden_states(torch.tensor(ids))[1][:, 1:17]
    for square, (row, column) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        places = [(row + y) * 4 + column + x for y in range(2) for x in range(2)]
        wanted_BH = state_BPH[:, places].mean(dim=1)
        assert torch.allclose(found[:, 0, square * 32 : (square + 1) * 32], wanted_BH, atol=1e-5)
    finest = image_embeddings(decoder, vocabulary, codes, layers=[1], grid=4)
    assert torch.allclose(finest.view(3, 16, 32), state_BPH, atol=1e-6)
    mean = image_embeddings(decoder, vocabulary, codes, layers=[1])
    assert torch.allclose(found.view(3, 4, 32).mean(dim=1), mean[:, 0], atol=1e-6)


@pytest.mark.parametrize("grid", [0, -1, 3, 8])
def test_a_grid_that_does_not_divide_the_image_is_refused(decoder, vocabulary, codes, grid):
    with pytest.raises(SettingsError, match=f"is {grid}; expected a number that divides 4"):
        image_embeddings(decoder, vocabulary, codes, grid=grid)


def test_layers_come_in_the_order_asked_for(decoder, vocabulary, codes):
    every = image_embeddings(decoder, vocabulary, codes)
    assert torch.equal(image_embeddings(decoder, vocabulary, codes, layers=[2, 0]), every[:, [2, 0]])


def test_blocks_behind_the_last_layer_are_not_run(decoder, vocabulary, codes):
    ran = []
    decoder.blocks[1].register_forward_pre_hook(lambda *_: ran.append(1))
    image_embeddings(decoder, vocabulary, codes, layers=[1])
    assert not ran
    image_embeddings(decoder, vocabulary, codes, layers=[2])
    assert ran == [1]


def test_bfloat16_is_averaged_in_float32(decoder, vocabulary, codes):
    expected = image_embeddings(decoder, vocabulary, codes)
    found = image_embeddings(decoder.bfloat16(), vocabulary, codes)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=0.1)


@pytest.mark.parametrize("layers", [[], [3], [-1], [0, 7]], ids=str)
def test_unknown_layers_are_refused(decoder, vocabulary, codes, layers):
    with pytest.raises(SettingsError, match=r"expected some of 0\.\.2"):
        image_embeddings(decoder, vocabulary, codes, layers=layers)


def test_codes_are_checked(decoder, vocabulary, codes):
    with pytest.raises(VocabularyError, match="an image of 15 codes"):
        image_embeddings(decoder, vocabulary, [codes[0], codes[1][1:]])
    with pytest.raises(VocabularyError, match="image code 40 is out of range"):
        image_embeddings(decoder, vocabulary, [[40, *codes[0][1:]]])
    assert image_embeddings(decoder, vocabulary, []).shape == (0, 3, 32)


def test_a_masked_position_holds_the_mask_token_and_no_more(decoder, vocabulary, codes):
    """Whatever code is under a mask, the embedding is the same to the bit; and it is that of the mask token's id."""
    is_masked_BP = np.random.default_rng(0).uniform(size=(3, 16)) < 0.5
    found = image_embeddings(decoder, vocabulary, codes, is_masked_BP=is_masked_BP)
    other = [
        [(code + 7) % vocabulary.num_codes if hidden else code for code, hidden in zip(image, row, strict=True)]
        for image, row in zip(codes, is_masked_BP.tolist(), strict=True)
    ]
    assert other != codes
    assert torch.equal(image_embeddings(decoder, vocabulary, other, is_masked_BP=is_masked_BP), found)
    assert not torch.allclose(image_embeddings(decoder, vocabulary, other), found, atol=1e-3)
    ids = torch.tensor([vocabulary.image_sequence(image) for image in codes])
    ids[:, 1:17][torch.from_numpy(is_masked_BP)] = vocabulary.mask
    with torch.inference_mode():
        for layer, state in enumerate(decoder.layer_states(ids)):
            assert torch.allclose(found[:, layer], state[:, 1:17].mean(dim=1), atol=1e-5)


def test_many_images_are_embedded_in_batches(decoder, vocabulary, codes):
    is_masked_NP = np.zeros((3, 16), bool)
    is_masked_NP[1] = True
    moves = []
    found = embed_codes(
        decoder,
        vocabulary,
        np.array(codes, np.uint16),
        layers=[2, 0],
        batch_size=2,
        is_masked_NP=is_masked_NP,
        progress=lambda done, total: moves.append((done, total)),
    )
    wanted = image_embeddings(decoder, vocabulary, codes, layers=[2, 0], is_masked_BP=is_masked_NP).numpy()
    assert list(found) == [2, 0]
    assert np.allclose(found[2], wanted[:, 0], atol=1e-5)
    assert np.allclose(found[0], wanted[:, 1], atol=1e-5)
    assert moves == [(2, 3), (3, 3)]
