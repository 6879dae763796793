"""Quantised weights kept on disk: what is mapped is what was made, byte for byte, and anything else is made again."""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.infer.reports.engine import report_engine
from chexmix_cli.core.kernels.quantized import native
from chexmix_cli.core.models import quantized
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.weights import open_weights
from chexmix_cli.core.weights.files import home
from chexmix_cli.core.weights.formats import packed
from chexmix_cli.core.weights.formats.packed import packed_state


@pytest.fixture(autouse=True)
def all_sizes(monkeypatch):
    """Keep tiny weights, too."""
    monkeypatch.setattr(packed, "_LEAST_BYTES", 0)


def kept():
    return sorted((home() / "packed").glob("*"))


def load(folder, quantize="int4", dtype=torch.float32):
    return open_weights(folder).load_decoder("cpu", dtype, quantize=quantize)


def require_equal(one, other):
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        assert torch.equal(value, second[name]), name


@pytest.fixture
def not_made(monkeypatch):
    """Return a function after which nothing can be quantised."""

    def refuse(*_, **__):
        raise AssertionError("made again")

    return lambda: monkeypatch.setattr(quantized, "quantized_state", refuse)


@pytest.mark.parametrize("kernels", ["auto", "torch"])
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_what_is_mapped_is_what_is_made(tiny_dir, tiny, monkeypatch, not_made, quantize, kernels):
    monkeypatch.setenv("CHEXMIX_KERNELS", kernels)
    monkeypatch.setenv("CHEXMIX_PACKED", "off")
    made = load(tiny_dir, quantize)
    assert kept() == []
    monkeypatch.setenv("CHEXMIX_PACKED", "keep")
    first = load(tiny_dir, quantize)
    not_made()
    second = load(tiny_dir, quantize)
    assert len(kept()) == 1
    prompts = [tiny.vocabulary.report_prompt([code] * tiny.vocabulary.tokens_per_image) for code in (3, 5)]
    ids = [
        [one.token_ids for one in report_engine(decoder, tiny.vocabulary).generate(prompts, DecodeSettings())]
        for decoder in (made, first, second)
    ]
    assert ids[0] == ids[1] == ids[2] != [[], []]
    require_equal(made, first)
    require_equal(made, second)


def test_whatever_the_weights_depend_on_has_a_file_of_its_own(tiny_dir, monkeypatch):
    monkeypatch.setattr(packed, "_MOST_FILES", 9)
    load(tiny_dir)
    load(tiny_dir, "int8")
    load(tiny_dir, dtype=torch.bfloat16)
    assert len(kept()) == 3
    path = tiny_dir / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-4:] = b"\0\0\0\0"
    path.write_bytes(data)
    load(tiny_dir)
    assert len(kept()) == 4
    if native.best_level():
        monkeypatch.setenv("CHEXMIX_KERNELS", "torch")
        load(tiny_dir)
        assert len(kept()) == 5


def flip(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a bit of a weight": flip,
    "a bit of the header": lambda path: path.write_bytes(path.read_bytes().replace(b"head", b"heat", 1)),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_again_and_the_log_says_so(tiny_dir, caplog, monkeypatch, damage):
    load(tiny_dir)
    (path,) = kept()
    with monkeypatch.context() as patch:
        patch.setenv("CHEXMIX_PACKED", "off")
        made = load(tiny_dir)  # not mapped: what follows would change it
    before = path.read_bytes()
    DAMAGES[damage](path)
    assert path.read_bytes() != before
    with caplog.at_level(logging.WARNING, "chexmix"):
        require_equal(made, load(tiny_dir))
    assert "made again" in caplog.text
    assert path.name in caplog.text
    assert [one.read_bytes() for one in kept()] == [before]


def test_a_whole_file_of_something_else_is_not_taken(tiny_dir, caplog):
    other = load(tiny_dir, "int8")
    (path,) = kept()
    made = load(tiny_dir, "int4")
    (own,) = (one for one in kept() if one != path)
    own.unlink()
    digest = path.stem.rpartition("-")[2]
    path.rename(own.with_name(f"{own.stem.partition('-')[0]}-{digest}.safetensors"))
    with caplog.at_level(logging.WARNING, "chexmix"):
        require_equal(made, load(tiny_dir, "int4"))
    assert "was made of something else" in caplog.text
    assert kept() == [own]
    with pytest.raises(AssertionError):
        require_equal(made, other)


def state():
    return {"a": torch.arange(9, dtype=torch.uint8), "b": torch.ones(3)}


def test_who_writes_at_the_same_time_writes_the_same_file():
    together = threading.Barrier(4, timeout=60)

    def make():
        together.wait()  # nobody has found a file
        return state()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: packed_state({"of": "one"}, make), range(4)))
    assert len(kept()) == 1
    for one in found:
        assert torch.equal(one["a"], state()["a"])
        assert torch.equal(one["b"], state()["b"])


def test_the_newest_files_stay():
    for number in range(6):
        packed_state({"of": number}, state)
        for path in kept():
            if path.stat().st_mtime > number + 1:
                os.utime(path, (number + 1, number + 1))
    assert [path.stat().st_mtime for path in sorted(kept(), key=os.path.getmtime)] == [3, 4, 5, 6]


def test_a_file_that_is_removed_meanwhile_stays_with_who_has_mapped_it():
    packed_state({"of": "one"}, state)
    found = packed_state({"of": "one"}, lambda: pytest.fail("made again"))
    for path in kept():
        path.unlink()
    assert torch.equal(found["a"], state()["a"])


def test_a_home_that_cannot_be_written_is_no_error(tiny_dir, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CHEXMIX_HOME", str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.INFO, "chexmix"):
        load(tiny_dir)
    assert "packed weights: not kept" in caplog.text


def test_small_weights_are_not_kept(tiny_dir, monkeypatch):
    monkeypatch.setattr(packed, "_LEAST_BYTES", 64 << 20)
    load(tiny_dir)
    assert kept() == []


def test_the_switch_has_two_values(monkeypatch):
    monkeypatch.setenv("CHEXMIX_PACKED", "no")
    with pytest.raises(SettingsError, match=r"CHEXMIX_PACKED.*keep, off"):
        packed_state({}, state)
