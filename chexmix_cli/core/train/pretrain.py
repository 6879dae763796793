"""Put a pretraining stage together: settings, data, model, loop, run folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from chexmix_cli.core.data.manifest import ManifestRow, read_manifest
from chexmix_cli.core.errors import TrainingError
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.init import init_decoder
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.load import to_dict
from chexmix_cli.core.settings.training import Stage1Training, Stage2Training, StageTraining, TokenizerTraining
from chexmix_cli.core.text.tokenizer import TextTokenizer
from chexmix_cli.core.train.decoder_task import DecoderTask
from chexmix_cli.core.train.documents import DocumentSet, encode_films, encode_reports
from chexmix_cli.core.train.films import load_films
from chexmix_cli.core.train.loop import Report, Trainer
from chexmix_cli.core.train.order import step_generator
from chexmix_cli.core.train.round_trip import RoundTripProbe
from chexmix_cli.core.train.task import Task
from chexmix_cli.core.train.tokenizer_task import TokenizerTask
from chexmix_cli.core.weights import WeightsDir, open_weights, save_model
from chexmix_cli.core.weights.files import tokenizer_files, write_text
from chexmix_cli.core.weights.registry import registry

Progress = Callable[[str, int, int], None]


def pretrain(
    settings: StageTraining,
    *,
    data: Path,
    out: Path,
    init: str | None,
    resume: bool,
    report: Report,
    progress: Progress,
) -> bool:
    """Run one stage into ``out``; return False if it was stopped early with a checkpoint written.

    Args:
        settings: root of the stage.
        data: manifest with ``train`` and ``val`` rows.
        out: run folder. A new run wants it without checkpoints; ``resume`` wants one.
        init: weights to start from: name, directory or run folder. The decoder stages take the image tokenizer and
            text tokenizer from it, and the decoder if it has one; the tokenizer stage its VQGAN.
        resume: go on from the newest checkpoint.
        report: called with metrics records and remarks.
        progress: called with (what, done, in all) while data is prepared.

    Raises:
        TrainingError, DataError, WeightsError: before the first step wherever that can be known.
    """
    if not resume and (out / "checkpoints").exists():
        raise TrainingError("holds a run already", where=str(out), hint="add --resume, or choose another --out")
    torch.manual_seed(settings.train.seed)
    rows = {split: list(read_manifest(data, split=split)) for split in ("train", "val")}
    for split, found in rows.items():
        if not found:
            raise TrainingError(f"no row with split {split!r}", where=data.name, expected="train and val rows")
    start = None if init is None else open_weights(init)
    if isinstance(settings, TokenizerTraining):
        task: Task = _tokenizer_task(settings, rows, start, progress)
    else:
        task = _decoder_task(settings, rows, start, progress)
    out.mkdir(parents=True, exist_ok=True)
    plain = to_dict(settings)
    write_text(out / "settings.json", json.dumps(plain, indent=2) + "\n")
    trainer = Trainer(task, settings.train, settings.optimizer, plain, out=out, report=report)
    return trainer.run(resume=resume)


def _tokenizer_task(
    settings: TokenizerTraining, rows: dict[str, list[ManifestRow]], start: WeightsDir | None, progress: Progress
) -> TokenizerTask:
    vqgan = Vqgan(settings.model.vqgan)
    if start is not None:
        _require_same("vqgan", start.settings.vqgan, settings.model.vqgan)
        vqgan = start.load_vqgan(torch.device("cpu"), torch.float32)
    train, val = (load_films(rows[split], settings.model, progress) for split in ("train", "val"))
    vqgan = vqgan.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    limit, seed = settings.reconstruction.probe_films, settings.train.seed
    probe = RoundTripProbe(train, val, rows["train"], rows["val"], limit=limit, seed=seed)
    return TokenizerTask(settings, vqgan, train, val, [row.id for row in rows["train"]], probe)


def _decoder_task(
    settings: Stage1Training | Stage2Training,
    rows: dict[str, list[ManifestRow]],
    start: WeightsDir | None,
    progress: Progress,
) -> DecoderTask:
    if start is None or not start.has_vqgan:
        raise TrainingError(
            "the decoder stages need a trained image tokenizer",
            where="--init",
            expected="the run or weights directory of `pretrain --stage tokenizer`",
        )
    model = settings.model
    for name in ("vqgan", "vocabulary", "image"):
        _require_same(name, getattr(start.settings, name), getattr(model, name))
    tokenizer_file = _text_tokenizer_file(settings.documents.text_tokenizer, start)
    tokenizer = TextTokenizer.load(tokenizer_file.parent, model.vocabulary)
    assert tokenizer is not None
    # Reports first: a row without one must stop the run before an hour of encoding.
    reports = {split: encode_reports(found, tokenizer, model) for split, found in rows.items()}
    vqgan = start.load_vqgan(torch.device("cpu"), torch.float32)
    sets = {split: _document_set(split, rows[split], reports[split], vqgan, settings, progress) for split in rows}
    decoder = _start_decoder(settings, start)
    stage = "2" if isinstance(settings, Stage2Training) else "1"
    # Weights that came from a model of weights.toml stay under its licence.
    origin = {} if start.entry is None else {"entry": start.entry.name}

    def export(directory: Path) -> None:
        save_model(
            directory,
            model,
            decoder=decoder,
            vqgan=vqgan,
            tokenizer_file=tokenizer_file,
            provenance={**origin, "stage": stage, "seed": settings.train.seed, "init": start.fingerprint},
        )

    return DecoderTask(settings, decoder, sets["train"], sets["val"], export)


def _document_set(
    split: str,
    rows: list[ManifestRow],
    reports: list[list[int]],
    vqgan: Vqgan,
    settings: Stage1Training | Stage2Training,
    progress: Progress,
) -> DocumentSet:
    documents = settings.documents if split == "train" else dataclasses.replace(settings.documents, variants=1)
    films = load_films(rows, settings.model, progress)
    codes = encode_films(
        vqgan,
        films,
        documents,
        seed=settings.train.seed,
        progress=lambda done, total: progress(f"encode {split}", done, total),
    )
    return DocumentSet(codes, reports, [row.id for row in rows])


def _text_tokenizer_file(name: str, start: WeightsDir) -> Path:
    """Return the text tokenizer of ``init``, of a model of weights.toml, or of a directory."""
    if name == "init":
        directory = start.path
    else:
        entry = registry().get(name)
        directory = Path(name) if entry is None else entry.directory
    found = tokenizer_files(directory)
    if not found:
        raise TrainingError(
            "no text tokenizer",
            where=f"documents.text_tokenizer = {name!r}",
            expected="init, a model of weights.toml or a directory, with tokenizer.json",
        )
    return found[0]


def _start_decoder(settings: Stage1Training | Stage2Training, start: WeightsDir) -> Decoder:
    shape = settings.model.decoder
    if not start.has_decoder:
        decoder = Decoder(shape)
        init_decoder(decoder, step_generator(settings.train.seed, 0))
        return decoder
    # Dropout is of the training, not of the weights.
    _require_same(
        "decoder",
        dataclasses.replace(start.settings.decoder, residual_dropout=0.0),
        dataclasses.replace(shape, residual_dropout=0.0),
    )
    decoder = start.load_decoder(torch.device("cpu"), torch.float32)
    decoder.set_dropout(shape.residual_dropout)
    return decoder


def _require_same(name: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        changed = [key for key, value in to_dict(wanted).items() if to_dict(found)[key] != value]
        raise TrainingError(
            f"its {name} differs in {', '.join(changed)}",
            where="--init",
            expected="the settings of the model in training",
            hint="choose the --preset the start weights were trained with",
        )
