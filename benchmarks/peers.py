"""Our decoder beside the engines that people run such a model with on a CPU: same weights, same prompt, same text.

    pip install llama-cpp-python gguf optimum-intel openvino onnxruntime-genai onnx-ir    # what is missing is left out
    python benchmarks/peers.py /tmp/peers -o peers.json
    python benchmarks/peers.py /tmp/peers --reports 8 --prompt 512 -o peers-8.json
    python benchmarks/peers.py /tmp/peers-full --size full --prompt 1027 --new-tokens 33 --rounds 3 -o peers-full.json

The weights are random: ``medium`` is four layers of the released shape (0.6 B parameters), ``full`` all 32 (2.8 B).
They and the forms of the other engines are written to the folder once. Engines take turns, every second round
backwards, each in a process of its own; ratios are taken within a round against ours of as many bits, and the median
counts. Every engine reads the same ids, those that ours chooses in float32 (``peer_sides.py``); agreement is the share
of places where it would choose the same (low where logits nearly tie, as those of random weights do: what rounding does
to a trained model is measured by ``quantization.py``). A whole report is its prompt and 200 tokens, reckoned from those
measured. With ``--reports`` so many are decoded together, each of its own prompt, and a token is one of each. A table
goes to stderr, figures as JSON to ``-o`` (or stdout).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from report_sides import prompt_of
from tokenize_images import machine
from write_random import write_random

from chexmix_cli.core.weights import open_weights
from chexmix_cli.core.weights.export import export_gguf, export_hf

HERE = Path(__file__).parent
#: What an engine is compared with: ours of as many bits.
RIVALS = {
    "ours float32": "ours float32",
    "transformers float32": "ours float32",
    "ours int8": "ours int8",
    "llama.cpp Q8_0": "ours int8",
    "openvino int8": "ours int8",
    "onnxruntime int8": "ours int8",
    "ours int4": "ours int4",
    "llama.cpp Q4_0": "ours int4",
    "openvino int4": "ours int4",
    "onnxruntime int4": "ours int4",
}
NEEDS = {
    "llama.cpp": ("llama_cpp", "gguf"),
    "openvino": ("optimum.intel", "openvino"),
    "onnxruntime": ("onnxruntime_genai", "onnx_ir"),
    "transformers": ("transformers",),
}
LAYERS = {"medium": 4, "full": 32}
#: Of a whole report.
_REPORT_TOKENS = 200


def main() -> None:
    """Measure, and print table and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=LAYERS, default="medium")
    parser.add_argument("--engines", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prompt")
    parser.add_argument("--new-tokens", type=int, default=17)
    parser.add_argument("--reports", type=int, default=1, help="decoded together")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    folder = write_random(options.folder, num_layers=LAYERS[options.size])
    engines = [name for name in options.engines if is_there(name)]
    for name in engines:
        prepare(folder, name)
    vocabulary = open_weights(folder).settings.vocabulary
    job = {
        "folder": str(folder),
        "prompts": [prompt_of(vocabulary, seed)[-options.prompt :] for seed in range(options.reports)],
        "vocabulary": open_weights(folder).settings.decoder.num_rows,
        "new_tokens": options.new_tokens,
        "threads": options.threads,
        "ids": None,
    }
    job["ids"] = side(job, "ours float32")["chosen"]
    rounds = []
    for number in range(options.rounds):
        order = engines if number % 2 == 0 else engines[::-1]
        rounds.append({name: side(job, name) for name in order})
        print(f"round {number + 1} of {options.rounds} is done", file=sys.stderr)
    rows = [row(name, rounds, job["ids"]) for name in engines]
    print(" | ".join(rows[0]), file=sys.stderr)
    for one in rows:
        print(
            " | ".join(str(round(cell, 3)) if isinstance(cell, float) else str(cell) for cell in one.values()),
            file=sys.stderr,
        )
    asked = {
        "size": options.size,
        "prompt": options.prompt,
        "new_tokens": options.new_tokens,
        "reports": options.reports,
        "threads": options.threads,
    }
    record = json.dumps({"machine": machine(), "asked": asked, "table": rows, "rounds": rounds}, indent=1) + "\n"
    if options.output is None:
        sys.stdout.write(record)
    else:
        options.output.write_text(record)


def is_there(name: str) -> bool:
    """Return whether an engine's packages are installed; what is missing is said."""
    for package in NEEDS.get(name.split()[0], ()):
        try:
            found = find_spec(package)
        except ModuleNotFoundError:
            found = None
        if found is None:
            print(f"{name} is left out: the package {package} is not installed", file=sys.stderr)
            return False
    return True


def prepare(folder: Path, name: str) -> None:
    """Write the weights in an engine's own form, unless they are there."""
    engine, _, kind = name.partition(" ")
    gguf = folder / "gguf" / f"model-{kind}.gguf"
    if engine == "llama.cpp" and not gguf.is_file():
        export_gguf(folder, gguf.parent, quantize="q8_0" if kind == "Q8_0" else None)
        if kind == "Q4_0":
            narrow(gguf.with_name("model-BF16.gguf"), gguf)
    elif engine in BUILDERS and not (folder / f"{engine}-{kind}").is_dir():
        hf = folder / "hf"
        if not hf.is_dir():
            export_hf(folder, hf)
        command = [*BUILDERS[engine](hf, kind), str(folder / f"{engine}-{kind}")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def openvino_builder(hf: Path, kind: str) -> list[str]:
    """Return optimum-intel's command, without its output."""
    command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino", "--model", str(hf)]
    return [*command, "--task", "text-generation-with-past", "--weight-format", kind]


def onnxruntime_builder(hf: Path, kind: str) -> list[str]:
    """Return the command of onnxruntime-genai's builder, without its output: groups of 32, activations in 8 bits."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(hf), "-p", kind, "-e", "cpu"]
    return [*command, "-c", str(hf), "--extra_options", "accuracy_level=4", "block_size=32", "-o"]


BUILDERS = {"openvino": openvino_builder, "onnxruntime": onnxruntime_builder}


def narrow(wide: Path, file: Path) -> None:
    """Write a GGUF file in llama.cpp's own 4 bits (its head has 6)."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    unfinished = file.with_suffix(".part")
    if llama_cpp.llama_model_quantize(str(wide).encode(), str(unfinished).encode(), parameters) != 0:
        raise SystemExit(f"llama.cpp did not quantise {wide}")
    unfinished.replace(file)


def side(job: dict[str, Any], name: str) -> dict[str, Any]:
    """Run an engine in a process of its own."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps({**job, "engine": name}))
        file.flush()
        done = subprocess.run(
            [sys.executable, str(HERE / "peer_sides.py"), file.name], stdout=subprocess.PIPE, text=True, check=False
        )
    if done.returncode != 0:
        raise SystemExit(f"{name} ended with {done.returncode}: what it said is above")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for unit in ("s", "cpu_s"):
        found[f"report_{unit}"] = found[f"prompt_{unit}"] + (_REPORT_TOKENS - 1) * found[f"token_{unit}"]
    return found


def row(name: str, rounds: list[dict[str, Any]], ids: list[list[int]]) -> dict[str, Any]:
    """Return an engine's medians, its ratios to ours of as many bits (above 1: it takes longer), and its agreement."""

    def median(key: str) -> float:
        return float(statistics.median(one[name][key] for one in rounds))

    keys = [f"{part}_{unit}" for part in ("prompt", "token", "report") for unit in ("s", "cpu_s")]
    found: dict[str, Any] = {"engine": name, "load_s": median("load_s"), **{key: median(key) for key in keys}}
    rival = RIVALS[name]
    for key in keys:
        ratios = [one[name][key] / one[rival][key] for one in rounds if rival in one]
        found[f"{key}_times_ours"] = statistics.median(ratios) if ratios else None
    found["peak_gb"] = median("peak_bytes") / 1e9
    pairs = [pair for own in zip(rounds[0][name]["chosen"], ids, strict=True) for pair in zip(*own, strict=True)]
    found["agreement"] = sum(one == other for one, other in pairs) / len(pairs)
    return found


if __name__ == "__main__":
    main()
