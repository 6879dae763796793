"""A model whose verbs are the commands': what ``chexmix.load`` gives."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from chexmix_cli.core.errors import ChexmixError, SettingsError
from chexmix_cli.core.settings.inference import DecodeSettings, ExplainSettings, InputSettings, Quantize
from chexmix_cli.library.films import Film, FilmSource
from chexmix_cli.library.jobs.batches import run_batches
from chexmix_cli.library.opened import OpenModel, open_model
from chexmix_cli.library.results import Failure, Tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chexmix_cli.core.settings.classification import ClassifySettings
    from chexmix_cli.core.settings.inpainting import InpaintSettings
    from chexmix_cli.library.classification import Classifier, Findings
    from chexmix_cli.library.inpainting import FilledFilm, Inpainter
    from chexmix_cli.library.reports import Reporter, StudyReport

_LOG = logging.getLogger("chexmix")

Result = TypeVar("Result")
#: Called with (inputs done, inputs in all, or None where that is not known).
Progress = Callable[[int, int | None], None]


class Model(OpenModel):
    """A model and its verbs. Made by :func:`load`.

    A verb takes one film, as a path, a study, a record or a picture (:meth:`film`), and raises if it cannot be read;
    its ``_many`` form takes any number, in batches, and yields a :class:`Failure` for each that cannot be read.
    """

    def film(self, source: FilmSource) -> Film:
        """Return a film as this model will see it, its picture kept.

        Args:
            source: a path that leads to one study, a :class:`Study`, a record of ``chexmix tokenize`` or a line of a
                manifest, an 8-bit picture (PIL), or a film.

        Raises:
            DataError: if it cannot be read; its ``reason`` is the code that a command's record would have.
        """
        return self.reader(keeps_picture=True).job(source).prepare()

    def tokenize(self, film: FilmSource) -> Tokens:
        """Return the image codes of a film. Errors as :meth:`film`."""
        return self._one(film, self.encode)

    def tokenize_many(
        self, films: Iterable[FilmSource], *, progress: Progress | None = None
    ) -> Iterator[Tokens | Failure]:
        """Yield the image codes of films, in order; a film that cannot be read gives a :class:`Failure`."""
        return self._many(films, self.encode, progress)

    def reporter(
        self, *, decode: DecodeSettings | None = None, explain: ExplainSettings | None = None, seed: int = 0
    ) -> Reporter:
        """Return what writes reports under other settings than the defaults.

        Args:
            decode: how reports are decoded.
            explain: how it is found out what each sentence depends on; None leaves that out.
            seed: of sampled tokens.
        """
        from chexmix_cli.library.reports import Reporter

        return Reporter(self, decode or DecodeSettings(), explain, seed=seed)

    def report(self, film: FilmSource, *, explain: bool = False) -> StudyReport:
        """Return a draft report of a film: AI-generated, preliminary, unverified.

        Args:
            film: anything that :meth:`film` reads.
            explain: also find out how far each sentence depends on the image.

        Raises:
            DataError: if the film cannot be read.
        """
        return self._one(film, self.reporter(explain=ExplainSettings() if explain else None))

    def report_many(
        self, films: Iterable[FilmSource], *, explain: bool = False, progress: Progress | None = None
    ) -> Iterator[StudyReport | Failure]:
        """Yield a draft report of each film, in order; a film that cannot be read gives a :class:`Failure`."""
        return self._many(films, self.reporter(explain=ExplainSettings() if explain else None), progress)

    def classifier(
        self,
        *,
        head: str | os.PathLike[str] | None = None,
        layers: Sequence[int] = (),
        mask_ratio: float = 0.0,
        is_zero_shot: bool = False,
        settings: ClassifySettings | None = None,
        seed: int = 0,
    ) -> Classifier:
        """Return what reads findings or embeddings off films; the arguments are those of :class:`Classifier`."""
        from chexmix_cli.core.settings.classification import ClassifySettings
        from chexmix_cli.library.classification import Classifier

        return Classifier(
            self,
            settings or ClassifySettings(),
            head=None if head is None else Path(head),
            layers=layers,
            mask_ratio=mask_ratio,
            is_zero_shot=is_zero_shot,
            seed=seed,
        )

    def classify(self, film: FilmSource, *, head: str | os.PathLike[str] | None = None) -> Findings:
        """Return the probability of each finding of a film, by a linear head: preliminary, unverified.

        Args:
            film: anything that :meth:`film` reads.
            head: file of a head; None is the one in the weights directory.

        Raises:
            DataError: if the film cannot be read.
            WeightsError: if there is no head, or it is of another model.
        """
        return self._one(film, self.classifier(head=head))

    def classify_many(
        self,
        films: Iterable[FilmSource],
        *,
        head: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Findings | Failure]:
        """Yield the probability of each finding of films, in order; a film that cannot be read gives a failure."""
        return self._many(films, self.classifier(head=head), progress)

    def embed(self, film: FilmSource, *, layer: int) -> NDArray[np.float32]:
        """Return the mean hidden state of a film's image tokens, (D,) float32.

        Args:
            film: anything that :meth:`film` reads.
            layer: 0 is the token embedding, L the output of block L; of the released model its authors recommend 7 to
                12.

        Raises:
            DataError: if the film cannot be read.
            SettingsError: if the model has no such layer.
        """
        return self._one(film, self.classifier(layers=(layer,))).embeddings[layer]

    def embed_many(
        self, films: Iterable[FilmSource], *, layer: int, progress: Progress | None = None
    ) -> Iterator[NDArray[np.float32] | Failure]:
        """Yield the embedding of each film, (D,) float32, in order; a film that cannot be read gives a failure."""
        for found in self._many(films, self.classifier(layers=(layer,)), progress):
            yield found if isinstance(found, Failure) else found.embeddings[layer]

    def inpainter(
        self,
        *,
        box: tuple[int, int, int, int] | None = None,
        block: float | None = None,
        mask_ratio: float | None = None,
        settings: InpaintSettings | None = None,
        seed: int = 0,
    ) -> Inpainter:
        """Return what fills hidden parts of films.

        Args:
            box: x, y, width, height in pixels of the film as it is read.
            block: share of the image that one hidden square takes; its position is drawn by ``seed`` and id.
            mask_ratio: share of the image's codes that is hidden, by ``settings.region.pattern``, drawn likewise.
            settings: the form of the mask and its ring, how codes are filled and the fill is joined.
            seed: of what is drawn.

        Raises:
            SettingsError: unless exactly one of ``box``, ``block`` and ``mask_ratio`` is given.
        """
        from chexmix_cli.core.infer.inpainting.masked_film import AnyMask, BoxMask, PatternMask
        from chexmix_cli.core.settings.inpainting import InpaintSettings
        from chexmix_cli.library.inpainting import Inpainter

        chosen = settings or InpaintSettings()
        masks: list[AnyMask] = [
            *([] if box is None else [BoxMask(*box)]),
            *([] if block is None else [PatternMask("block", block)]),
            *([] if mask_ratio is None else [PatternMask(chosen.region.pattern, mask_ratio)]),
        ]
        if len(masks) != 1:
            raise SettingsError(f"{len(masks)} of them are given", where="inpaint", expected="box, block or mask_ratio")
        return Inpainter(self, chosen, masks[0], seed=seed)

    def inpaint(
        self,
        film: FilmSource,
        *,
        box: tuple[int, int, int, int] | None = None,
        block: float | None = None,
        mask_ratio: float | None = None,
        seed: int = 0,
    ) -> FilledFilm:
        """Return a film with a hidden part filled in: AI-generated in part. The arguments are :meth:`inpainter`'s."""
        return self._one(film, self.inpainter(box=box, block=block, mask_ratio=mask_ratio, seed=seed))

    def _one(self, source: FilmSource, process: Callable[[list[Film]], Sequence[Result]]) -> Result:
        return process([self.film(source)])[0]

    def _many(
        self,
        sources: Iterable[FilmSource],
        process: Callable[[list[Film]], Sequence[Result]],
        progress: Progress | None,
    ) -> Iterator[Result | Failure]:
        reader = self.reader(keeps_picture=True)
        jobs = (reader.job(source) for source in sources)
        total = len(sources) if isinstance(sources, Sequence) else None
        batches = run_batches(jobs, process, batch_size=self.input.batch_size, workers=self.input.workers)
        for done, (job, found) in enumerate(batches, start=1):
            yield Failure(job.id, found) if isinstance(found, ChexmixError) else found
            if progress is not None:
                progress(done, total)


def load(
    name: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    quantize: Quantize | None = None,
    preset: str = "model",
    batch_size: int = 4,
    workers: int = 0,
) -> Model:
    """Return a model; its parts are read from the disk when they are first used.

    Args:
        name: of an entry of ``weights.toml``, or a directory of weights; None is the embedded ``chexmix-mini``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: of the computation; ``auto`` chooses by device and size.
        quantize: ``int8`` or ``int4`` holds the decoder that writes reports in 8 or 4 bits, on a CPU or a CUDA device.
        preset: image preset, or ``model`` for the one it was trained with.
        batch_size: films taken together by the ``_many`` verbs.
        workers: processes that read films ahead of the model.

    Raises:
        WeightsError, MachineError, SettingsError: if it cannot be opened so.
    """
    settings = InputSettings(preset=preset, batch_size=batch_size, workers=workers)
    opened = open_model(
        None if name is None else str(name), device=device, dtype=dtype, quantize=quantize, settings=settings
    )
    model = Model(opened.weights, opened.device, settings, dtype, quantize)
    if model.weights.licence_notice is not None:
        _LOG.warning(model.weights.licence_notice)
    return model
