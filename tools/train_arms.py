"""Train what docs/results.md compares, and the embedded model: one ``chexmix pretrain`` an arm.

    python tools/train_arms.py shards --init START --out runs/arms --seeds 0 1 [--arms s1 s1-more ...] [--processes 2]

``--study arms`` (the default): the same documents, in the same number, under different objectives.

| arm | first | then |
|---|---|---|
| ``s1`` | stage 1 | |
| ``s1-more`` | ``s1`` | stage 1 |
| ``s2-paper`` | ``s1`` | stage 2, causal |
| ``s2-both`` | ``s1`` | stage 2, an image's positions see the whole image |
| ``s2-only`` | | stage 2 as in ``s2-both``, as many documents as ``s1`` and ``s2-both`` together |

and, of the loss's placement and the masks, with all else as in ``s2-both``: ``s2-both-masked`` (hidden targets only, of
the report too), ``s2-both-image`` (no report token is hidden), ``s2-both-high`` (0.4 to 0.9 of an image hidden).

``--study mini``: the embedded model, ``s1`` then ``s2``, and beside it ``s1-more``, stage 1 again in place of stage 2.
``--study mini-stages``: the same three with a third of the steps, so that two seeds fit an evening on two cores.
``--study sizes``: stage 1 from random values at three sizes; a budget is as many operations for each, ``long`` twice as
many as ``short``; ``6x256-long`` is 6 layers of width 256.

Every run is a ``chexmix pretrain`` in a folder of its own, ``OUT/seedN/ARM``: what is finished is left alone, what was
interrupted goes on. With ``--processes 2`` two runs go side by side, each with half of the threads; with ``--ranks 2``
two processes share each run's rows, which on two cores is a third quicker than two threads of one process. On a CPU
without instructions for bfloat16, ``--set train.precision=float32`` is quicker than the studies' own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

_FIRST = ("optimizer.learning_rate=1.5e-3", "optimizer.min_learning_rate=1e-4", "optimizer.warmup_steps=60")
_THEN = ("optimizer.learning_rate=1e-3", "optimizer.min_learning_rate=3e-5", "optimizer.warmup_steps=30")
_BOTH = ("masking.attention=bidirectional", "masking.loss=masked-image")
#: Of every run: small steps, of so many documents; a few passes over the data need no dropout.
ROWS = 8
_COMMON = (f"train.batch_size={ROWS}", "model.decoder.residual_dropout=0.0")


@dataclass(frozen=True, slots=True)
class Arm:
    """One run: a stage with its settings, behind another arm or from nothing."""

    stage: str
    steps: int
    settings: tuple[str, ...]
    behind: str | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """Arms that are compared, and the settings they share; ``main`` are those trained if none is named."""

    settings: tuple[str, ...]
    arms: dict[str, Arm]
    main: tuple[str, ...]


def _shape(layers: int, width: int, heads: int) -> tuple[str, ...]:
    shape = {"num_layers": layers, "hidden_size": width, "num_heads": heads, "mlp_size": 4 * width}
    return tuple(f"model.decoder.{name}={value}" for name, value in shape.items())


def _sizes() -> dict[str, Arm]:
    """Return the arms of the study of sizes: heads of 32, as the embedded model has them; steps of equal operations."""
    found = {}
    for layers, width, least in ((4, 128, 450), (6, 256, 100), (8, 384, 38)):
        shape = _shape(layers, width, width // 32)
        for budget, steps in (("short", least), ("long", 2 * least)):
            found[f"{layers}x{width}-{budget}"] = Arm("1", steps, (*_FIRST[:2], "optimizer.warmup_steps=20", *shape))
    return found


_MINI = ("train.precision=bfloat16", "documents.text_tokenizer=init")
_MASKED_IMAGE = "masking.loss=masked-image"
STUDIES = {
    # All in float32; a smaller model than the embedded one.
    "arms": Study(
        settings=("train.precision=float32", *_shape(6, 192, 6)),
        arms={
            "s1": Arm("1", 625, _FIRST),
            "s2-only": Arm("2", 1125, (*_FIRST, *_BOTH)),
            "s1-more": Arm("1", 500, _THEN, behind="s1"),
            "s2-paper": Arm("2", 500, (*_THEN, _MASKED_IMAGE), behind="s1"),
            "s2-both": Arm("2", 500, (*_THEN, *_BOTH), behind="s1"),
            "s2-both-masked": Arm("2", 500, (*_THEN, *_BOTH, "masking.loss=masked"), behind="s1"),
            "s2-both-image": Arm("2", 500, (*_THEN, *_BOTH, "masking.text_ratio=[0.0,0.0]"), behind="s1"),
            "s2-both-high": Arm("2", 500, (*_THEN, *_BOTH, "masking.image_ratio=[0.4,0.9]"), behind="s1"),
        },
        main=("s1", "s2-only", "s2-both", "s1-more", "s2-paper"),
    ),
    "mini": Study(
        settings=_MINI,
        arms={
            "s1": Arm("1", 750, ("optimizer.learning_rate=1e-3", *_THEN[1:])),
            "s2": Arm("2", 500, _THEN, behind="s1"),
            "s1-more": Arm("1", 500, _THEN, behind="s1"),
        },
        main=("s1", "s2"),
    ),
    "mini-stages": Study(
        settings=(*_MINI, "train.validation_batches=50"),
        arms={
            "s1": Arm("1", 200, ("optimizer.learning_rate=1e-3", *_THEN[1:])),
            "s2": Arm("2", 200, _THEN, behind="s1"),
            "s1-more": Arm("1", 200, _THEN, behind="s1"),
        },
        main=("s1", "s2", "s1-more"),
    ),
    "sizes": Study(
        settings=_MINI,
        arms=_sizes(),
        main=tuple(_sizes()),
    ),
}


def is_finished(folder: Path, arm: Arm) -> bool:
    """Return whether a run has its last step behind it."""
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file():
        return False
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    return any(record.get("step") == arm.steps and "val_loss" in record for record in records)


def command(name: str, seed: int, options: argparse.Namespace) -> list[str]:
    """Return the command of one run."""
    study = STUDIES[options.study]
    arm, folder = study.arms[name], options.out / f"seed{seed}" / name
    init = options.init if arm.behind is None else folder.parent / arm.behind
    settings = [*_COMMON, *study.settings, *arm.settings, f"train.steps={arm.steps}", f"train.seed={seed}"]
    settings += options.set
    every = 125 if arm.steps % 125 == 0 else arm.steps
    settings += [f"train.{name}={every}" for name in ("checkpoint_every", "validate_every")]
    settings.append(f"train.micro_batch_size={ROWS // options.ranks}")
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(options.ranks)] if options.ranks > 1 else []
    found = [sys.executable, *launcher, "-m", "chexmix_cli", "pretrain", "--stage", arm.stage, "--preset", "mini"]
    found += ["--manifest", str(options.data), "--init", str(init), "--out", str(folder)]
    found += [part for setting in settings for part in ("--set", setting)]
    return [*found, "--resume"] if (folder / "checkpoints").is_dir() else found


def run(name: str, seed: int, options: argparse.Namespace) -> int:
    """Train one arm; return the exit code."""
    folder = options.out / f"seed{seed}" / name
    if is_finished(folder, STUDIES[options.study].arms[name]):
        return 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // options.processes // options.ranks)),
    }
    started = time.monotonic()
    with (folder.parent / f"{name}.log").open("a", encoding="utf-8") as log:
        code = subprocess.run(command(name, seed, options), stdout=log, stderr=log, env=environment, check=False)
    minutes = (time.monotonic() - started) / 60
    print(f"seed {seed} {name}: exit {code.returncode}, {minutes:.1f} min", file=sys.stderr, flush=True)
    return code.returncode


def main(arguments: list[str] | None = None) -> int:
    """Train; return 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of token shards, or a manifest")
    parser.add_argument("--init", type=Path, required=True, help="image tokenizer and text tokenizer to start from")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--study", choices=STUDIES, default="arms")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="default: the study's main ones")
    parser.add_argument("--processes", type=int, default=1, help="runs side by side")
    parser.add_argument("--ranks", type=int, choices=(1, 2, 4, 8), default=1, help="processes that share a run")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of every run")
    options = parser.parse_args(arguments)
    study = STUDIES[options.study]
    if unknown := set(options.arms or ()) - set(study.arms):
        parser.error(f"--arms: {', '.join(sorted(unknown))}: expected some of {', '.join(study.arms)}")
    waiting = [(name, seed) for seed in options.seeds for name in options.arms or study.main]
    running: dict[Future[int], tuple[str, int]] = {}
    failed = 0
    with ThreadPoolExecutor(options.processes) as pool:
        while waiting or running:
            for one in list(waiting):
                before = study.arms[one[0]].behind
                is_ready = before is None or is_finished(options.out / f"seed{one[1]}" / before, study.arms[before])
                if is_ready and len(running) < options.processes:
                    waiting.remove(one)
                    running[pool.submit(run, *one, options)] = one
            if not running:
                print(f"never began: {waiting}: what they start from is not there", file=sys.stderr)
                return 1
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                failed += done.result() != 0
                del running[done]
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
