"""``chexmix tokenize --compare A B``: what two image presets make of the same films."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from chexmix_cli.commands.records.film_jobs import film_jobs
from chexmix_cli.commands.records.runner import Loop
from chexmix_cli.commands.records.sinks import Sinks
from chexmix_cli.commands.shared.options import RunOptions
from chexmix_cli.core.errors import ExitCode, SettingsError
from chexmix_cli.library.films import Film, FilmReader
from chexmix_cli.library.jobs.job import Job, Record
from chexmix_cli.library.opened import OpenModel

if TYPE_CHECKING:
    from chexmix_cli.core.settings.inference import TokenizeSettings


@dataclass(frozen=True, slots=True)
class Pair:
    """One film by both presets."""

    left: Film
    right: Film


@dataclass(slots=True)
class _Totals:
    """Shares and PSNRs of the records so far, for the closing line."""

    equal: list[float] = field(default_factory=list)
    psnr_db: list[float] = field(default_factory=list)


def compare_presets(
    inputs: Sequence[str], run: RunOptions, settings: TokenizeSettings, presets: tuple[str, str]
) -> ExitCode:
    """Write one record for each study with the share of equal codes and the PSNR between both routes.

    Raises:
        SettingsError: if the inputs come from stdin, which can be read once only.
    """
    if "-" in inputs:
        raise SettingsError("- is stdin", where="IN", expected="files and folders: each is read by both presets")
    left, right = (run.open_model(replace(settings.input, preset=name), needs_decoder=False) for name in presets)
    totals = _Totals()

    def process(pairs: list[Pair]) -> list[Record]:
        return [_compare(pair, left, right, totals) for pair in pairs]

    readers = (model.reader(keep_uids=run.keep_uids) for model in (left, right))
    with Sinks(run) as sinks:
        loop = Loop(process=process, describe=_describe, batch_size=1, sinks=sinks)
        tally = loop.run(_pairs(inputs, *readers), "compare")
    if totals.equal:
        share = sum(totals.equal) / len(totals.equal)
        line = f"{presets[0]} and {presets[1]}: {share:.1%} of codes equal"
        if totals.psnr_db:
            psnr = sum(totals.psnr_db) / len(totals.psnr_db)
            line += f", {psnr:.2f} dB between the pictures of the codes (mean of {len(totals.psnr_db)} that differ)"
        run.console.note(line)
    return tally.exit_code


def _pairs(inputs: Sequence[str], left: FilmReader, right: FilmReader) -> Iterator[Job[Pair]]:
    # Inputs are found the same way twice: the order is a function of the files.
    for one, other in zip(film_jobs(inputs, left), film_jobs(inputs, right), strict=True):
        yield Job(one.id, lambda one=one, other=other: Pair(one.prepare(), other.prepare()))  # type: ignore[misc]


def _compare(pair: Pair, left: OpenModel, right: OpenModel, totals: _Totals) -> Record:
    import numpy as np

    from chexmix_cli.core.data.images.geometry import LEVELS_PER_UNIT
    from chexmix_cli.core.evals.metrics.images import psnr_db

    assert pair.left.pixels is not None
    assert pair.right.pixels is not None
    codes_BP = left.images.encode(np.stack([pair.left.pixels, pair.right.pixels]))
    pictures = left.images.decode(codes_BP)
    share = float((codes_BP[0] == codes_BP[1]).float().mean())
    codes_db = psnr_db(pictures[0], pictures[1])
    totals.equal.append(share)
    if codes_db is not None:
        totals.psnr_db.append(codes_db)
    # Both films in the scale of the 0..255 they were made in.
    films_db = psnr_db(pair.left.pixels * LEVELS_PER_UNIT, pair.right.pixels * LEVELS_PER_UNIT)
    presets: list[dict[str, Any]] = [
        {"preset": model.input.preset, "preset_hash": model.preset.hash} for model in (left, right)
    ]
    notes = list(dict.fromkeys([*pair.left.fields.get("notes", []), *pair.right.fields.get("notes", [])]))
    record: Record = {
        "view": pair.left.fields.get("view"),
        "presets": presets,
        "codes_equal": share,
        "psnr_db": {"films": films_db, "codes": codes_db},
    }
    return {**record, "notes": notes} if notes else record


def _describe(record: Record) -> str:
    codes_db = record["psnr_db"]["codes"]
    difference = "the same picture" if codes_db is None else f"{codes_db:.2f} dB apart"
    return f"{record['id']}: {record['codes_equal']:.1%} of codes equal, {difference}"
