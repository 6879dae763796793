"""A manifest's images as codes: equal to encoding each alone, unreadable ones named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.infer.manifest_images import StoredCodes, encode_rows, read_rows
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.weights import open_weights


def test_rows_are_encoded_in_order_and_a_damaged_one_is_named(tmp_path):
    weights = open_weights(None)
    settings = weights.settings
    tokenizer = ImageTokenizer(weights.load_vqgan(torch.device("cpu"), torch.float32), settings)
    preset = resolve_preset("model", settings.image, settings.vqgan.image_channels)
    rng = np.random.default_rng(0)
    rows = []
    for index in range(3):
        picture = np.kron(rng.integers(0, 255, (12, 12)), np.ones((16, 16))).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
        rows.append(ManifestRow(id=f"film{index}", file=tmp_path / f"{index}.png"))
    (tmp_path / "1.png").write_bytes(b"no picture")
    moves = []
    encoded = encode_rows(rows, tokenizer, preset, InputSettings(), progress=lambda done, total: moves.append(done))
    assert [row.id for row in encoded.rows] == ["film0", "film2"]
    assert [(name, error.code) for name, error in encoded.failed] == [("film1", "UNKNOWN_FORMAT")]
    assert moves == [1, 2, 3]
    pixels = [found for _, found in read_rows(rows, preset, InputSettings()) if isinstance(found, np.ndarray)]
    assert encoded.codes_NP.dtype == np.uint16
    assert np.array_equal(encoded.codes_NP, tokenizer.encode(np.stack(pixels)).numpy())
    nothing = encode_rows([], tokenizer, preset, InputSettings(), progress=lambda done, total: None)
    assert nothing.codes_NP.shape == (0, settings.vocabulary.tokens_per_image)


def test_shards_with_an_id_twice_are_no_source_of_codes():
    class Shards:
        folder = "shards"

        def index(self):
            return [{"id": "film0", "status": "ok"}, {"id": "bad", "status": "error"}, {"id": "film0", "status": "ok"}]

    with pytest.raises(DataError, match="1 ids occur twice"):
        StoredCodes(Shards())
