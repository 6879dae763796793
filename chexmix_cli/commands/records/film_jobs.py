"""From arguments or stdin to one job a record: pixels to encode, or codes that came in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from chexmix_cli.commands.records.job import Job
from chexmix_cli.commands.records.streams import Line, Record, read_stdin
from chexmix_cli.commands.shared.model import OpenModel
from chexmix_cli.core.errors import DataError, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from chexmix_cli.core.data.presets import ResolvedPreset
    from chexmix_cli.core.data.studies.inputs import Refusal, Study, StudyImage


@dataclass(frozen=True, slots=True)
class Film:
    """One record's image: pixels to encode, or codes that are there already.

    Attributes:
        pixels: (C, Y, X) float32 in [-1, 1], or None.
        codes: image codes from an earlier command, or None.
        fields: what the record says about the image beside codes (view, notes, preset, other images).
        picture: the whole film as read, 8 bits, where the command asks for it.
        image: where it was read from, with ``picture``.
        others: the study's other images, where the command asks for them.
    """

    pixels: NDArray[np.float32] | None
    codes: list[int] | None
    fields: Record = field(default_factory=dict)
    picture: Image | None = None
    image: StudyImage | None = None
    others: tuple[Film, ...] = ()

    @property
    def views(self) -> tuple[Film, ...]:
        """Return the image and the study's others."""
        return (self, *self.others)


def film_jobs(
    arguments: Sequence[str], model: OpenModel, *, keeps_picture: bool = False, with_others: bool = False
) -> Iterator[Job[Film]]:
    """Yield a job for every record the inputs will give, in order.

    Args:
        arguments: of the command line.
        model: in use.
        keeps_picture: films keep the picture that their pixels were made of.
        with_others: a study's other images are read, too.
    """
    from chexmix_cli.core.data.studies.inputs import discover

    def found(paths: Sequence[str]) -> Iterator[Study | Refusal]:
        return discover(paths, model.input, keep_uids=model.options.keep_uids)

    if "-" in arguments:
        yield from _stdin_jobs(model, found, keeps_picture, with_others)
    else:
        for item in found(arguments):
            yield _item_job(item, model, keeps_picture, with_others)


def _stdin_jobs(
    model: OpenModel,
    found: Callable[[Sequence[str]], Iterator[Study | Refusal]],
    keeps_picture: bool,
    with_others: bool,
) -> Iterator[Job[Film]]:
    # Paths are grouped into studies, so they wait for each other; records go through one by one.
    paths: list[str] = []
    for line in read_stdin():
        if line.path is not None:
            paths.append(line.path)
        elif line.problem is not None:
            yield Job(f"line {line.number}", _raiser(line.problem))
        else:
            yield from record_jobs(line, model, keeps_picture=keeps_picture)
    if paths:
        for item in found(paths):
            yield _item_job(item, model, keeps_picture, with_others)


def record_jobs(line: Line, model: OpenModel, *, keeps_picture: bool = False) -> Iterator[Job[Film]]:
    """Yield the job of a record: one of an earlier command, or a line of a manifest."""
    from chexmix_cli.core.data.studies.inputs import study_of_file

    record = line.record or {}
    record_id = record.get("id")
    if not isinstance(record_id, str) or not record_id:
        problem = DataError(Reason.BAD_RECORD, "no id", where=f"stdin line {line.number}", expected="a text field 'id'")
        yield Job(f"line {line.number}", _raiser(problem))
    elif record.get("status") == "error":
        error = record.get("error")
        found = error if isinstance(error, dict) else {}
        message = f"failed before: {found.get('code', 'unknown')}: {found.get('message', 'it is not said why')}"
        yield Job(record_id, _raiser(DataError(Reason.UPSTREAM, message)))
    elif "codes" in record:
        yield Job(record_id, lambda: _film_from_codes(record, model), study=_study_of(record), line=record)
    elif isinstance(record.get("file"), str):
        item = study_of_file(Path(record["file"]), model.input, record_id)
        yield replace(_item_job(item, model, keeps_picture), study=_study_of(record), line=record)
    else:
        problem = DataError(
            Reason.BAD_RECORD, "neither codes nor file", expected="a record of `chexmix tokenize`, or a manifest line"
        )
        yield Job(record_id, _raiser(problem))


def _film_from_codes(record: Record, model: OpenModel) -> Film:
    vocabulary = model.weights.settings.vocabulary
    codes = record["codes"]
    is_list = isinstance(codes, list) and all(isinstance(code, int) and not isinstance(code, bool) for code in codes)
    if not is_list or len(codes) != vocabulary.tokens_per_image:
        found = f"{len(codes)} codes" if is_list else "codes that are no list of integers"
        raise DataError(Reason.WRONG_TOKENS, found, expected=f"{vocabulary.tokens_per_image} codes of this model")
    if codes and not 0 <= min(codes) <= max(codes) < vocabulary.num_codes:
        raise DataError(
            Reason.WRONG_TOKENS,
            f"codes {min(codes)}..{max(codes)}",
            expected=f"0..{vocabulary.num_codes - 1}",
            hint="were they made with other --weights?",
        )
    made_by = record.get("codebook_hash")
    if made_by is not None and made_by != model.weights.codebook_hash:
        raise DataError(
            Reason.WRONG_TOKENS,
            "codes of another image tokenizer",
            expected=f"codebook_hash {model.weights.codebook_hash}",
            hint="run `chexmix tokenize` with the same --weights",
        )
    if not isinstance(record.get("notes", []), list):
        raise DataError(Reason.BAD_RECORD, "notes are no list", expected="a record of `chexmix tokenize`")
    kept = ("study", "view", "notes", "preset", "preset_hash", "other_images")
    fields = {name: record[name] for name in kept if name in record}
    if record.get("preset_hash") not in (None, model.preset.hash):
        note = f"encoded with preset {record.get('preset')} ({record['preset_hash']}), not {model.preset.hash}"
        fields["notes"] = [*fields.get("notes", []), note]
    return Film(None, codes, fields)


def _item_job(item: Study | Refusal, model: OpenModel, keeps_picture: bool, with_others: bool = False) -> Job[Film]:
    from chexmix_cli.core.data.studies.inputs import Refusal

    if isinstance(item, Refusal):
        return Job(item.id, _raiser(item.error), sources=item.sources)
    # With one record an image, the id of a DICOM image begins with its study's.
    study = item.id.partition("/")[0] if item.chosen.is_dicom else None
    prepare = partial(_film_from_study, item, model.preset, keeps_picture, with_others)
    return Job(item.id, prepare, can_travel=True, study=study, sources=(item.chosen.source,))


def _study_of(record: Record) -> str | None:
    study = record.get("study")
    return study if isinstance(study, str) else None


def _film_from_study(study: Study, preset: ResolvedPreset, keeps_picture: bool, with_others: bool) -> Film:
    from chexmix_cli.core.data.images.geometry import fit

    loaded = study.chosen.load(preset)
    fields: dict[str, Any] = {"view": _view(study.chosen)}
    fields |= {"preset": preset.intensity, "preset_hash": preset.hash}
    if study.others:
        fields["other_images"] = [{"id": image.id, "view": _view(image)} for image in study.others]
    others, lost = _other_films(study, preset) if with_others else ((), [])
    notes = [*loaded.notes, *lost]
    if notes:
        fields["notes"] = notes
    pixels = fit(loaded.image, preset.image, preset.channels)
    picture, image = (loaded.image, study.chosen) if keeps_picture else (None, None)
    return Film(pixels, None, fields, picture, image, others)


def _other_films(study: Study, preset: ResolvedPreset) -> tuple[tuple[Film, ...], list[str]]:
    """Return a study's other images, and a note for each that cannot be read: the study is scored without it."""
    from chexmix_cli.core.data.studies.inputs import load_pixels

    films, lost = [], []
    for image in study.others:
        try:
            films.append(Film(load_pixels(image, preset)[0], None))
        except DataError as error:
            lost.append(f"image {image.id} cannot be read ({error.code}) and is left out")
    return tuple(films), lost


def _view(image: StudyImage) -> str | None:
    from chexmix_cli.core.data.views import View

    return None if image.view is View.UNKNOWN else image.view.value


def _raiser(error: DataError) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise error

    return fail


def encode_films(films: Sequence[Film], model: OpenModel) -> list[list[int]]:
    """Return the codes of every film, encoding those that have none yet in one batch."""
    import numpy as np

    pixels = [film.pixels for film in films if film.pixels is not None]
    encoded = iter(model.images.encode(np.stack(pixels)).tolist() if pixels else [])
    return [film.codes if film.codes is not None else next(encoded) for film in films]
