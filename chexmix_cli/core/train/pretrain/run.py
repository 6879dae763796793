"""Put a pretraining stage together: settings, data, model, loop, run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import TrainingError, WeightsError
from chexmix_cli.core.files import write_json
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.load import to_dict
from chexmix_cli.core.settings.training import StageTraining, TokenizerTraining
from chexmix_cli.core.train.distributed import is_main, require_fitting_batch
from chexmix_cli.core.train.examples.code_cache import Progress
from chexmix_cli.core.train.examples.data_identity import manifest_identity
from chexmix_cli.core.train.examples.film_cache import cache_films
from chexmix_cli.core.train.examples.films import Films, ManifestFilms
from chexmix_cli.core.train.examples.run_folder import RunFolder
from chexmix_cli.core.train.examples.splits import read_splits
from chexmix_cli.core.train.image_tokenizer.round_trip import RoundTripProbe
from chexmix_cli.core.train.image_tokenizer.task import TokenizerTask
from chexmix_cli.core.train.loop import CHECKPOINTS, OnRecord, Trainer, resumes
from chexmix_cli.core.train.precision import with_precision
from chexmix_cli.core.train.pretrain.decoder_stage import RunPlace, decoder_task, require_same
from chexmix_cli.core.train.reporting.loggers import require_loggers
from chexmix_cli.core.train.task import Task
from chexmix_cli.core.weights import WeightsDir, open_weights
from chexmix_cli.core.weights.growth import holds_language_model


def pretrain(
    settings: StageTraining,
    *,
    data: Path,
    out: Path,
    init: str | None,
    resume: bool,
    device: torch.device,
    report: OnRecord,
    progress: Progress,
) -> bool:
    """Run one stage into ``out``; return False if it was stopped early with a checkpoint written.

    Args:
        settings: root of the stage.
        data: manifest with ``train`` and ``val`` rows; for the decoder stages, or a folder of token shards.
        out: run folder. A new run wants it without checkpoints; with ``resume`` it may hold some.
        init: weights to start from: name, directory or run folder. The decoder stages take the image tokenizer and
            text tokenizer from it, and the decoder if it has one; the tokenizer stage its VQGAN.
        resume: go on from the newest checkpoint, or start where there is none.
        device: that trains.
        report: called with metrics records and remarks.
        progress: called with (what, done, in all) while data is prepared.

    Raises:
        TrainingError, DataError, WeightsError: before the first step wherever that can be known.
    """
    resume = resumes(out, resume, report)
    require_fitting_batch(settings.train)
    require_loggers(settings.train.loggers)
    settings = with_precision(settings, device, resumed=out / CHECKPOINTS if resume else None)
    torch.manual_seed(settings.train.seed)
    start = None if init is None else _open_start(init)
    with RunFolder(out) as run:
        place = RunPlace(run, device, progress)
        if isinstance(settings, TokenizerTraining):
            task: Task
            task, learnt = _tokenizer_task(settings, data, start, place)
        else:
            task, learnt = decoder_task(settings, data, start, place)
        # A checkpoint holds what was trained: without its data and the rest of its start weights it means nothing.
        plain = {**to_dict(settings), "init": None if start is None else start.fingerprint, "data": learnt}
        run.hold()
        # A resumed run has the settings that stand there; one that is refused must not change them.
        if is_main() and not resume:
            write_json(out / "settings.json", plain)
        trainer = Trainer(task, settings.train, settings.optimizer, plain, out=out, report=report, device=device)
        is_done = trainer.run(resume=resume)
        if is_done:
            run.remove_cache()
        return is_done


def _tokenizer_task(
    settings: TokenizerTraining, data: Path, start: WeightsDir | None, place: RunPlace
) -> tuple[TokenizerTask, dict[str, Any]]:
    if data.is_dir():
        raise TrainingError(
            "is a folder", where=str(data), expected="a manifest: the image tokenizer learns from images"
        )
    if settings.reconstruction.pictures_only and start is None:
        raise TrainingError(
            "there are no codes to draw pictures from",
            where="reconstruction.pictures_only",
            expected="--init with a trained image tokenizer",
        )
    rows = read_splits(data)
    vqgan = Vqgan(settings.model.vqgan)
    if start is not None:
        require_same("vqgan", start.settings.vqgan, settings.model.vqgan)
        vqgan = start.load_vqgan(torch.device("cpu"), torch.float32)
    learnt = manifest_identity(rows)
    train, val = _films(settings, rows, learnt, place)
    vqgan = vqgan.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    limit, seed = settings.reconstruction.probe_films, settings.train.seed
    probe = RoundTripProbe(train, val, rows["train"], rows["val"], limit=limit, seed=seed)
    ids = [row.id for row in rows["train"]]
    task = TokenizerTask(settings, vqgan, train, val, ids, probe, is_trained=start is not None)
    return task, learnt


def _films(
    settings: TokenizerTraining, rows: Mapping[str, Sequence[ManifestRow]], learnt: dict[str, Any], place: RunPlace
) -> list[Films]:
    """Return the films of train and val, in the run's cache."""
    model, workers = settings.model, settings.train.workers
    folder = place.run.open_cache(
        {"data": learnt, "image": to_dict(model.image), "channels": model.vqgan.image_channels}
    )
    found = []
    for split in ("train", "val"):
        told = partial(place.progress, f"read {split}")
        cached = cache_films(ManifestFilms(rows[split], model), folder / split, workers=workers, progress=told)
        found.append(Films(cached, model))
    return found


def _open_start(init: str) -> WeightsDir:
    try:
        return open_weights(init)
    except WeightsError:
        if not holds_language_model(Path(init)):
            raise
        raise TrainingError(
            "holds a language model and no image tokenizer",
            where=f"--init {init}",
            expected="an image tokenizer",
            hint=f"--init what `pretrain --stage tokenizer` made, and --set start.decoder={init}",
        ) from None
