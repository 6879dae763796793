"""The image hash: copies are near, patients are not, and the search misses no pair."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from dataset_trees import draw_image
from PIL import Image, ImageOps

from chexmix_cli.core.data.images.image_hash import HASH_BITS, HASH_BYTES, image_hash, near_pairs
from chexmix_cli.core.settings.datasets import ImageCheckSettings

NEAR = ImageCheckSettings().near_bits


def distance(left: bytes, right: bytes) -> int:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).bit_count()


def as_jpeg(image, quality):
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(io.BytesIO(data.getvalue()))


VARIANTS = {
    "jpeg": lambda image: as_jpeg(image, 50),
    "half": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "darker": lambda image: image.point(lambda value: round(255 * (value / 255) ** 1.4)),
    "equalised": ImageOps.equalize,
    "colour": lambda image: image.convert("RGB"),
}


@pytest.fixture(scope="module")
def films(shared):
    """Return 300 real films of different patients, of three sources."""
    folder = shared / "data" / "radiographs"
    by_patient, kept = {}, {}
    for line in (folder / "index.jsonl").read_text().splitlines():
        entry = json.loads(line)
        by_patient.setdefault((entry["dataset"], entry["patient"]), entry["file"])
    for (dataset, _), file in by_patient.items():
        kept.setdefault(dataset, []).append(file)
    return [Image.open(folder / file).convert("L") for files in kept.values() for file in files[:100]]


def test_films_of_different_patients_are_far_apart(films):
    """Of two million pairs of patients the nearest were 50 bits apart (docs/datasets.md); 24 are near."""
    hashes = [image_hash(film) for film in films]
    nearest = min(distance(a, b) for index, a in enumerate(hashes) for b in hashes[:index])
    assert nearest > 1.5 * NEAR


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_a_film_are_near(films, variant):
    distances = [distance(image_hash(film), image_hash(VARIANTS[variant](film))) for film in films[::5]]
    assert max(distances) <= NEAR


def test_a_mirrored_film_is_another_one(films):
    distances = [distance(image_hash(film), image_hash(ImageOps.mirror(film))) for film in films[::5]]
    assert min(distances) > NEAR


def test_a_hash_is_what_it_was(tmp_path):
    """Written down once: a manifest checked today and tomorrow gives the same result."""
    found = image_hash(Image.open(draw_image(tmp_path / "a.png", 7, side=96)))
    assert len(found) == HASH_BYTES
    assert found[-1] & 1 == 0
    assert found.hex() == "8000c3123fee6edc6c097232736780be91db8dfa0ccd8ec84ec47e427e6e663e"


def brute_force(hashes, max_bits):
    pairs = {}
    for right in range(len(hashes)):
        for left in range(right):
            bits = distance(bytes(hashes[left]), bytes(hashes[right]))
            if bits <= max_bits:
                pairs[left, right] = bits
    return pairs


@pytest.mark.parametrize("blocks", [(1024, 8192), (7, 5), (16, 64)])
def test_the_search_finds_every_pair(monkeypatch, blocks):
    from chexmix_cli.core.data.images import image_hash as module

    monkeypatch.setattr(module, "_BLOCK_ROWS", blocks[0])
    monkeypatch.setattr(module, "_BLOCK_COLUMNS", blocks[1])
    rng = np.random.default_rng(3)
    hashes = rng.integers(0, 256, (60, HASH_BYTES), dtype=np.uint8)
    for target, bits in enumerate([1, 5, 23, 24, 25, 26, 40]):
        flipped = np.unpackbits(hashes[target])
        flipped[rng.choice(HASH_BITS, bits, replace=False)] ^= 1
        hashes[50 + target] = np.packbits(flipped)
    hashes[:, -1] &= 0xFE
    expected = brute_force(hashes, 24)
    assert sorted(expected.values()) == [1, 5, 23, 24]
    assert {(a, b): bits for a, b, bits in near_pairs(hashes, 24)} == expected


def test_equal_hashes_are_paired_with_the_first_only():
    hashes = np.zeros((6, HASH_BYTES), np.uint8)
    hashes[[1, 4]] = 0xF0
    hashes[5, 0] = 0x01
    # 0, 2, 3 are equal; so are 1 and 4; 5 is one bit from the first group.
    assert list(near_pairs(hashes, 3)) == [(0, 2, 0), (0, 3, 0), (1, 4, 0), (0, 5, 1)]
    assert list(near_pairs(hashes[:0], 3)) == []
    assert list(near_pairs(hashes[:1], 3)) == []
