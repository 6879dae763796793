from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.weights.formats.header import in_order, read_header, write_in_order
from chexmix_cli.core.weights.formats.keys import Slice, same_name_slices
from chexmix_cli.core.weights.formats.safetensors_io import (
    ModuleSource,
    SafetensorsSource,
    check_keys,
    load_module,
    write_safetensors,
)


class Pair(nn.Module):
    """Two layers whose tensors all differ in shape."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 5)
        self.two = nn.Conv2d(2, 7, 3)


def _pair_file(path: Path) -> Path:
    torch.manual_seed(0)
    write_safetensors(path, ModuleSource(pair := Pair(), same_name_slices(pair)), metadata={"note": "a"})
    return path


def _load(path: Path, dtype: torch.dtype = torch.float32) -> Pair:
    return load_module(Pair, same_name_slices, SafetensorsSource(path), device="cpu", dtype=dtype)


class FailingSource:
    """Gives its first tensor and then breaks, as a full disk or a pulled cable would make it."""

    where = "failing"
    shapes: Mapping[str, tuple[int, ...]] = {"a": (4,), "b": (4,)}
    dtypes: Mapping[str, str] = {"a": "F32", "b": "F32"}

    def get(self, key: str) -> Tensor:
        if key == "b":
            raise WeightsError("broken")
        return torch.zeros(4)

    def release(self) -> None:
        pass


def test_the_package_reads_what_we_write_bit_for_bit(tmp_path: Path) -> None:
    odd = nn.ParameterDict(
        {
            # Negative zero, subnormal, infinities and not-a-numbers with a payload are bits like any others.
            "bits": nn.Parameter(
                torch.tensor([-2147483648, 1, 2139095040, 2143289345], dtype=torch.int32).view(torch.float32)
            ),
            "narrow": nn.Parameter(torch.randn(3, 2).half()),
            "brain": nn.Parameter(torch.randn(1, 5).bfloat16()),
            "wide": nn.Parameter(torch.randn(2, 2).double()),
            "scalar": nn.Parameter(torch.tensor(3.5)),
            "strided": nn.Parameter(torch.randn(4, 6).t()),
        }
    )
    path = tmp_path / "odd.safetensors"
    write_safetensors(path, ModuleSource(odd, same_name_slices(odd)), metadata={"chexmix": "x"})
    read = load_file(path)
    for name, value in odd.items():
        assert read[name].dtype == value.dtype
        assert read[name].shape == value.shape
        found, written = (tensor.detach().reshape(-1).view(torch.uint8) for tensor in (read[name], value))
        assert torch.equal(found, written)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "chexmix": "x"}


def test_the_header_reads_as_the_package_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(2, 3), "y": torch.zeros(5, dtype=torch.bfloat16)}, path, metadata={"k": "v"})
    header = read_header(path)
    assert header.shapes == {"x": (2, 3), "y": (5,)}
    assert {name: info.dtype for name, info in header.tensors.items()} == {"x": "F32", "y": "BF16"}
    assert (header.num_parameters, header.num_bytes, header.metadata) == (11, 34, {"k": "v"})


def test_what_the_package_writes_in_any_order_is_put_in_one(tmp_path: Path) -> None:
    metadata = {name: f'{{"say": "é\x7f{name}"}}' for name in "dbeacf"}
    tensors = {"one": torch.rand(3), "two": torch.rand(2, 2)}
    written = set()
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        save_file(tensors, path, metadata)
        content = path.read_bytes()
        write_in_order(path)
        assert path.read_bytes() == in_order(content) == in_order(in_order(content))
        assert len(path.read_bytes()) == len(content)
        written.add(path.read_bytes())
    assert len(written) == 1
    with safe_open(path, "pt") as file:
        assert file.metadata() == metadata
        assert list(read_header(path).metadata) == sorted(metadata)
        assert all(torch.equal(file.get_tensor(name), values) for name, values in tensors.items())
    save_file(tensors, path)
    assert in_order(path.read_bytes()) == path.read_bytes()


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(WeightsError, match="broken"):
        write_safetensors(path, FailingSource(), metadata={})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == b"old"


def test_loading_converts_and_gives_a_module_of_its_own_in_eval_mode(tmp_path: Path) -> None:
    path = _pair_file(tmp_path / "a.safetensors")
    expected = {name: value.clone() for name, value in load_file(path).items()}
    module = _load(path, torch.bfloat16)
    path.write_bytes(b"\0" * path.stat().st_size)  # what was loaded does not depend on the file
    assert not module.training
    for name, value in module.named_parameters():
        assert value.requires_grad
        assert torch.equal(value, expected[name].bfloat16())


def test_all_wrong_keys_are_one_error(tmp_path: Path) -> None:
    tensors = {f"extra.{number}": torch.zeros(1) for number in range(9)}
    tensors |= {"one.weight": torch.zeros(5, 4), "one.bias": torch.zeros(5), "two.weight": torch.zeros(7, 2, 3, 3)}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError) as caught:
        _load(tmp_path / "a.safetensors")
    message = str(caught.value)
    assert str(tmp_path / "a.safetensors") in message
    assert "1 missing: two.bias" in message
    assert "1 misshapen: one.weight is 5 x 4, not 5 x 3" in message
    assert "9 unexpected: extra.0" in message
    assert "and 3 more" in message
    assert "extra.8" not in message


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, dtype=torch.int64)}, tmp_path / "a.safetensors")
    problems = check_keys([Slice("a", (2,), "a")], SafetensorsSource(tmp_path / "a.safetensors"))
    assert problems == ["1 not floating point: a is I64"]


def test_a_buffer_outside_the_checkpoint_cannot_stay_empty(tmp_path: Path) -> None:
    class Buffered(Pair):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(3.0), persistent=False)

    source = SafetensorsSource(_pair_file(tmp_path / "a.safetensors"))
    with pytest.raises(AssertionError, match="table"):
        load_module(Buffered, same_name_slices, source, device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("keep", [0, 5, 8, 60, -400, -1])
def test_a_file_cut_short_is_named(tmp_path: Path, keep: int) -> None:
    path = _pair_file(tmp_path / "cut.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"cut\.safetensors: is (cut short|not a safetensors file)"):
        _load(path)


def test_damage_anywhere_in_the_header_is_a_clear_error_or_harmless(tmp_path: Path) -> None:
    original = _pair_file(tmp_path / "a.safetensors").read_bytes()
    end = 8 + int.from_bytes(original[:8], "little")
    generator = torch.Generator().manual_seed(3)
    outcomes = {"refused": 0, "read": 0}
    for _ in range(400):
        position, value = (int(torch.randint(0, high, (1,), generator=generator)) for high in (end, 256))
        damaged = bytearray(original)
        damaged[position] = value
        path = tmp_path / "b.safetensors"
        path.write_bytes(damaged)
        try:
            _load(path)
            outcomes["read"] += 1
        except WeightsError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 200


_MEASURE = """
import sys
from pathlib import Path

import torch
from torch import nn
from chexmix_cli.core.weights.formats.keys import same_name_slices
from chexmix_cli.core.weights.formats.safetensors_io import SafetensorsSource, load_module

def make():
    return nn.ModuleList(nn.Linear(1024, 1024) for _ in range(24))

def peak():
    # Of this process alone: getrusage would count the parent's as well.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

for dtype in (torch.float32, torch.bfloat16):
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    module = load_module(make, same_name_slices, SafetensorsSource(Path(sys.argv[1])), device="cpu", dtype=dtype)
    after = peak()
    print((after - before) / sum(value.numel() * value.element_size() for value in module.parameters()))
    del module
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_the_peak_of_memory_is_little_more_than_the_weights(tmp_path: Path, repository: Path) -> None:
    module = nn.ModuleList(nn.Linear(1024, 1024) for _ in range(24))  # 101 MB in float32
    path = tmp_path / "medium.safetensors"
    write_safetensors(path, ModuleSource(module, same_name_slices(module)), metadata={})
    command = [sys.executable, "-c", _MEASURE, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository)
    # One parameter's pages of the file come on top of the weights: 4 of 101 or 50 MB here.
    whole, half = (float(line) for line in result.stdout.split())
    assert 0.9 < whole < 1.15
    assert 0.9 < half < 1.25
