"""Check a weights directory before anything relies on it: files, settings, keys, numbers, text tokenizer, sha256."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from chexmix_cli.core.errors import ChexmixError, counted
from chexmix_cli.core.weights import files
from chexmix_cli.core.weights.directory import WeightsDir, locate
from chexmix_cli.core.weights.fingerprint import file_sha256
from chexmix_cli.core.weights.formats.keys import Slice, decoder_slices
from chexmix_cli.core.weights.formats.released import read_config, read_vqgan_config
from chexmix_cli.core.weights.formats.safetensors_io import TensorSource, check_keys, is_finite
from chexmix_cli.core.weights.formats.sharded import find_network, foreign_decoder
from chexmix_cli.core.weights.hub.lock import read_lock
from chexmix_cli.core.weights.hub.registry import ModelEntry

#: Goes through the text tokenizer and has to come back: plain report language, a number, a character of many bytes.
_SAMPLE = "FINDINGS: Mildly enlarged heart (CTR 0.55). No pneumothorax.\nIMPRESSION: 1. Left effusion \u2265 2 cm."


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check; ``absent`` says that there was nothing to check."""

    name: str
    status: Literal["ok", "failed", "absent"]
    detail: str


#: A check of one more part of a directory, by name.
PartCheck = tuple[str, Callable[[WeightsDir], Check]]


def verify(name_or_dir: str | Path | None, more: Sequence[PartCheck] = ()) -> list[Check]:
    """Return the outcome of every check, and of ``more``; one that fails does not stop the others.

    The decoder's and image tokenizer's numbers are all read. Raises WeightsError only if there is no such directory.
    """
    path, entry = locate(name_or_dir)
    outcomes = [_guard("files", lambda: _check_digests(path, entry))]
    weights: WeightsDir | None = None

    def open_directory() -> Check:
        nonlocal weights
        weights = WeightsDir(path, entry)
        return Check("settings", "ok", "; ".join(weights.sources))

    outcomes.append(_guard("settings", open_directory))
    if weights is None:
        return outcomes
    others = [_guard(name, partial(check, weights)) for name, check in more]
    return [*outcomes, *_check_parts(weights), *others]


def _check_parts(weights: WeightsDir) -> Iterator[Check]:
    settings = weights.settings
    yield _guard("settings files", lambda: _check_settings_files(weights))
    if weights.has_decoder:
        table = decoder_slices(settings.decoder)
        yield _guard("decoder", lambda: _check_tensors("decoder", weights.decoder_source(), table))
    elif (problem := foreign_decoder(weights.path)) is not None:
        yield Check("decoder", "failed", str(problem))
    else:
        yield Check("decoder", "absent", f"no {files.MODEL_FILE}")
    if weights.has_vqgan:
        yield _guard("vqgan", lambda: _check_tensors("vqgan", weights.vqgan_source(), weights.vqgan_slices()))
    else:
        yield Check("vqgan", "absent", f"no {files.VQGAN_FILE}, no {files.VQGAN_CHECKPOINT}")
    yield _guard("text tokenizer", lambda: _check_text_tokenizer(weights))
    yield _guard("drafts", lambda: _check_drafts(weights))


def _guard(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except ChexmixError as error:
        return Check(name, "failed", str(error))


def _check_digests(path: Path, entry: ModelEntry | None) -> Check:
    lock = read_lock(path)
    recorded = {} if lock is None else {name: file.sha256 for name, file in lock.files.items()}
    required: list[str] = []
    if entry is not None:
        recorded |= {file.name: file.sha256 for file in entry.files if file.sha256}
        required = [file.name for file in entry.files if file.required]
    problems = [f"{name} is missing" for name in {*required, *recorded} if find_network(path, name) is None]
    for name, expected in recorded.items():
        if (path / name).is_file():
            found = file_sha256(path / name, fresh=True)
            if found != expected:
                problems.append(f"{name} has sha256 {found}, not {expected}")
    if problems:
        return Check("files", "failed", "; ".join(sorted(problems)))
    if not recorded:
        return Check("files", "absent", "no sha256 recorded")
    return Check("files", "ok", f"{counted(len(recorded), 'file')} with the sha256 recorded")


def _check_settings_files(weights: WeightsDir) -> Check:
    """Hold ``config.json`` and ``vqgan.yaml``, which other programs read, against the settings in use."""
    settings, problems, checked = weights.settings, [], []
    if (weights.path / files.CONFIG_FILE).is_file():
        ours = settings.decoder
        found = read_config(weights.path / files.CONFIG_FILE)
        checked.append(files.CONFIG_FILE)
        # The file has no word for the first two, and the last changes nothing once trained.
        found = replace(found, attention=ours.attention, rope_dtype=ours.rope_dtype)
        if replace(found, residual_dropout=ours.residual_dropout) != ours:
            problems.append(f"{files.CONFIG_FILE} describes another decoder than the weights")
    if (weights.path / files.VQGAN_CONFIG).is_file():
        vqgan, resolution = read_vqgan_config(weights.path / files.VQGAN_CONFIG)
        checked.append(files.VQGAN_CONFIG)
        if vqgan != settings.vqgan or resolution != settings.image.resolution_px:
            problems.append(f"{files.VQGAN_CONFIG} describes another image tokenizer than the weights")
    if problems:
        return Check("settings files", "failed", "; ".join(problems))
    if not checked:
        return Check("settings files", "absent", f"no {files.CONFIG_FILE}, no {files.VQGAN_CONFIG}")
    return Check("settings files", "ok", ", ".join(checked))


def _check_tensors(name: str, source: TensorSource, table: list[Slice]) -> Check:
    problems = check_keys(table, source)
    damaged = []
    for item in table:
        if source.shapes.get(item.key) == item.shape:
            if not is_finite(source.get(item.key)):
                damaged.append(item.key)
            source.release()
    if damaged:
        problems.append(f"{len(damaged)} not finite: {', '.join(damaged[:6])}")
    if problems:
        return Check(name, "failed", f"{Path(source.where).name}: {'; '.join(problems)}")
    return Check(name, "ok", f"{Path(source.where).name}: {len(table)} tensors fit the settings and are finite")


def _check_text_tokenizer(weights: WeightsDir) -> Check:
    tokenizer = weights.load_text_tokenizer()
    if tokenizer is None:
        return Check("text tokenizer", "absent", f"no {files.TOKENIZER_FILE}")
    ids = tokenizer.encode(_SAMPLE)
    if tokenizer.decode(ids) != _SAMPLE:
        return Check("text tokenizer", "failed", "a sample report does not come back from its ids unchanged")
    return Check("text tokenizer", "ok", f"a sample report of {len(_SAMPLE)} characters comes back from {len(ids)} ids")


def _check_drafts(weights: WeightsDir) -> Check:
    index = weights.load_drafts()
    if index is None:
        return Check("drafts", "absent", f"no {files.DRAFTS_FILE}")
    return Check(
        "drafts", "ok", f"{files.DRAFTS_FILE}: {len(index)} contexts of {counted(index.info.num_reports, 'report')}"
    )
