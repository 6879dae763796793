"""Images a second: our tokenizer against the released pipeline's loop, same weights, same machine, same run.

The baseline is written here from the description of the released pipeline: one image at a time, float32, plain torch
operations, the whole table of distances. Both sides start from files. Rounds alternate; ratios are paired within a
round, and the median round is reported: by the wall's clock, and by the processor's, which other work on the machine
moves less and which leaves out worker processes. One line of JSON, with hardware and versions.

Usage: python benchmarks/tokenize_images.py IMAGES [--model DIR|NAME|random] [--images 16] [--rounds 5] [--batch 4]
           [--workers 0]
       python benchmarks/tokenize_images.py IMAGES --memory 5000 [--model ...]

``random`` is a model of the released size with random weights: its speed is that of the released one, its codes mean
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from chexmix_cli import __version__
from chexmix_cli.core.data.images.geometry import fit
from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.presets import ResolvedPreset, resolve_preset
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.settings.load import build, read_preset
from chexmix_cli.core.settings.model import ModelSettings, VqganSettings
from chexmix_cli.core.weights import open_weights
from chexmix_cli.library.jobs.job import Job
from chexmix_cli.library.jobs.workers import prepare_ahead

Times = dict[str, float]


class ReleasedLoop:
    """The released pipeline's way from a file to codes, over the parameters of a VQGAN."""

    def __init__(self, vqgan: Vqgan, settings: VqganSettings, side: int) -> None:
        self.settings, self.side = settings, side
        self.p = {name: value.detach().float().contiguous() for name, value in vqgan.state_dict().items()}

    @torch.inference_mode()
    def codes(self, path: Path, times: Times) -> list[int]:
        started = time.perf_counter()
        image = Image.open(path)
        image.load()
        decoded = time.perf_counter()
        pixels = self._pixels(image, is_png=path.suffix.lower() == ".png")
        prepared = time.perf_counter()
        codes: list[int] = self._encode(pixels).tolist()
        _add(times, decode=decoded - started, preprocess=prepared - decoded, encode=time.perf_counter() - prepared)
        return codes

    def _pixels(self, image: Image.Image, *, is_png: bool) -> Tensor:
        if is_png:
            values = np.asarray(image).astype(np.float64)
            low, high = np.percentile(values, (1, 99))
            image = Image.fromarray(((np.clip(values, low, high) - low) / (high - low) * 255).astype(np.uint8))
        image = image.convert("RGB")
        scale = self.side / min(image.size)
        width, height = (max(self.side, round(extent * scale)) for extent in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        left, top = (width - self.side) // 2, (height - self.side) // 2
        image = image.crop((left, top, left + self.side, top + self.side))
        if self.settings.image_channels == 1:
            image = image.convert("L")
        values = (np.asarray(image) / 255.0 * 2 - 1).astype(np.float32)
        return torch.from_numpy(values.reshape(self.side, self.side, -1).transpose(2, 0, 1).copy())[None]

    def _conv(self, name: str, x: Tensor, *, stride: int = 1) -> Tensor:
        weight = self.p[f"{name}.weight"]
        return F.conv2d(x, weight, self.p[f"{name}.bias"], stride, 0 if stride > 1 else weight.shape[-1] // 2)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        settings = self.settings
        return F.group_norm(x, settings.num_groups, self.p[f"{name}.weight"], self.p[f"{name}.bias"], settings.norm_eps)

    def _swish(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    def _residual(self, name: str, x: Tensor) -> Tensor:
        y = self._conv(f"{name}.conv1", self._swish(self._norm(f"{name}.norm1", x)))
        y = self._conv(f"{name}.conv2", self._swish(self._norm(f"{name}.norm2", y)))
        return (self._conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.p else x) + y

    def _attention(self, name: str, x: Tensor) -> Tensor:
        normed = self._norm(f"{name}.norm", x)
        q, k, v = (self._conv(f"{name}.{letter}", normed).flatten(2) for letter in "qkv")
        weights = torch.bmm(q.transpose(1, 2), k) * x.shape[1] ** -0.5
        mixed = torch.bmm(v, weights.softmax(dim=2).transpose(1, 2)).view_as(x)
        return x + self._conv(f"{name}.proj_out", mixed)

    def _encode(self, x: Tensor) -> Tensor:
        num_levels = len(self.settings.channel_multipliers)
        x = self._conv("encoder.conv_in", x)
        for level in range(num_levels):
            for block in range(self.settings.num_res_blocks):
                x = self._residual(f"encoder.down.{level}.block.{block}", x)
            if level < num_levels - 1:
                x = self._conv(f"encoder.down.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
        x = self._residual("encoder.mid.block_1", x)
        x = self._residual("encoder.mid.block_2", self._attention("encoder.mid.attn_1", x))
        x = self._conv("quant_conv", self._conv("encoder.conv_out", self._swish(self._norm("encoder.norm_out", x))))
        z = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        codebook = self.p["quantize.embedding.weight"]
        distances = z.square().sum(1, keepdim=True) + codebook.square().sum(1) - 2 * z @ codebook.T
        codes: Tensor = distances.argmin(dim=1)
        return codes


class Ours:
    """Our way: batches, in a dtype, images read in this process or in workers ahead."""

    def __init__(self, tokenizer: ImageTokenizer, preset: ResolvedPreset, workers: int) -> None:
        self.tokenizer, self.preset, self.workers = tokenizer, preset, workers
        self.dtype = tokenizer.vqgan.quant_conv.weight.dtype

    def codes(self, paths: list[Path], times: Times) -> list[list[int]]:
        found: list[list[int]] = []
        batch: list[Any] = []
        size = self.tokenizer.batch_size
        for number, (pixels, decode_s, preprocess_s) in enumerate(self._pixels(paths), start=1):
            batch.append(pixels)
            if len(batch) == size or number == len(paths):
                started = time.perf_counter()
                found += self.tokenizer.encode(np.stack(batch)).tolist()
                _add(times, encode=time.perf_counter() - started)
                batch.clear()
            _add(times, decode=decode_s, preprocess=preprocess_s)
        return found

    def _pixels(self, paths: list[Path]) -> Iterator[tuple[Any, float, float]]:
        prepares = [partial(_prepare, path, self.preset) for path in paths]
        if not self.workers:
            for prepare in prepares:
                yield prepare()
            return
        jobs = (Job(str(number), prepare, can_travel=True) for number, prepare in enumerate(prepares))
        for _, result in prepare_ahead(jobs, self.workers, ahead=2 * self.workers + self.tokenizer.batch_size):
            if isinstance(result, Exception):
                raise result
            yield result


def _prepare(path: Path, preset: ResolvedPreset) -> tuple[Any, float, float]:
    started = time.perf_counter()
    loaded = load_image(Source(path), preset.intensity, InputSettings())
    decoded = time.perf_counter()
    pixels = fit(loaded.image, preset.image, preset.channels)
    return pixels, decoded - started, time.perf_counter() - decoded


def main() -> None:
    """Measure, and print the line."""
    arguments = _arguments()
    paths = sorted(path for path in arguments.images.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    if arguments.memory:
        result = _measure_memory(paths[: arguments.memory], arguments)
    else:
        result = _measure_speed(paths[: arguments.count], arguments)
    result["model"] = arguments.model
    result["machine"] = machine()
    sys.stdout.write(json.dumps(result) + "\n")


def _measure_speed(paths: list[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    settings, load = _model(arguments.model)
    preset = resolve_preset("official", settings.image, settings.vqgan.image_channels)
    exact = load(torch.float32)
    baseline = ReleasedLoop(exact, settings.vqgan, settings.image.resolution_px)
    sides = {"float32": exact, "bfloat16": load(torch.bfloat16)}
    ours = {
        name: Ours(ImageTokenizer(vqgan, settings, batch_size=arguments.batch), preset, arguments.workers)
        for name, vqgan in sides.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in ("released loop", *ours)}
    processor: dict[str, list[float]] = {name: [] for name in seconds}
    times: dict[str, Times] = {name: {} for name in seconds}
    codes: dict[str, list[list[int]]] = {}
    for number in range(arguments.rounds + 1):
        for name in seconds:
            spent: Times = {}
            started, started_processor = time.perf_counter(), time.process_time()
            found = (
                [baseline.codes(path, spent) for path in paths] if name not in ours else ours[name].codes(paths, spent)
            )
            took, took_processor = time.perf_counter() - started, time.process_time() - started_processor
            codes[name] = found
            # The first round warms caches and lazy set-up, and does not count.
            if number:
                seconds[name].append(took)
                processor[name].append(took_processor)
                _add(times[name], **spent)
    expected = np.array(codes["released loop"])
    result: dict[str, Any] = {"images": len(paths), "rounds": arguments.rounds, "batch": arguments.batch}
    result["workers"] = arguments.workers
    for name, values in seconds.items():
        whole = sum(times[name].values())
        result[name] = {
            "images_per_s": round(len(paths) / statistics.median(values), 3),
            "processor_s_per_image": round(statistics.median(processor[name]) / len(paths), 3),
            **_ratios("times_released_loop", seconds["released loop"], values),
            **_ratios("times_released_loop_processor", processor["released loop"], processor[name]),
            "equal_codes": float(np.mean(np.array(codes[name]) == expected)),
            "time_share": {step: round(value / whole, 4) for step, value in times[name].items()},
        }
    return result


def _ratios(name: str, base: list[float], values: list[float]) -> dict[str, Any]:
    """Return the median of the ratios within a round, and all of them."""
    ratios = [one / other for one, other in zip(base, values, strict=True)]
    return {name: round(statistics.median(ratios), 3), f"{name}_rounds": [round(ratio, 3) for ratio in ratios]}


def _measure_memory(paths: list[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the command over a list, and return its resident memory as it goes (Linux)."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "list").write_text("".join(f"{path}\n" for path in paths))
        command = [sys.executable, "-m", "chexmix_cli", "tokenize", "-", "-o", f"{folder}/shards", "--quiet"]
        command += ["--set", f"input.batch_size={arguments.batch}", "--set", f"input.workers={arguments.workers}"]
        command += ["--set", "shards.rows=512"]
        command += ["--weights", arguments.model] if arguments.model != "chexmix-mini" else []
        started = time.perf_counter()
        points: list[tuple[int, float]] = []
        with (Path(folder) / "list").open("rb") as listed:
            process = subprocess.Popen(command, stdin=listed, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            step = max(1, len(paths) // 20)
            for number, _ in enumerate(process.stdout, start=1):
                if number % step == 0:
                    points.append((number, _resident_mib(process.pid)))
            code = process.wait()
    return {
        "images": len(paths),
        "exit_code": code,
        "seconds": round(time.perf_counter() - started, 1),
        "resident_mib": [{"after": number, "mib": round(mib, 1)} for number, mib in points],
    }


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _model(name: str) -> tuple[ModelSettings, Callable[[torch.dtype], Vqgan]]:
    if name != "random":
        weights = open_weights(name)
        return weights.settings, lambda dtype: weights.load_vqgan("cpu", dtype)
    settings = build(ModelSettings, read_preset("model", "phi2"))

    def load(dtype: torch.dtype) -> Vqgan:
        torch.manual_seed(0)
        return Vqgan(settings.vqgan).to(dtype)

    return settings, load


def machine() -> dict[str, Any]:
    """Return what figures depend on: processor, threads, load, versions."""
    cpu = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    return {
        "cpu": cpu.partition(":")[2].strip() or cpu,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_before": round(_LOAD_BEFORE, 2),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "chexmix": __version__,
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _add(times: Times, **spent: float) -> None:
    for name, value in spent.items():
        times[name] = times.get(name, 0.0) + value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of pictures")
    parser.add_argument("--model", default="chexmix-mini", help="weights, or random: the released size")
    parser.add_argument("--images", dest="count", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--memory", type=int, metavar="N", help="measure memory over N images instead of speed")
    return parser.parse_args()


#: How busy the machine was; a figure taken beside other work says so itself.
_LOAD_BEFORE = os.getloadavg()[0]

if __name__ == "__main__":
    main()
