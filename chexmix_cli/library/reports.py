"""Films to draft reports: written, and, if asked, with what each sentence depends on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.infer.reports.agreement import SecondOpinion, second_opinion
from chexmix_cli.core.text.disclaimer import GENERATED
from chexmix_cli.library.films import Film, film_levels
from chexmix_cli.library.jobs.job import Record

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from chexmix_cli.core.infer.reports.evidence import SentenceEvidence
    from chexmix_cli.core.infer.reports.writer import WrittenReport
    from chexmix_cli.core.infer.typicality import Typicality
    from chexmix_cli.core.settings.inference import DecodeSettings, ExplainSettings
    from chexmix_cli.library.opened import OpenModel

#: In every record with a report (DESIGN: reports are marked preliminary and unverified).
MARK = GENERATED


@dataclass(frozen=True, slots=True)
class StudyReport:
    """A draft report of a study: AI-generated, preliminary, unverified.

    Attributes:
        film: it was written from.
        codes: of the film, in raster order; all that the model knew of it.
        report: as decoded: token ids, why decoding stopped, log-probabilities.
        sentences: what each sentence depends on, where that was asked for.
        typicality: how like the train films the film is; None if the weights do not say what is typical.
        second: what the head of findings says beside the report, and the report against itself.
    """

    film: Film
    codes: list[int]
    report: WrittenReport
    sentences: list[SentenceEvidence] | None = None
    typicality: Typicality | None = None
    second: SecondOpinion = field(default_factory=SecondOpinion)

    @property
    def id(self) -> str:
        """Return the id of the study."""
        return self.film.id

    @property
    def text(self) -> str | None:
        """Return the report, or None if the model has no text tokenizer."""
        return self.report.text

    @property
    def sections(self) -> dict[str, str | None]:
        """Return ``findings`` and ``impression``, as far as the report has such headings; empty if it has none."""
        from chexmix_cli.core.text.sections import read_sections

        found = read_sections(self.report.text or "")
        named = {"findings": found.findings, "impression": found.impression}
        return named if any(named.values()) else {}

    @property
    def notes(self) -> list[str]:
        """Return what reading the film, or decoding, left in doubt, and whether the model knows such films."""
        left_out = self.report.num_not_text
        notes = self.film.notes + ([] if self.typicality is None else self.typicality.notes)
        return notes + ([f"{left_out} tokens are not text and are left out"] if left_out else [])

    @property
    def conflicts(self) -> list[str]:
        """Return a sentence for each conflict of the report: with itself, with the head, with the film's header."""
        said = ", ".join(self.report.against_header)
        header = [f"the report contradicts what the file says of the film ({said})"] if said else []
        return [*self.second.conflicts, *header]

    def fields(self) -> Record:
        """Return the result fields of a ``chexmix generate-report`` record."""
        report = self.report
        record: Record = {**self.film.fields, "token_ids": report.token_ids}
        if report.text is not None:
            record["report"] = report.text
            record |= {"sections": self.sections} if self.sections else {}
        if report.comparisons:
            record["comparisons"] = report.comparisons
        record |= {"held_to": report.held_to} if report.held_to else {}
        record |= {"against_header": report.against_header} if report.against_header else {}
        record |= self.second.fields()
        record |= {"conflicts": self.conflicts} if self.conflicts else {}
        if self.notes:
            record["notes"] = self.notes
        if self.typicality is not None:
            record["typicality"] = self.typicality.to_dict()
        return record | {"finish": report.finish.value, "logprob": report.logprob, "mark": MARK}


class Reporter:
    """Writes reports with one model under one set of settings.

    Args:
        model: in use.
        decode: how reports are decoded.
        explain: how it is found out what each sentence depends on; None leaves that out.
        seed: of sampled tokens.

    Raises:
        WeightsError: if sentences are to be explained and the weights have no text tokenizer.
    """

    def __init__(
        self, model: OpenModel, decode: DecodeSettings, explain: ExplainSettings | None, *, seed: int = 0
    ) -> None:
        self.model, self.decode, self.explain, self.seed = model, decode, explain, seed
        if explain is not None and model.reports.tokenizer is None:
            raise WeightsError("has no text tokenizer, which --explain needs", where=str(model.weights.path))
        self._drafter, self._typical, self._head = model.drafter(decode), model.typical, model.head

    def under(self, decode: DecodeSettings) -> Reporter:
        """Return what writes reports under other settings, with the drafts that this one has loaded."""
        other = copy(self)
        other.decode = decode
        if (decode.drafts, decode.uses_drafts) != (self.decode.drafts, self.decode.uses_drafts):
            other._drafter = self.model.drafter(decode)
        return other

    def __call__(
        self,
        films: Sequence[Film],
        *,
        on_text: Callable[[int, str], None] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[StudyReport]:
        """Return the report of each film, all decoded in one batch.

        Args:
            films: to report on.
            seeds: one for each film, in place of ``seed``.
            on_text: called with a film's index and the next piece of its report's text, as soon as it is decoded.
        """
        from chexmix_cli.library.readings import FilmReadings

        codes = self.model.codes_of(films)
        writer = self.model.reports
        seen = FilmReadings(writer.engine.decoder, writer.vocabulary, codes, head=self._head, typical=self._typical)
        found = writer.write(
            codes,
            self.decode,
            seed=self.seed if seeds is None else seeds,
            on_text=on_text,
            drafter=self._drafter,
            headers=[film.header for film in films],
            on_prompts=seen,
        )
        return [
            StudyReport(
                film,
                codes[row],
                report,
                self._evidence(codes[row], report),
                seen.typicality_B[row] if seen.typicality_B else None,
                second_opinion(
                    report.text,
                    film.header,
                    self._head,
                    None if seen.probability_BK is None else seen.probability_BK[row],
                ),
            )
            for row, (film, report) in enumerate(zip(films, found, strict=True))
        ]

    def draw(self, result: StudyReport, path: Path) -> None:
        """Write a PNG of the film, its round trip through the image tokens, and the report underneath."""
        from chexmix_cli.core.present.picture import report_picture

        report_picture(*self._drawn(result), path=path, note=self._small_print(result), conflicts=_said(result))

    def pixels(self, result: StudyReport) -> NDArray[np.uint8]:
        """Return what :meth:`draw` writes as pixels, RGB (Y, X, 3)."""
        from chexmix_cli.core.present.picture import report_pixels

        return report_pixels(*self._drawn(result), note=self._small_print(result), conflicts=_said(result))

    def draw_evidence(self, result: StudyReport, path: Path) -> None:
        """Write a PNG of the film once a sentence, warm where hiding it makes the sentence less probable."""
        from chexmix_cli.core.present.evidence import evidence_picture

        original = film_levels(result.film, result.codes, self.model.images)
        evidence_picture(original, result.sentences or [], path=path, note=self._small_print(result))

    def _drawn(self, result: StudyReport) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
        """Return the film, its round trip through the image tokens, and the text under them."""
        images = self.model.images
        text = "(no text tokenizer)" if result.text is None else result.text
        return film_levels(result.film, result.codes, images), images.decode([result.codes])[0], text

    def _small_print(self, result: StudyReport) -> str:
        notes = [] if result.typicality is None else result.typicality.notes
        return "; ".join([f"model {self.model.weights.name}", *notes])

    def _evidence(self, codes: list[int], report: WrittenReport) -> list[SentenceEvidence] | None:
        from chexmix_cli.core.infer.reports.evidence import find_evidence

        tokenizer = self.model.reports.tokenizer
        if self.explain is None or tokenizer is None:
            return None
        engine = self.model.reports.engine
        return find_evidence(engine.decoder, tokenizer, codes, report, self.explain, prefixes=engine.prefixes)


def _said(result: StudyReport) -> list[str]:
    return [f"Conflict: {conflict}" for conflict in result.conflicts]
