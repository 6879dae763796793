"""The command lines that run on the CPU and on the pretended card; ``--weights`` and ``--device`` are put behind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scenario:
    """Command lines whose last one is counted, by a name; ``{films}``, ``{manifest}`` and ``{out}`` are paths."""

    name: str
    commands: tuple[tuple[str, ...], ...]


def _one(name: str, *words: str, sets: str = "") -> Scenario:
    return Scenario(name, ((*words, *_sets(sets)),))


def _sets(text: str) -> tuple[str, ...]:
    return tuple(word for assignment in text.split() for word in ("--set", assignment))


_SHORT = "decode.max_new_tokens=12 decode.min_new_tokens=6"
_FILL = ("inpaint", "{films}/film0.png", "--block", "0.5", "-o", "{out}/filled.png", "--json")
_EVALUATION = "bootstrap.resamples=0"

_INFERENCE = (
    _one("tokenize", "tokenize", "{films}"),
    _one("report", "generate-report", "{films}", sets=_SHORT),
    _one("report sampled", "generate-report", "{films}", sets=f"{_SHORT} decode.temperature=0.8 decode.top_p=0.9"),
    _one("report in 8 bits", "generate-report", "{films}", "--quantize", "int8", sets=_SHORT),
    _one("report in 4 bits", "generate-report", "{films}", "--quantize", "int4", sets=_SHORT),
    _one("report explained", "generate-report", "{films}", "--explain", sets=_SHORT),
    _one("embeddings", "classify", "{films}", "--embeddings"),
    _one("fill expected", *_FILL, sets="fill.choice=expected"),
    _one("fill best, iterative", *_FILL, sets="fill.choice=best fill.strategy=iterative"),
    _one("fill sampled, autoregressive", *_FILL, sets="fill.choice=sample fill.strategy=autoregressive"),
    Scenario(
        "retrieve",
        (
            ("retrieve", "index", "{manifest}", "-o", "{out}/index", "--with-text"),
            ("retrieve", "query", "{out}/index", "{films}", "-k", "2"),
        ),
    ),
    _one(
        "evaluate classification",
        "evaluate",
        "classification",
        "--manifest",
        "{manifest}",
        "--mask-ratio",
        "0,0.5",
        sets=f"{_EVALUATION} sweep.seeds=1 probe.c=[0.1]",
    ),
    _one(
        "evaluate inpainting",
        "evaluate",
        "inpainting",
        "--manifest",
        "{manifest}",
        "--mask-ratio",
        "0.5",
        "--patterns",
        "block",
        sets=f"{_EVALUATION} methods.strategies=['single'] methods.baselines=['mean']",
    ),
    _one("evaluate retrieval", "evaluate", "retrieval", "--manifest", "{manifest}", sets=_EVALUATION),
)

#: Small rates: a code or a rank that turns on a rounding makes another run of it.
_RATE = "optimizer.learning_rate=1e-5 train.precision=float32"
_STEPS = "train.steps=2 train.validate_every=2 train.checkpoint_every=2 train.log_every=1"


def _trained(name: str, *words: str, sets: str = "") -> Scenario:
    return _one(
        name,
        *words,
        "--preset",
        "debug",
        "--manifest",
        "{manifest}",
        "--out",
        "{out}/run",
        sets=f"{_STEPS} {_RATE} {sets}",
    )


_TRAINING = (
    _trained(
        "tokenizer judged",
        *("pretrain", "--stage", "tokenizer", "--init", "{weights}"),
        sets="reconstruction.adversarial=0.1",
    ),
    _trained("stage 1", "pretrain", "--stage", "1", "--init", "{weights}"),
    _trained("stage 2", "pretrain", "--stage", "2", "--init", "{weights}"),
    _trained(
        "stage 2 packed, whole images",
        *("pretrain", "--stage", "2", "--init", "{weights}"),
        sets="packing.row_tokens=96 masking.attention=bidirectional train.checkpoint_activations=true",
    ),
)
_FINETUNING = tuple(
    _trained(f"finetune {task} {method}", "finetune", "--task", task, "--method", method)
    for task, method in (
        ("report", "lora"),
        ("classify", "full"),
        ("retrieve", "lora"),
        ("retrieve", "probe"),
    )
)

#: Each is a process of its own: what it imports takes as long as ten commands.
GROUPS = {"inference": _INFERENCE, "training": _TRAINING + _FINETUNING}
