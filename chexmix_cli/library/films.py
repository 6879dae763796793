"""From what a caller has (paths, studies, records, pictures) to films: pixels to encode, or codes that came in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from chexmix_cli.core.data.lines import id_text
from chexmix_cli.core.errors import DataError, Reason
from chexmix_cli.library.jobs.job import Job, Record, raiser

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from chexmix_cli.core.data.presets import ResolvedPreset
    from chexmix_cli.core.data.rendering.loaded_image import GreyScale
    from chexmix_cli.core.data.sources import Source
    from chexmix_cli.core.data.studies.inputs import Refusal, Study, StudyImage
    from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
    from chexmix_cli.core.settings.inference import InputSettings
    from chexmix_cli.core.text.header import Header
    from chexmix_cli.core.vocab import Vocabulary

#: Fields of a ``chexmix tokenize`` record that say something of the image, kept by every later command; in the order
#: that a film's own have, so that records are the same whether films or their codes come in.
_KEPT_FIELDS = ("study", "view", "view_source", "age_group", "preset", "preset_hash", "other_images", "notes")


@dataclass(frozen=True, slots=True)
class Film:
    """One record's image: pixels to encode, or codes that came in.

    Attributes:
        id: of the record.
        pixels: (C, Y, X) float32 in [-1, 1], or None.
        codes: image codes from an earlier command, or None.
        fields: what the record says about the image besides codes (view, notes, preset, other images).
        picture: the whole film as read, 8 bits, where it is asked for.
        scale: what decided the picture's grey scale, with ``picture``; None for a picture that was in memory.
        image: where it was read from, with ``picture``; None for a picture that was in memory.
        others: the study's other images, where they are asked for.
        source: the file it was read from, if any. Not for records or logs.
    """

    id: str
    pixels: NDArray[np.float32] | None
    codes: list[int] | None
    fields: Record = field(default_factory=dict)
    picture: Image | None = None
    scale: GreyScale | None = None
    image: StudyImage | None = None
    others: tuple[Film, ...] = ()
    source: Source | None = None

    @property
    def views(self) -> tuple[Film, ...]:
        """Return the image and the study's others."""
        return (self, *self.others)

    @property
    def view(self) -> str | None:
        """Return the projection as far as the input says (``PA``, ``AP``, ...), or None."""
        view: str | None = self.fields.get("view")
        return view

    @property
    def header(self) -> Header:
        """Return what the input says of the film, as far as a report must not contradict it."""
        from chexmix_cli.core.text.header import Header

        return Header(view=self.view, age_group=self.fields.get("age_group"))

    @property
    def notes(self) -> list[str]:
        """Return what reading the film left in doubt, in words."""
        return list(self.fields.get("notes", []))


#: What a film can be read from: a path, a study of :func:`chexmix.studies`, a record of ``chexmix tokenize`` or a line
#: of a manifest, a picture in memory, or a film that was read before.
FilmSource: TypeAlias = "str | os.PathLike[str] | Study | Refusal | Mapping[str, Any] | Image | Film"


@dataclass(frozen=True, slots=True)
class FilmReader:
    """How films are read for one model.

    Attributes:
        input: bounds, views, and which frame.
        preset: how pixels become what the model sees.
        vocabulary: that codes which come in must fit.
        codebook_hash: of the image tokenizer that must have made them.
        keep_uids: name DICOM studies by their UID instead of a salted hash.
        keeps_picture: films keep the picture that their pixels were made of.
        with_others: a study's other images are read, too.
    """

    input: InputSettings
    preset: ResolvedPreset
    vocabulary: Vocabulary
    codebook_hash: str
    keep_uids: bool = False
    keeps_picture: bool = False
    with_others: bool = False

    def jobs(self, paths: Sequence[str], names: Sequence[str] | None = None) -> Iterator[Job[Film]]:
        """Yield a job for every record that paths will give, in order.

        Args:
            paths: files, folders, globs, zip archives, URLs of DICOMweb.
            names: what to call each of them that leads to nothing; by default ``input 1`` and so on.
        """
        from chexmix_cli.core.data.studies.inputs import discover

        for item in discover(paths, self.input, keep_uids=self.keep_uids, names=names):
            yield self.study_job(item)

    def study_job(self, item: Study | Refusal) -> Job[Film]:
        """Return the job of a study, or of an input that is refused."""
        from chexmix_cli.core.data.studies.inputs import Refusal

        if isinstance(item, Refusal):
            return Job(item.id, raiser(item.error), sources=item.sources)
        # With a record for each image, the id of a DICOM image begins with its study's.
        study = item.id.partition("/")[0] if item.chosen.is_dicom else None
        prepare = partial(_film_of_study, item, self.preset, self.keeps_picture, self.with_others)
        sources = tuple(image.source for image in item.candidates)
        return Job(item.id, prepare, can_travel=True, study=study, sources=sources)

    def bytes_job(self, data: bytes, record_id: str) -> Job[Film]:
        """Return the job of a file whose bytes are in memory, DICOM or a picture; its film keeps none of them."""
        return Job(record_id, partial(_film_of_bytes, self, data, record_id), can_travel=True)

    def record_job(self, record: Record, *, line: int | None = None) -> Job[Film]:
        """Return the job of a record: one of an earlier command, or a line of a manifest.

        Args:
            record: as it came in.
            line: its number on stdin, where it came from there.
        """
        from chexmix_cli.core.data.manifest import VIEWS
        from chexmix_cli.core.data.studies.inputs import Study, study_of_file, with_stated_view
        from chexmix_cli.core.data.views import View

        record_id = id_text(record.get("id"))
        if record_id is None:
            where = "record" if line is None else f"stdin:{line}"
            problem = DataError(Reason.BAD_RECORD, "no id", where=where, expected="a text field 'id'")
            return Job("record" if line is None else f"line {line}", raiser(problem))
        if record.get("status") == "error":
            error = record.get("error")
            found = error if isinstance(error, dict) else {}
            message = f"failed before: {found.get('code', 'unknown')}: {found.get('message', 'it is not said why')}"
            return Job(record_id, raiser(DataError(Reason.UPSTREAM, message)))
        if "codes" in record:
            prepare, source = partial(self._film_of_codes, record_id, record), _source_of(record)
            return Job(
                record_id, prepare, study=_study_of(record), sources=() if source is None else (source,), line=record
            )
        if isinstance(record.get("file"), str):
            item = study_of_file(Path(record["file"]), self.input, record_id)
            if isinstance(item, Study) and record.get("view") in VIEWS:
                item = with_stated_view(item, View(record["view"]))
            return replace(self.study_job(item), study=_study_of(record), line=record)
        problem = DataError(
            Reason.BAD_RECORD, "neither codes nor file", expected="a record of `chexmix tokenize`, or a manifest line"
        )
        return Job(record_id, raiser(problem))

    def job(self, source: FilmSource) -> Job[Film]:
        """Return the job of anything that a film can be read from (``FilmSource``).

        Raises:
            TypeError: if it is nothing of the kind.
        """
        from PIL.Image import Image

        from chexmix_cli.core.data.studies.inputs import Refusal, Study

        if isinstance(source, Film):
            return Job(source.id, lambda: source)
        if isinstance(source, Study | Refusal):
            return self.study_job(source)
        if isinstance(source, Mapping):
            return self.record_job(dict(source))
        if isinstance(source, Image):
            return Job("picture", partial(film_of_picture, source, self.preset, keeps_picture=self.keeps_picture))
        if isinstance(source, str | os.PathLike):
            return self._only_job(os.fspath(source))
        raise TypeError(f"a film cannot be read from {type(source).__name__}")

    def _only_job(self, path: str) -> Job[Film]:
        """Return the job of a path that leads to one study; of more, one that says so."""
        jobs = list(islice(self.jobs([path]), 2))
        if len(jobs) == 1:
            return jobs[0]
        what = "leads to several studies" if jobs else "leads to no study"
        error = DataError(
            Reason.NOT_FOUND if not jobs else Reason.BAD_RECORD,
            what,
            expected="one study",
            hint="chexmix.studies(path) yields each of them",
        )
        return Job("input", raiser(error))

    def _film_of_codes(self, record_id: str, record: Record) -> Film:
        vocabulary, codes = self.vocabulary, record["codes"]
        is_list = isinstance(codes, list) and all(type(code) is int for code in codes)
        if not is_list or len(codes) != vocabulary.tokens_per_image:
            found = f"{len(codes)} codes" if is_list else "codes that are not a list of integers"
            raise DataError(Reason.WRONG_TOKENS, found, expected=f"{vocabulary.tokens_per_image} codes of this model")
        if codes and not 0 <= min(codes) <= max(codes) < vocabulary.num_codes:
            raise DataError(
                Reason.WRONG_TOKENS,
                f"codes {min(codes)}..{max(codes)}",
                expected=f"0..{vocabulary.num_codes - 1}",
                hint="were they made with other --weights?",
            )
        made_by = record.get("codebook_hash")
        if made_by is not None and made_by != self.codebook_hash:
            raise DataError(
                Reason.WRONG_TOKENS,
                "codes of another image tokenizer",
                expected=f"codebook_hash {self.codebook_hash}",
                hint="run `chexmix tokenize` with the same --weights",
            )
        if not isinstance(record.get("notes", []), list):
            raise DataError(Reason.BAD_RECORD, "notes are not a list", expected="a record of `chexmix tokenize`")
        fields = {name: record[name] for name in _KEPT_FIELDS if name in record}
        if record.get("preset_hash") not in (None, self.preset.hash):
            note = f"encoded with preset {record.get('preset')} ({record['preset_hash']}), not {self.preset.hash}"
            fields["notes"] = [*fields.get("notes", []), note]
        return Film(record_id, None, codes, fields, source=_source_of(record))


def film_of_picture(picture: Image, preset: ResolvedPreset, *, keeps_picture: bool = False) -> Film:
    """Return the film of a picture in memory: 8 bits, grey or RGB, black where the film is black.

    Its grey levels are taken as they are; the preset's intensity recipe is for files.
    """
    from chexmix_cli.core.data.images.geometry import fit

    if picture.mode not in ("L", "RGB"):
        raise DataError(
            Reason.UNSUPPORTED_PIXELS, f"a picture of mode {picture.mode}", expected="mode L or RGB, 8 bits a channel"
        )
    pixels = fit(picture, preset.image, preset.channels)
    return Film("picture", pixels, None, {"view": None}, picture if keeps_picture else None)


def film_levels(film: Film, codes: Sequence[int], images: ImageTokenizer) -> NDArray[np.uint8]:
    """Return the film as the model was given it, or what its codes show where only they came in; (Y, X[, 3])."""
    from chexmix_cli.core.data.images.geometry import to_levels

    if film.pixels is None:
        shown: NDArray[np.uint8] = images.decode([list(codes)])[0]
        return shown
    levels_YXC = to_levels(film.pixels.transpose(1, 2, 0))
    return levels_YXC[..., 0] if levels_YXC.shape[2] == 1 else levels_YXC


def _source_of(record: Record) -> Source | None:
    """Return the file that a record of codes says it is of; it is named, never opened."""
    from chexmix_cli.core.data.sources import Source

    file = record.get("file")
    return Source.named(Path(file)) if isinstance(file, str) and file else None


def _study_of(record: Record) -> str | None:
    return id_text(record.get("study"))


def _film_of_bytes(reader: FilmReader, data: bytes, record_id: str) -> Film:
    from chexmix_cli.core.data.sources import Source
    from chexmix_cli.core.data.studies.inputs import study_of_source

    study = study_of_source(Source(Path("bytes"), data=data), reader.input, record_id)
    # Whoever waits for the model with this film waits without its file.
    return replace(reader.study_job(study).prepare(), source=None, image=None)


def _film_of_study(study: Study, preset: ResolvedPreset, keeps_picture: bool, with_others: bool) -> Film:
    from chexmix_cli.core.data.images.geometry import fit

    read = study.load(preset)
    loaded, others = read.loaded, [image for image in study.images if image is not read.image]
    image = read.image
    fields: dict[str, Any] = {"view": _view(image)}
    fields |= {"view_source": image.view_source} if image.view_source else {}
    fields |= {"age_group": image.age_group} if image.age_group else {}
    fields |= {"preset": preset.intensity, "preset_hash": preset.hash}
    if others:
        fields["other_images"] = [{"id": image.id, "view": _view(image)} for image in others]
    readable = [image for image in others if image not in read.failed]
    films, lost = _other_films(readable, preset) if with_others else ((), [])
    notes = [*loaded.notes, *lost]
    if notes:
        fields["notes"] = notes
    pixels = fit(loaded.image, preset.image, preset.channels)
    if not keeps_picture:
        return Film(study.id, pixels, None, fields, others=films, source=image.source)
    return Film(study.id, pixels, None, fields, loaded.image, loaded.scale, image, films, image.source)


def _other_films(images: Sequence[StudyImage], preset: ResolvedPreset) -> tuple[tuple[Film, ...], list[str]]:
    """Return a study's other images, and a note for each that cannot be read: the study is scored without it."""
    from chexmix_cli.core.data.studies.inputs import load_pixels

    films, lost = [], []
    for image in images:
        try:
            films.append(Film(image.id, load_pixels(image, preset)[0], None))
        except DataError as error:
            lost.append(f"image {image.id} cannot be read ({error.code}) and is left out")
    return tuple(films), lost


def _view(image: StudyImage) -> str | None:
    from chexmix_cli.core.data.views import View

    return None if image.view is View.UNKNOWN else image.view.value
