from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest
import torch

from chexmix_cli import __version__
from chexmix_cli.core import runtime
from chexmix_cli.core.errors import ExitCode, MachineError, SettingsError

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


@pytest.fixture
def cuda(monkeypatch):
    """Return a function that makes torch report so many CUDA devices (None: a build without CUDA)."""

    def pretend(count):
        monkeypatch.setattr(torch.version, "cuda", None if count is None else "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(count))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count or 0)
        monkeypatch.setattr(torch.cuda, "set_device", current.append)

    current = []
    pretend.current = current
    before = torch.backends.cudnn.allow_tf32
    yield pretend
    torch.backends.cudnn.allow_tf32 = before


def test_auto_takes_what_is_there(cuda):
    cuda(None)
    assert runtime.choose_device("auto") == CPU
    cuda(2)
    assert runtime.choose_device("auto") == CUDA


def test_a_device_is_taken_as_named(cuda):
    cuda(2)
    assert runtime.choose_device("cpu") == CPU
    assert runtime.choose_device("cuda") == CUDA
    assert runtime.choose_device("cuda:1") == torch.device("cuda", 1)


def test_a_chosen_gpu_is_the_current_one_and_its_float32_is_exact(cuda):
    """By default torch rounds the operands of a float32 convolution on a GPU to 10 bits of a mantissa."""
    cuda(2)
    torch.backends.cudnn.allow_tf32 = True
    runtime.choose_device("cpu")
    assert (cuda.current, torch.backends.cudnn.allow_tf32) == ([], True)
    runtime.choose_device("cuda:1")
    assert cuda.current == [torch.device("cuda", 1)]
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("count", "name", "message"),
    [
        (None, "cuda", "built without CUDA"),
        (0, "cuda:0", "no CUDA device or driver is visible"),
        (2, "cuda:2", r"there are 2 CUDA devices; expected 0\.\.1"),
    ],
)
def test_missing_cuda_is_an_error_of_the_machine_with_its_reason(cuda, count, name, message):
    cuda(count)
    with pytest.raises(MachineError, match=message) as caught:
        runtime.choose_device(name)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", "", "cpu:0"])
def test_an_unknown_device_is_a_usage_error(cuda, name):
    cuda(1)
    with pytest.raises(SettingsError, match="--device.*expected auto, cpu, cuda, cuda:N or mps"):
        runtime.choose_device(name)


def test_apples_gpu_is_taken_when_asked_for(cuda, monkeypatch):
    cuda(None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(MachineError, match="finds no GPU of Apple's"):
        runtime.choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert runtime.choose_device("mps") == MPS
    assert runtime.choose_device("auto") == CPU
    assert runtime.choose_dtype("auto", MPS, num_parameters=2_000_000_000) == torch.float32
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 1000)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 300)
    assert runtime.available_memory(MPS) == 700


def test_auto_dtype_on_a_cpu_hangs_on_size_and_instructions(monkeypatch):
    for has_bfloat16, num_parameters, expected in (
        (True, 10**10, torch.bfloat16),
        (True, 10**7, torch.float32),
        (False, 10**10, torch.float32),
    ):
        monkeypatch.setattr(runtime, "has_cpu_bfloat16", lambda has=has_bfloat16: has)
        assert runtime.choose_dtype("auto", CPU, num_parameters=num_parameters) is expected


def test_auto_dtype_on_a_gpu_is_bfloat16_where_it_multiplies_in_it(monkeypatch):
    for supported, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=supported: has)
        assert runtime.choose_dtype("auto", CUDA, num_parameters=1) is expected
        # Of a quantised decoder activations and cache are halves all the same: float16 on a card without bfloat16.
        narrow = runtime.choose_dtype("auto", CUDA, num_parameters=1, is_quantized=True)
        assert narrow is (torch.float16 if expected is torch.float32 else expected)


def test_a_dtype_is_taken_as_named_or_refused():
    assert runtime.choose_dtype("float32", CUDA, num_parameters=10**10) is torch.float32
    assert runtime.choose_dtype("bfloat16", CPU, num_parameters=1) is torch.bfloat16
    with pytest.raises(SettingsError, match="'float16' is not a dtype.*auto, float32, bfloat16"):
        runtime.choose_dtype("float16", CPU, num_parameters=1)


def test_cpu_bfloat16_is_read_off_the_cpu(monkeypatch):
    for capabilities, expected in (
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx2": True}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert runtime.has_cpu_bfloat16() is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert runtime.has_cpu_bfloat16() is False


def test_cpu_int8_is_read_off_the_cpu(monkeypatch):
    for capabilities, expected in (({"avx512_vnni": True}, True), ({"amx_int8": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert runtime.has_cpu_int8() is expected


def test_bfloat16_is_warned_of_where_it_is_slow(monkeypatch):
    for has_bfloat16, dtype, device, is_slow in (
        (False, "bfloat16", CPU, True),
        (True, "bfloat16", CPU, False),
        (False, "float32", CPU, False),
        (False, "auto", CPU, False),
        (False, "bfloat16", CUDA, False),
    ):
        monkeypatch.setattr(runtime, "has_cpu_bfloat16", lambda has=has_bfloat16: has)
        expected = ["this CPU does not multiply in bfloat16: --dtype float32 is faster"] if is_slow else []
        assert runtime.slow_bfloat16(dtype, device, "--dtype float32 is faster") == expected


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that makes a system of hyperthread pairs, an affinity and a quota."""

    def make(siblings, affinity, quota=None):
        for number, pair in enumerate(siblings):
            folder = tmp_path / f"sys/devices/system/cpu/cpu{number}/topology"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "thread_siblings_list").write_text(f"{pair}\n")
        group = tmp_path / "sys/fs/cgroup"
        group.mkdir(parents=True, exist_ok=True)
        (group / "cpu.max").write_text("" if quota is None else quota)
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(affinity), raising=False)
        return runtime.usable_cores(root=tmp_path)

    return make


def test_cores_are_counted_not_hyperthreads(machine):
    pairs = ["0,4", "1,5", "2,6", "3,7"] * 2
    assert machine(pairs, range(8)) == 4
    assert machine(pairs, [0, 4]) == 1
    assert machine(pairs, [0, 1, 4]) == 2


def test_a_quota_bounds_the_cores(machine):
    alone = ["0", "1", "2", "3"]
    for quota, expected in (("max 100000", 4), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1)):
        assert machine(alone, range(4), quota) == expected


def test_without_a_topology_every_processor_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    assert runtime.usable_cores(root=tmp_path) == 3
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert runtime.usable_cores(root=tmp_path) == 1


def test_threads_are_the_cores_unless_the_user_says_otherwise():
    """In a process of its own: torch reads the number once."""
    code = (
        "from chexmix_cli.core import runtime\n"
        "runtime.usable_cores = lambda: 1\n"
        "runtime.use_cores()\n"
        "import torch\n"
        "print(torch.get_num_threads())"
    )
    for given, expected in ((None, "1"), ("2", "2")):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        environment |= {} if given is None else {"OMP_NUM_THREADS": given}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert done.stdout.strip() == expected


def test_a_seed_fixes_the_numbers():
    one, two, other = (torch.rand(4, generator=runtime.seeded_generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_provenance_says_what_made_a_record():
    assert runtime.provenance(
        model="chexmix-mini",
        fingerprint="ab12",
        preset="voi",
        preset_hash="cd34",
        seed=7,
        device=CUDA,
        dtype=torch.bfloat16,
    ) == {
        "version": __version__,
        "model": "chexmix-mini",
        "model_hash": "ab12",
        "preset": "voi",
        "preset_hash": "cd34",
        "seed": 7,
        "torch": torch.__version__,
        "device": "cuda:0",
        "dtype": "bfloat16",
    }


def test_running_out_of_memory_is_an_error_of_the_machine():
    with (
        pytest.raises(MachineError, match="somewhere: not enough memory") as caught,
        runtime.memory_errors("somewhere", "less"),
    ):
        torch.empty(2**60, dtype=torch.uint8)
    assert caught.value.hint == "less"
    with pytest.raises(MachineError, match="not enough GPU memory"), runtime.memory_errors("somewhere", "less"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="shape"), runtime.memory_errors("somewhere", "less"):
        torch.empty(3).view(2)


def test_importing_it_loads_no_torch():
    code = "import sys, chexmix_cli.core.runtime; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_available_memory_is_that_of_the_machine_or_of_its_container(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    assert runtime.available_memory(CPU, root=tmp_path) == 5000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000\n")
    (group / "memory.max").write_text("max\n")
    assert runtime.available_memory(CPU, root=tmp_path) == 5000 * 1024
    (group / "memory.max").write_text("3000\n")
    assert runtime.available_memory(CPU, root=tmp_path) == 2000
    with pytest.raises(MachineError, match="does not tell how much memory is free"):
        runtime.available_memory(CPU, root=tmp_path / "nowhere")


def test_available_memory_of_a_gpu_is_what_its_driver_says(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (123, 456))
    assert runtime.available_memory(CUDA) == 123


def test_peak_memory_is_unknown_without_the_systems_figures(monkeypatch, tmp_path):
    assert runtime.peak_memory(CPU) > 50 * 1024**2
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("VmPeak:\t  900 kB\nVmHWM:\t     300 kB\nVmRSS:\t  200 kB\n")
    assert runtime.peak_memory(CPU, root=tmp_path) == 300 * 1024
    assert runtime.peak_memory(CPU, root=tmp_path / "nowhere") > 50 * 1024**2
    monkeypatch.setitem(sys.modules, "resource", None)
    assert runtime.peak_memory(CPU, root=tmp_path / "nowhere") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the figure of Linux")
def test_peak_memory_is_without_what_the_parent_held():
    held = bytearray(512 * 1024**2)
    held[::4096] = b"1" * len(held[::4096])
    code = "import torch; from chexmix_cli.core import runtime; print(runtime.peak_memory(torch.device('cpu')))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(run.stdout) < len(held)


def test_resident_memory_is_this_processs(tmp_path):
    assert runtime.resident_memory() > 50 * 1024**2
    assert runtime.resident_memory(root=tmp_path) == 0


_FREED = """
import json, sys
from chexmix_cli.core.runtime import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

if sys.argv[1] == "kept":
    keep_freed_memory()
blocks = [b"x" * (20 << 20) + bytes([n]) for n in range(4)]
full = resident()
del blocks
print(json.dumps([full, resident()]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")
@pytest.mark.parametrize(("argument", "variables", "is_kept"), [
    ("left", {}, False), ("kept", {}, True), ("kept", {"MALLOC_ARENA_MAX": "1"}, False),
])  # fmt: skip
def test_what_tensors_were_freed_from_is_kept_unless_the_user_has_set_the_allocator(argument, variables, is_kept):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", _FREED, argument], env=environment | variables, capture_output=True, check=True
    )
    full, after = json.loads(done.stdout)
    assert full > 75
    assert (after > 75) == is_kept
