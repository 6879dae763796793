"""What a film costs before a model sees it, measured here; and what an archive takes on many GPUs, on paper.

Usage: python benchmarks/scale_parts.py [--rounds 20] [--runs JSON] [--plot PNG]

Measured, on one core, least of the rounds: listing a DICOM file (its header), reading its bytes (from the page cache:
no disk is measured), decoding and rendering it to 8-bit grey, and fitting it to the model's square. The film is
RG1_UNCR.dcm of pydicom-data (chest PA, 1841 x 1955, 15 bits), as it is and in JPEG 2000 lossless.

Not measured: encoding and decoding on a GPU. Operations and bytes are counted (as ``chexmix plan`` does) and divided
by what a GPU is taken to do, ``FLOP_PER_S`` and ``BYTES_PER_S``: a share of an A100's data sheet, no measurement.

``--runs`` is what benchmarks/ray_kill.py --out has written; ``--plot`` draws both. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import JPEG2000Lossless

from chexmix_cli.core.data.images.geometry import fit
from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.data.studies.inputs import discover
from chexmix_cli.core.settings.inference import InputSettings
from chexmix_cli.core.settings.load import build, read_preset
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.train.flop import vqgan_flop

#: An A100 multiplies 312e12 times a second in bfloat16 and reads 2.0e12 bytes; four and six tenths of it are assumed.
FLOP_PER_S, BYTES_PER_S = 0.4 * 312e12, 0.6 * 2.0e12
FILMS, GPUS = 1_400_000, (8, 64, 512)
#: Of a report: tokens, and reports decoded together on a GPU.
REPORT_TOKENS, TOGETHER = 100, 64
#: Cores beside a GPU that read films.
CORES_PER_GPU = 8


def main() -> int:
    """Measure, count, print."""
    arguments = _arguments()
    model = build(ModelSettings, read_preset("model", "phi2"))
    with tempfile.TemporaryDirectory() as name:
        parts = {form: _parts(path, model, arguments.rounds) for form, path in _films(Path(name)).items()}
    gpu = _on_paper(model)
    result = {
        "films": FILMS,
        "measured_s": parts,
        "counted": gpu,
        "assumed": {"flop_per_s": FLOP_PER_S, "bytes_per_s": BYTES_PER_S, "cores_per_gpu": CORES_PER_GPU},
        "hours": {form: {str(count): _hours(part, gpu, count) for count in GPUS} for form, part in parts.items()},
    }
    print(json.dumps(result))
    if arguments.plot is not None:
        runs = None if arguments.runs is None else json.loads(arguments.runs.read_text())
        _draw(result, runs, arguments.plot)
    return 0


def _films(folder: Path) -> dict[str, Path]:
    source = get_testdata_file("RG1_UNCR.dcm")
    plain, packed = folder / "plain.dcm", folder / "j2k.dcm"
    assert isinstance(source, str)
    dataset = pydicom.dcmread(source)
    dataset.save_as(plain)
    dataset.compress(JPEG2000Lossless)
    dataset.save_as(packed)
    return {"uncompressed": plain, "JPEG 2000 lossless": packed}


def _parts(path: Path, model: ModelSettings, rounds: int) -> dict[str, float]:
    settings = InputSettings()
    preset = resolve_preset("voi", model.image, model.vqgan.image_channels)
    image = load_image(Source(path), preset.intensity, settings).image
    return {
        "list": _least(lambda: list(discover([str(path)], settings)), rounds),
        "read": _least(path.read_bytes, rounds),
        # Rendering opens the file, too: what is left is decoding, window and polarity.
        "decode": _least(lambda: load_image(Source(path), preset.intensity, settings), rounds),
        "fit": _least(lambda: fit(image, preset.image, preset.channels), rounds),
        "megabytes": path.stat().st_size / 1e6,
    }


def _least(call: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return min(times)


def _on_paper(model: ModelSettings) -> dict[str, float]:
    """Return seconds of one GPU for a film, each part by what bounds it."""
    decoder = model.decoder
    encode_flop = vqgan_flop(model.vqgan, model.image.resolution_px)[0]
    prompt_flop = 2.0 * decoder.num_parameters * model.vocabulary.prompt_length
    # Every pass reads all weights once, for all reports decoded together.
    pass_bytes = 2.0 * decoder.num_parameters
    return {
        "encode_flop": encode_flop,
        "prompt_flop": prompt_flop,
        "pass_bytes": pass_bytes,
        "encode_s": encode_flop / FLOP_PER_S,
        "prompt_s": prompt_flop / FLOP_PER_S,
        "report_s": REPORT_TOKENS * pass_bytes / BYTES_PER_S / TOGETHER,
    }


def _hours(parts: dict[str, float], gpu: dict[str, float], num_gpus: int) -> dict[str, float]:
    """Return hours of each part by itself; parts overlap, so the longest is what a run takes at least."""
    cores = CORES_PER_GPU * num_gpus
    seconds = {
        # One process lists all files, however many GPUs there are.
        "list": FILMS * parts["list"],
        "decode and fit": FILMS * (parts["decode"] + parts["fit"]) / cores,
        "encode": FILMS * gpu["encode_s"] / num_gpus,
        "read prompts": FILMS * gpu["prompt_s"] / num_gpus,
        "write reports": FILMS * gpu["report_s"] / num_gpus,
    }
    return {name: round(value / 3600, 3) for name, value in seconds.items()} | {
        "GB/s read": round(parts["megabytes"] * FILMS / 1e3 / max(seconds["encode"], seconds["decode and fit"]), 2)
    }


def _draw(result: dict[str, Any], runs: dict[str, Any] | None, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    if runs is not None:
        alone = [run for run in runs["runs"] if "killed_at" not in run]
        for command in dict.fromkeys(run["command"] for run in alone):
            own = sorted((run["workers"], run["films_per_s"]) for run in alone if run["command"] == command)
            left.plot(*zip(*own, strict=True), marker="o", linestyle="none", label=command)
        films = alone[0]["films"]
        left.set_title(
            f"{films} films of 64 px, tiny model, two cores under other load\n"
            f"({runs['machine']['load']:.0f} at the end): one run each, no scaling can be read off"
        )
        left.set_xticks([0, 1, 2], ["one process,\nno Ray", "1 worker", "2 workers"])
        left.set_ylabel("films a second, from the first record on")
        left.set_ylim(bottom=0)
        left.legend(frameon=False)
    names = [name for name in result["hours"]["uncompressed"]["8"] if name != "GB/s read"]
    for place, count in enumerate(GPUS):
        hours = result["hours"]["uncompressed"][str(count)]
        shift = (place - 1) * 0.27
        bars = right.barh([row + shift for row in range(len(names))], [hours[name] for name in names], 0.25)
        bars.set_label(f"{count} GPUs")
    right.set_yticks(range(len(names)), names)
    right.invert_yaxis()
    right.set_xscale("log")
    right.set_xlabel("hours, each part by itself")
    right.set_title(
        "1.4 million films on paper: lists, decoding and fitting\nmeasured; GPU parts counted, no GPU measured"
    )
    right.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
