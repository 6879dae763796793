"""The machine a model runs on: device and dtype choice, seeds, provenance. Importing it loads no torch."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chexmix_cli import __version__
from chexmix_cli.core.errors import MachineError, SettingsError

if TYPE_CHECKING:
    import torch

#: Names ``choose_dtype`` takes.
DTYPES = ("auto", "float32", "bfloat16")
#: Parameters above which reading the weights is what a token costs, so that half the bytes pay off.
_LARGE_MODEL = 1_000_000_000
#: Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of ``auto`` (the first CUDA GPU, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Apple's GPU is taken only when it is asked for: nothing of this was measured on one. A CUDA device becomes the
    process's current one, so that nothing is set up on another, and float32 is float32 from here on: convolutions,
    which torch by itself gives 10 bits of a mantissa there (TF32), compute in all 23.

    Raises:
        SettingsError: if ``name`` is none of these.
        MachineError: if a GPU is asked for and not there; the message says what is missing.
    """
    import torch

    if name == "mps":
        if not torch.backends.mps.is_available():
            raise MachineError("this PyTorch finds no GPU of Apple's", where="--device mps", hint="--device cpu")
        return torch.device("mps")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    asked = re.fullmatch(r"cuda(?::(\d+))?", "cuda" if name == "auto" else name)
    if asked is None:
        raise SettingsError(f"{name!r} is not a device", where="--device", expected="auto, cpu, cuda, cuda:N or mps")
    if torch.version.cuda is None:
        raise MachineError(
            "this PyTorch is built without CUDA", where=f"--device {name}", hint="install a CUDA build, or --device cpu"
        )
    if not torch.cuda.is_available():
        raise MachineError("no CUDA device or driver is visible", where=f"--device {name}", hint="--device cpu")
    index, count = int(asked[1] or 0), torch.cuda.device_count()
    if index >= count:
        raise MachineError(f"there are {count} CUDA devices", where=f"--device {name}", expected=f"0..{count - 1}")
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return device


def choose_dtype(name: str, device: torch.device, *, num_parameters: int, is_quantized: bool = False) -> torch.dtype:
    """Return the dtype a model computes in.

    Args:
        name: ``float32``, ``bfloat16``, or ``auto``: bfloat16 where the device multiplies in it, but on a CPU only
            for a model so large that memory traffic decides; else float32.
        device: where the model will be.
        num_parameters: of the model.
        is_quantized: its matrices are in 8 or 4 bits. On a CUDA device without bfloat16 ``auto`` is then float16:
            those weights are there for the memory, which activations and what is cached in float32 would take.

    Raises:
        SettingsError: if ``name`` is none of these.
    """
    import torch

    if name not in DTYPES:
        raise SettingsError(f"{name!r} is not a dtype", where="--dtype", expected=", ".join(DTYPES))
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if is_quantized and device.type == "cuda" and not multiplies_bfloat16(device):
        return torch.float16
    is_faster = multiplies_bfloat16(device) and (device.type != "cpu" or num_parameters >= _LARGE_MODEL)
    return torch.bfloat16 if is_faster else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions to multiply in bfloat16; of Apple's GPUs nothing was measured."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and has_cpu_bfloat16()


def has_cpu_bfloat16() -> bool:
    """Return whether this CPU multiplies in bfloat16 (AVX512-BF16 or AMX), as far as this PyTorch can tell."""
    return _cpu_has("avx512_bf16", "amx_bf16")


def has_cpu_avx512() -> bool:
    """Return whether this CPU has vectors of 512 bits (AVX512F), as far as this PyTorch can tell."""
    return _cpu_has("avx512_f")


def has_cpu_int8() -> bool:
    """Return whether this CPU multiplies 8-bit numbers (AVX512-VNNI or AMX), as far as this PyTorch can tell."""
    return _cpu_has("avx512_vnni", "amx_int8")


def _cpu_has(*names: str) -> bool:
    import torch

    # Not in the oldest torch we run on.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in names)


def slow_bfloat16(dtype: str, device: torch.device, instead: str) -> list[str]:
    """Return what to tell someone who asked for bfloat16 on a CPU that has no instructions for it; nothing elsewhere.

    Args:
        dtype: what was asked for.
        device: where the model will be.
        instead: the end of the sentence: what is slow, and what to say instead.
    """
    is_slow = device.type == "cpu" and dtype == "bfloat16" and not has_cpu_bfloat16()
    return [f"this CPU does not multiply in bfloat16: {instead}"] if is_slow else []


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; from a CPU to a GPU it goes by pinned memory, so that nobody waits for the copy."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def use_cores() -> None:
    """Let torch compute with as many threads as this process has cores; before torch is imported.

    Left to itself it takes every processor that the system lists: two a core with hyperthreads, which only share its
    arithmetic, and a whole host's in a container that may use two. ``OMP_NUM_THREADS`` holds where it is set.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def keep_freed_memory() -> None:
    """Have glibc keep up to 256 MiB that tensors were freed from, for the next ones.

    Left to itself it gives blocks of megabytes back to the system at once, which then clears their pages for the next
    batch: a tenth of what ``tokenize`` takes. Blocks above 32 MiB, the most that glibc can be told, go back as ever.
    Other allocators and systems are left alone, and so is who has set glibc's own variables.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        for parameter, value in ((_M_TRIM_THRESHOLD, 256 << 20), (_M_MMAP_THRESHOLD, 32 << 20)):
            libc.mallopt(parameter, value)


def usable_cores(*, root: Path = Path("/")) -> int:
    """Return the physical cores this process may use: those of its affinity, at most its container's quota, at least 1.

    Args:
        root: where ``sys`` is, for tests.
    """
    get_affinity = getattr(os, "sched_getaffinity", None)
    processors = get_affinity(0) if get_affinity is not None else set(range(os.cpu_count() or 1))
    cores = set()
    for processor in processors:
        topology = root / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
        try:
            cores.add(topology.read_text().strip())
        except OSError:  # no Linux, or hidden by the container: each counts
            cores.add(str(processor))
    count = len(cores)
    # Absent without a limit, and "max" where there is none.
    with suppress(OSError, ValueError):
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, int(quota) // int(period))
    return max(1, count)


@contextmanager
def determinism(is_asked: bool) -> Iterator[None]:
    """Let torch use only operations that give the same bits every time while the block runs, if that is asked for.

    Before the first product on a GPU: cuBLAS takes its workspace then, and only one of a fixed size is deterministic.
    An operation that has no such form raises torch's RuntimeError, which names it.
    """
    import torch

    if not is_asked:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def seeded_generator(seed: int) -> torch.Generator:
    """Return a CPU generator that starts at ``seed``; random numbers are drawn there whatever the device."""
    import torch

    return torch.Generator().manual_seed(seed)


def provenance(
    *,
    model: str,
    fingerprint: str,
    preset: str,
    preset_hash: str,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Return what a record needs to be made again: versions, model, preprocessing, seed, arithmetic; no path."""
    import torch

    return {
        "version": __version__,
        "model": model,
        "model_hash": fingerprint,
        "preset": preset,
        "preset_hash": preset_hash,
        "seed": seed,
        "torch": str(torch.__version__),
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
    }


def code_state() -> dict[str, Any]:
    """Return which code runs: version, torch, and of a git checkout the commit and whether files differ from it."""
    import torch

    state: dict[str, Any] = {"version": __version__, "torch": str(torch.__version__), "commit": None, "changed": None}
    folder = Path(__file__).resolve().parents[2]
    # Not the checkout of another project that chexmix is installed somewhere under.
    if (folder / ".git").exists():
        state["commit"] = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
        state["changed"] = None if changed is None else bool(changed)
    return state


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def available_memory(device: torch.device, *, root: Path = Path("/")) -> int:
    """Return the bytes that a process can still take on a device: of the machine, or of the container it runs in.

    Args:
        device: any that ``choose_device`` returns.
        root: where ``proc`` and ``sys`` are, for tests.

    Raises:
        MachineError: if the system does not tell (no Linux).
    """
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        raise MachineError("this system does not tell how much memory is free", hint="--memory GIB says it") from None
    group = root / "sys/fs/cgroup"
    # Absent without a limit, and "max" where there is none.
    with suppress(OSError, ValueError):
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        available = min(available, limit - used)
    return available


def resident_memory(*, root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process holds now, or 0 where the system does not tell."""
    try:
        return int((root / "proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


def peak_memory(device: torch.device, *, root: Path = Path("/")) -> int:
    """Return the most bytes that this process has held, or 0 where the system does not tell (Windows).

    On a CUDA GPU of its memory there, else of the machine's, which Apple's GPUs share.
    """
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # Linux counts in getrusage what the process was before it began this program: a copy of its parent, however large.
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s*(\d+) kB$", (root / "proc/self/status").read_text(), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    try:
        import resource
    except ModuleNotFoundError:
        return 0
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def memory_errors(doing: str, hint: str | None) -> Iterator[None]:
    """Turn out-of-memory errors inside the block, torch's and others', into a MachineError.

    Args:
        doing: what needed the memory, for the message.
        hint: the setting that lowers the need, if there is one.
    """
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        kind = "GPU memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
        raise MachineError(f"not enough {kind}", where=doing, hint=hint) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that there is not enough memory, be it Python's, numpy's or torch's."""
    # torch is asked only if someone has loaded it.
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    # torch's allocator on the CPU has no exception type of its own.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
