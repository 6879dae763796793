"""Inpainting measured: films of a manifest under many masks, filled by the model and by what it has to beat.

Every number is the mean over films of a film's own number. Masks are nested and depend on the film's id alone, so all
methods fill the same ones, and two runs with one seed can be compared film by film. N films, M numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image

from chexmix_cli.core.data.images.load import load_image
from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.data.presets import ResolvedPreset
from chexmix_cli.core.data.sources import Source
from chexmix_cli.core.errors import DataError
from chexmix_cli.core.evals.inpainting.scores import REFERENCES, REGIONS, Scorer, Similarity
from chexmix_cli.core.evals.result import Case
from chexmix_cli.core.infer.inpainting.classical_fills import FILLS, tension_fill
from chexmix_cli.core.infer.inpainting.masked_film import MaskedFilm, PatternMask, film_area, mask_film
from chexmix_cli.core.infer.inpainting.restorer import EncodedFilm, Grey, Restored, Restorer
from chexmix_cli.core.present.inpainting import panels_png
from chexmix_cli.core.settings.choices import Pattern
from chexmix_cli.core.settings.inpainting import JOINS, EvaluateInpaintingSettings, Join, RegionSettings

CEILING = "ceiling"


@dataclass(frozen=True, slots=True)
class Key:
    """What one number of every film is of.

    Attributes:
        metric: ``psnr``, ``ssim`` or ``code_accuracy``.
        protocol, pattern, ratio: of the mask.
        method: what filled it; ``ceiling`` is the round trip of the whole film.
        region, against: of the pictures compared; None for codes.
        join: how visible pixels and the fill were put together, as ``picture.join``.
    """

    metric: str
    protocol: str
    pattern: str
    ratio: float
    method: str
    region: str | None = None
    against: str | None = None
    join: Join = "none"


@dataclass(slots=True)
class Collected:
    """What the films gave.

    Attributes:
        rows: films that were filled, in order.
        values: each film's numbers by what they are of; None where one is infinite.
        failed: the other films, with the reason.
        cases: best and worst films.
    """

    rows: list[ManifestRow] = field(default_factory=list)
    values: dict[Key, list[float | None]] = field(default_factory=dict)
    failed: list[tuple[str, DataError]] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)


@dataclass(slots=True)
class _Shown:
    """Films to show, ranked by one number."""

    key: Key
    most: int
    found: list[tuple[float, str, tuple[Grey, Grey, np.ndarray, Grey]]] = field(default_factory=list)

    def add(self, value: float | None, film_id: str, encoded: EncodedFilm, result: Grey) -> None:
        """Keep a film if it is among the best or worst so far."""
        if value is None or not self.most:
            return
        pictures = (encoded.original_YX, encoded.masked_YX, encoded.film.is_hidden_YX, result)
        self.found.append((value, film_id, pictures))
        self.found.sort(key=lambda one: one[:2])
        if len(self.found) > 2 * self.most:
            del self.found[self.most]

    def cases(self) -> list[Case]:
        """Return the worst and the best ones; where there are few, none twice."""
        count = min(self.most, (len(self.found) + 1) // 2)
        worst, best = self.found[:count], self.found[len(self.found) - min(count, len(self.found) - count) :][::-1]
        what = f"PSNR of the hidden part: {self.key.method}, {self.key.pattern} {self.key.ratio:g}"
        return [
            Case(
                id=film_id,
                group=f"{rank} {what}",
                texts={"PSNR": f"{value:.2f} dB"},
                pictures={"original, masked, result, error": panels_png(*pictures, f"{what}: {value:.2f} dB")},
            )
            for rank, films in (("worst", worst), ("best", best))
            for value, film_id, pictures in films
        ]


class InpaintingRun:
    """One evaluation of one model.

    Args:
        restorer: the model.
        preset: how films are read.
        settings: masks, methods, bounds.
        seed: of masks and samples.
    """

    def __init__(
        self, restorer: Restorer, preset: ResolvedPreset, settings: EvaluateInpaintingSettings, seed: int
    ) -> None:
        self._restorer, self._preset, self._settings, self._seed = restorer, preset, settings, seed
        masks = settings.masks
        self._conditions = [
            (protocol, pattern, ratio)
            for protocol in masks.protocols
            for pattern in masks.patterns
            for ratio in sorted(masks.ratios)
        ]
        self._collected = Collected()
        protocol, pattern, ratio = self._conditions[(len(masks.ratios) - 1) // 2]
        key = Key("psnr", protocol, pattern, ratio, next(iter(settings.methods.fills)), "masked", "original", "blend")
        self._shown = _Shown(key, settings.cases)

    def run(self, rows: Sequence[ManifestRow], progress: Callable[[int, int | None], None]) -> Collected:
        """Return what the films of rows gave.

        Args:
            rows: films.
            progress: called with (films done, films in all).
        """
        waiting: list[tuple[ManifestRow, list[MaskedFilm]]] = []
        for done, (row, found) in enumerate(self._masked_films(rows), start=1):
            if isinstance(found, DataError):
                self._collected.failed.append((row.id, found))
            else:
                waiting.append((row, found))
            if waiting and (len(waiting) == self._settings.input.batch_size or done == len(rows)):
                self._measure(waiting)
                waiting.clear()
            progress(done, len(rows))
        self._collected.cases = self._shown.cases()
        return self._collected

    def _masked_films(self, rows: Sequence[ManifestRow]) -> Iterator[tuple[ManifestRow, list[MaskedFilm] | DataError]]:
        """Yield each row with its film under every mask, or why there is none: a film counts for all masks or none."""
        for row in rows:
            try:
                film = load_image(Source.named(row.file), self._preset.intensity, self._settings.input).image
                yield row, [self._masked(row, film, *condition) for condition in self._conditions]
            except DataError as error:
                yield row, error

    def _masked(self, row: ManifestRow, film: Image.Image, protocol: str, pattern: Pattern, ratio: float) -> MaskedFilm:
        return mask_film(
            film,
            PatternMask(pattern, ratio),
            self._preset,
            self._region(protocol),
            grid_size=self._restorer.images.settings.grid_size,
            seed=self._seed,
            key=row.id,
        )

    def _region(self, protocol: str) -> RegionSettings:
        masks = self._settings.masks
        is_paper = protocol == "paper"
        return RegionSettings(protocol="paper" if is_paper else "leak-free", ring=masks.ring, blank=masks.blank)

    def _measure(self, films: list[tuple[ManifestRow, list[MaskedFilm]]]) -> None:
        """Fill a batch of films under every mask by every method."""
        whole: list[EncodedFilm] | None = None
        for number, condition in enumerate(self._conditions):
            region = self._region(condition[0])
            masked = [under_masks[number] for _, under_masks in films]
            whole = self._restorer.encode(masked, region, whole=whole)
            scorers = [Scorer(one) for one in whole]
            for scorer in scorers:
                self._keep(condition, CEILING, scorer.ceiling(), "original", join="none")
            fills = self._settings.methods.fills
            found = [self._restorer.fill(whole, fill, seed=self._seed) for fill in fills.values()]
            for (row, _), one, scorer, *restored in zip(films, whole, scorers, *found, strict=True):
                self._measure_model(condition, row.id, one, scorer, dict(zip(fills, restored, strict=True)))
            if condition[0] == self._conditions[0][0]:
                self._measure_baselines(condition, whole, scorers)
        self._collected.rows += [row for row, _ in films]

    def _measure_model(
        self,
        condition: tuple[str, Pattern, float],
        film_id: str,
        film: EncodedFilm,
        scorer: Scorer,
        restored: Mapping[str, Restored],
    ) -> None:
        """Keep the numbers of one film filled by every method, joined in every way."""
        drawn, detail = [one.filled_YX for one in restored.values()], self._settings.methods.detail
        joined = {join: film.join(drawn, join, detail=detail) for join in reversed(JOINS)}
        for number, (name, one) in enumerate(restored.items()):
            self._add(Key("code_accuracy", *condition, name), scorer.code_accuracy(one.codes_P))
            for join, pictures in joined.items():
                masked_db = self._score(condition, name, scorer, pictures[number], join=join)
                if self._shown.key == Key("psnr", *condition, name, "masked", "original", join):
                    self._shown.add(masked_db, film_id, film, pictures[number])

    def _measure_baselines(
        self, condition: tuple[str, Pattern, float], films: list[EncodedFilm], scorers: list[Scorer]
    ) -> None:
        # They know visible pixels only, whatever the protocol: one set of numbers, under the first.
        for name in self._settings.methods.baselines:
            for one, scorer in zip(films, scorers, strict=True):
                self._score(condition, name, scorer, baseline_fill(one, name), join="paste")

    def _score(
        self, condition: tuple[str, Pattern, float], method: str, scorer: Scorer, picture: Grey, *, join: Join
    ) -> float | None:
        """Keep the numbers of a picture; return the PSNR of its hidden part against the original."""
        found = {against: scorer.against(picture, against) for against in REFERENCES}
        for against, similarity in found.items():
            self._keep(condition, method, similarity, against, join=join)
        return found["original"].psnr["masked"]

    def _keep(
        self,
        condition: tuple[str, Pattern, float],
        method: str,
        similarity: Similarity,
        against: str,
        *,
        join: Join,
    ) -> None:
        for region in REGIONS:
            if region == "masked" and join == "none" and method != CEILING:
                continue  # the hidden part is the same picture as pasted
            self._add(Key("psnr", *condition, method, region, against, join), similarity.psnr[region])
            self._add(Key("ssim", *condition, method, region, against, join), similarity.ssim[region])

    def _add(self, key: Key, value: float | None) -> None:
        self._collected.values.setdefault(key, []).append(value)


def baseline_fill(film: EncodedFilm, name: str) -> Grey:
    """Return a film whose hidden pixels one of the classical fills made of its visible ones, in whole grey levels."""
    filled_YX = film.original_YX.copy()
    area = film_area(film.film.is_film_YX)
    # The same spline as in the model's blends, so that these show what the model adds to it.
    fill = partial(tension_fill, length_px=film.length_px) if name == "tension" else FILLS[name]
    found = fill(film.original_YX[area].astype(np.float64), film.film.is_hidden_YX[area])
    filled_YX[area] = np.rint(np.clip(found, 0, 255)).astype(np.uint8)
    return filled_YX
