"""Put a fine-tuning run together: start weights, examples, task, loop, run folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.data.presets import resolve_preset
from chexmix_cli.core.errors import SettingsError, TrainingError
from chexmix_cli.core.files import write_json, write_text
from chexmix_cli.core.infer.embeddings import require_grid, values_read
from chexmix_cli.core.infer.manifest_images import StoredCodes
from chexmix_cli.core.infer.retrieval.projection import Projection
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.lora import check_rank
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.settings.finetuning import (
    ClassifyFinetuning,
    Finetuning,
    ReportFinetuning,
    RetrieveFinetuning,
)
from chexmix_cli.core.settings.load import to_dict
from chexmix_cli.core.text.header import age_group_of
from chexmix_cli.core.train.distributed import is_main, require_fitting_batch, world_size
from chexmix_cli.core.train.examples.code_cache import Codes, Encoding, Progress, ShardCodes, encode_splits
from chexmix_cli.core.train.examples.data_identity import manifest_identity
from chexmix_cli.core.train.examples.documents import DocumentSet, encode_reports
from chexmix_cli.core.train.examples.run_folder import RunFolder
from chexmix_cli.core.train.examples.splits import read_splits
from chexmix_cli.core.train.finetune.classify_task import ClassifyTask, FindingsModel, LabelledSet
from chexmix_cli.core.train.finetune.exporting import Exporter
from chexmix_cli.core.train.finetune.labels import choose_findings, make_targets
from chexmix_cli.core.train.finetune.probing import fit_findings
from chexmix_cli.core.train.finetune.report_task import ReportTask
from chexmix_cli.core.train.finetune.retrieve_task import RetrieveTask
from chexmix_cli.core.train.loop import CHECKPOINTS, OnRecord, Trainer, resumes
from chexmix_cli.core.train.precision import with_precision
from chexmix_cli.core.train.reporting.loggers import require_loggers
from chexmix_cli.core.train.task import Task
from chexmix_cli.core.weights import WeightsDir, open_weights
from chexmix_cli.core.weights.files import HEAD_FILE, RUN_MODEL
from chexmix_cli.core.weights.fingerprint import values_hash

Rows = dict[str, list[ManifestRow]]


@dataclass(frozen=True, slots=True)
class FinetuningData:
    """What a run learns from.

    Attributes:
        manifest: with ``train`` and ``val`` rows.
        tokens: token shards of its images to take codes from; they hold one encoding of each. None encodes.
    """

    manifest: Path
    tokens: Path | None = None


@dataclass(frozen=True, slots=True)
class FinetuningRun:
    """What every task is built from.

    Attributes:
        settings: root of the task.
        start: the start weights.
        rows: manifest rows by split.
        stored: where codes are taken from, in place of encoding.
        folder: of the run.
        device: that trains.
        report: called with metrics records and remarks.
        progress: called with (what, done, in all) while data is prepared.
    """

    settings: Finetuning
    start: WeightsDir
    rows: Rows
    stored: StoredCodes | None
    folder: RunFolder
    device: torch.device
    report: OnRecord
    progress: Progress
    _learnt: dict[str, Any] = field(default_factory=dict)

    def load(self) -> tuple[Decoder, Vqgan]:
        """Return the start weights' decoder, with the dropout its settings say, and image tokenizer."""
        decoder = self.start.load_decoder(self.device, torch.float32)
        decoder.set_dropout(self.start.settings.decoder.residual_dropout)
        return decoder, self.start.load_vqgan("cpu", torch.float32)

    def encode(self, vqgan: Vqgan) -> dict[str, Codes]:
        """Return the image codes of every split: those that are stored, or in the run's cache."""
        if self.stored is not None:
            return {split: ShardCodes(*self.stored.rows_of(rows)) for split, rows in self.rows.items()}
        settings = self.settings
        encoding = Encoding.in_run(self.folder, self.learnt(), self.start, settings.films, settings.train, self.device)
        return dict(encode_splits(self.rows, vqgan, encoding, self.progress))

    def learnt(self) -> dict[str, Any]:
        """Return digests of the data, once all rows are chosen."""
        if not self._learnt:
            is_classify = isinstance(self.settings, ClassifyFinetuning)
            words = None if is_classify else self.start.text_tokenizer_hash
            self._learnt.update(manifest_identity(self.rows, has_labels=is_classify, text_tokenizer=words))
        return self._learnt

    def remark(self, text: str) -> None:
        """Report something in words."""
        self.report({"remark": text})


def finetune(
    settings: Finetuning,
    *,
    data: FinetuningData,
    out: Path,
    init: str | None,
    resume: bool,
    device: torch.device,
    report: OnRecord,
    progress: Progress,
) -> bool:
    """Run one task into ``out``; return False if it was stopped early with a checkpoint written.

    Args:
        settings: root of the task.
        data: manifest, and codes of its images if there are any.
        out: run folder. A new run wants it without checkpoints; with ``resume`` it may hold some.
        init: weights to start from: name, directory or run folder; None is the embedded model.
        resume: go on from the newest checkpoint, or start where there is none.
        device: that trains.
        report: called with metrics records and remarks.
        progress: called with (what, done, in all) while data is prepared.

    Raises:
        TrainingError, SettingsError, DataError, WeightsError: before the first step wherever that can be known.
    """
    is_fit = isinstance(settings, ClassifyFinetuning) and settings.method == "probe"
    if is_fit and resume:
        raise SettingsError("a probe is fitted in one go", where="--resume", hint="fit it again, with another --out")
    if is_fit and world_size() > 1:
        raise SettingsError("a probe is fitted by one process", where="torchrun", hint="leave torchrun out")
    require_fitting_batch(settings.train)
    if is_fit and (any((out / name).exists() for name in ("checkpoints", RUN_MODEL, HEAD_FILE))):
        raise TrainingError("holds a run already", where=str(out), hint="choose another --out")
    resume = not is_fit and resumes(out, resume, report)
    require_loggers(settings.train.loggers)
    if not is_fit:
        settings = with_precision(settings, device, resumed=out / CHECKPOINTS if resume else None)
    torch.manual_seed(settings.train.seed)
    start = open_weights(init)
    _check_start(settings, start)
    rows, stored = read_splits(data.manifest), _stored(settings, data.tokens, start)
    with RunFolder(out) as folder:
        run = FinetuningRun(settings, start, rows, stored, folder, device, report, progress)
        is_done = _run(run, resume=resume, is_fit=is_fit)
        if is_done:
            folder.remove_cache()
    return is_done


def _run(run: FinetuningRun, *, resume: bool, is_fit: bool) -> bool:
    settings, out = run.settings, run.folder.path
    # A checkpoint holds what was trained: without the rest of its start weights, and its data, it means nothing.
    plain: dict[str, Any] = {**to_dict(settings), "task": _name(settings), "init": run.start.fingerprint}
    if isinstance(settings, ClassifyFinetuning) and is_fit:
        figures = _fit_findings(run, settings, out)
        write_json(out / "settings.json", plain)
        write_text(out / "metrics.jsonl", json.dumps(figures) + "\n")
        run.report({**figures, "best": True})
        return True
    task = _make_task(run)
    plain["data"] = run.learnt()
    run.folder.hold()
    # A resumed run has the settings that stand there; one that is refused must not change them.
    if is_main() and not resume:
        write_json(out / "settings.json", plain)
    trainer = Trainer(task, settings.train, settings.optimizer, plain, out=out, report=run.report, device=run.device)
    return trainer.run(resume=resume)


def _stored(settings: Finetuning, tokens: Path | None, start: WeightsDir) -> StoredCodes | None:
    """Open the token shards to take codes from; refuse what they cannot give."""
    if tokens is None:
        return None
    if settings.films.variants > 1:
        raise SettingsError(
            f"is {settings.films.variants}", where="films.variants", expected="1: token shards hold one encoding"
        )
    preset = resolve_preset("model", start.settings.image, start.settings.vqgan.image_channels)
    return StoredCodes.open(tokens, codebook_hash=start.codebook_hash, preset_hash=preset.hash)


def _check_start(settings: Finetuning, start: WeightsDir) -> None:
    """Refuse what the start weights cannot do, before any data is read."""
    start.refuse_foreign_decoder()
    for has, what in ((start.has_decoder, "decoder"), (start.has_vqgan, "image tokenizer")):
        if not has:
            raise TrainingError(f"has no {what}", where="--init", expected="weights with decoder and image tokenizer")
    shape = start.settings.decoder
    if settings.method == "lora":
        check_rank(settings.lora, shape)
    if isinstance(settings, ReportFinetuning) and settings.loss.targets == "all" and start.sees_whole_image:
        raise SettingsError(
            "is 'all'",
            where="loss.targets",
            expected="'report': these weights see images whole, so that an image's targets would see themselves",
        )
    layers: dict[str, int | None] = {}
    if isinstance(settings, ClassifyFinetuning):
        layers = {"head.layer": settings.head.layer, "probe.layers": max(settings.probe.layers, default=None)}
        require_grid(settings.probe.grid, start.settings.vocabulary, "probe.grid")
    elif isinstance(settings, RetrieveFinetuning):
        layers = {"contrast.layer": settings.contrast.layer}
    for key, layer in layers.items():
        if layer is not None and layer > shape.num_layers:
            raise SettingsError(f"is {layer}", where=key, expected=f"0..{shape.num_layers}, as the start weights have")
        if layer == 0 and settings.method == "lora":
            raise SettingsError("is 0", where=key, expected="1 or more: no block stands before it to adapt")


def _make_task(run: FinetuningRun) -> Task:
    if isinstance(run.settings, ReportFinetuning):
        return _report_task(run, run.settings)
    if isinstance(run.settings, ClassifyFinetuning):
        return _classify_task(run, run.settings)
    return _retrieve_task(run, run.settings)


def _document_sets(run: FinetuningRun) -> tuple[Decoder, Vqgan, dict[str, DocumentSet]]:
    tokenizer = run.start.load_text_tokenizer()
    if tokenizer is None:
        raise TrainingError("has no text tokenizer", where="--init", expected="weights with tokenizer.json")
    # Reports first: a row without one must stop the run before an hour of encoding.
    reports = {split: encode_reports(rows, tokenizer, run.start.settings) for split, rows in run.rows.items()}
    decoder, vqgan = run.load()
    codes = run.encode(vqgan)
    sets = {
        split: DocumentSet(codes[split], reports[split], [row.id for row in rows]) for split, rows in run.rows.items()
    }
    return decoder, vqgan, sets


def _report_task(run: FinetuningRun, settings: ReportFinetuning) -> ReportTask:
    decoder, vqgan, sets = _document_sets(run)
    exporter = Exporter(settings, run.start, decoder, vqgan)
    return ReportTask(
        settings, decoder, run.start.settings.vocabulary, sets["train"], sets["val"], exporter.export_model
    )


def _retrieve_task(run: FinetuningRun, settings: RetrieveFinetuning) -> RetrieveTask:
    decoder, vqgan, sets = _document_sets(run)
    exporter = Exporter(settings, run.start, decoder, vqgan)

    def export(directory: Path, projection: Projection) -> None:
        exporter.export_model(directory)
        projection.model = open_weights(directory).fingerprint
        projection.save(directory, exporter.provenance)

    vocabulary = run.start.settings.vocabulary
    return RetrieveTask(settings, decoder, vocabulary, sets["train"], sets["val"], export, run.progress)


def _classify_task(run: FinetuningRun, settings: ClassifyFinetuning) -> ClassifyTask:
    names = _findings(run, settings)
    decoder, vqgan = run.load()
    train, val = (_labelled(run, settings, split, names, codes) for split, codes in run.encode(vqgan).items())
    exporter = Exporter(settings, run.start, decoder, vqgan)

    def export(directory: Path, model: FindingsModel, bias_L: Tensor, validated: tuple[Tensor, Tensor]) -> None:
        exporter.export_findings(directory, model, names, bias_L, validated, val.patients)

    return ClassifyTask(settings, decoder, run.start.settings.vocabulary, train, val, export)


def _labelled(
    run: FinetuningRun, settings: ClassifyFinetuning, split: str, names: tuple[str, ...], codes_NVP: Codes
) -> LabelledSet:
    rows = run.rows[split]
    return LabelledSet(
        codes_NVP,
        make_targets(rows, names, settings.labels),
        [row.id for row in rows],
        [row.patient or row.id for row in rows],
    )


def _fit_findings(run: FinetuningRun, settings: ClassifyFinetuning, out: Path) -> dict[str, Any]:
    """Fit the classification probe, write its head and return its metrics: no steps, nothing to resume."""
    names = _findings(run, settings)
    decoder, vqgan = run.load()
    train, val = (_labelled(run, settings, split, names, codes) for split, codes in run.encode(vqgan).items())
    fit, figures = fit_findings(settings, run.start, decoder, names, train, val, run.progress)
    for name, reason in fit.skipped.items():
        run.remark(f"{name!r} is left out: {reason}")
    provenance = {**fit.head.provenance, "trained_on": _kinds(run.rows["train"])}
    replace(fit.head, values=values_hash(values_read(decoder, vqgan)), provenance=provenance).save(out / HEAD_FILE)
    return {"step": 0, **figures}


def _kinds(rows: Sequence[ManifestRow]) -> dict[str, dict[str, int]]:
    """Return how many rows there are of each age group, view and source, as far as a manifest says so."""
    stated: dict[str, Sequence[str | None]] = {
        "age_group": [age_group_of(row.age) for row in rows],
        "view": [row.view for row in rows],
        "source": [row.source for row in rows],
    }
    counts = {name: dict(Counter(value for value in values if value is not None)) for name, values in stated.items()}
    return {name: found for name, found in counts.items() if found}


def _findings(run: FinetuningRun, settings: ClassifyFinetuning) -> tuple[str, ...]:
    """Return the findings to learn; leave rows that state none of them out of the run, and say so."""
    names, remarks = choose_findings(run.rows["train"], settings.labels)
    for remark in remarks:
        run.remark(remark)
    for split, rows in run.rows.items():
        is_known_N = (~make_targets(rows, names, settings.labels).isnan()).any(dim=1).tolist()
        run.rows[split] = [row for row, is_known in zip(rows, is_known_N, strict=True) if is_known]
        if len(run.rows[split]) < len(rows):
            run.remark(f"{len(rows) - len(run.rows[split])} of {len(rows)} rows of split {split!r} state no finding")
    return names


def _name(settings: Finetuning) -> str:
    return {ReportFinetuning: "report", ClassifyFinetuning: "classify", RetrieveFinetuning: "retrieve"}[type(settings)]
