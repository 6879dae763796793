"""A model opened for use. Its parts load when they are first used; its verbs are those of the commands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from chexmix_cli.core.errors import ChexmixError, SettingsError, WeightsError
from chexmix_cli.core.settings.inference import DecodeSettings, ExplainSettings, InputSettings, Quantize
from chexmix_cli.library.batches import run_batches
from chexmix_cli.library.films import Film, FilmReader, FilmSource
from chexmix_cli.library.results import Failure, Tokens

if TYPE_CHECKING:
    import os

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from chexmix_cli.core.data.presets import ResolvedPreset
    from chexmix_cli.core.infer.decoding.drafts import Drafter
    from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
    from chexmix_cli.core.infer.inpainting.restorer import Restorer
    from chexmix_cli.core.infer.reports.writer import ReportWriter
    from chexmix_cli.core.models.decoder import Decoder
    from chexmix_cli.core.settings.classification import ClassifySettings
    from chexmix_cli.core.settings.inpainting import InpaintSettings
    from chexmix_cli.core.text.tokenizer import TextTokenizer
    from chexmix_cli.core.weights import WeightsDir
    from chexmix_cli.library.classification import Classifier, Findings
    from chexmix_cli.library.inpainting import FilledFilm, Inpainter
    from chexmix_cli.library.reports import Reporter, StudyReport

_LOG = logging.getLogger("chexmix")

Result = TypeVar("Result")
#: Called with (inputs done, inputs in all, or None where that is not known).
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Model:
    """Weights opened for use. Made by :func:`load`.

    Attributes:
        weights: the directory they came from.
        device: where it computes.
        input: how films are read, and how many are taken together.
        dtype_name: as asked for: ``auto``, ``float32`` or ``bfloat16``; :attr:`dtype` is what came of it.
        quantize: what the decoder that writes reports is held in, in place of its dtype.
    """

    weights: WeightsDir
    device: torch.device
    input: InputSettings = field(default_factory=InputSettings)
    dtype_name: str = "auto"
    quantize: Quantize | None = None

    @cached_property
    def preset(self) -> ResolvedPreset:
        """Return the image preset in use."""
        from chexmix_cli.core.data.presets import resolve_preset

        settings = self.weights.settings
        return resolve_preset(self.input.preset, settings.image, settings.vqgan.image_channels)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Return the dtype the decoder computes in."""
        from chexmix_cli.core.runtime import choose_dtype

        decoder = self.weights.settings.decoder
        width, mlp = decoder.hidden_size, decoder.mlp_size
        num_parameters = decoder.num_layers * (4 * width**2 + 2 * width * mlp) + 2 * decoder.num_rows * width
        return choose_dtype(self.dtype_name, self.device, num_parameters=num_parameters)

    @cached_property
    def image_dtype(self) -> torch.dtype:
        """Return the dtype the image tokenizer computes in."""
        from chexmix_cli.core.runtime import choose_dtype

        # ``auto`` keeps float32 here: on a CPU codes are compared exactly, and it is the decoder whose size decides.
        return choose_dtype(self.dtype_name, self.device, num_parameters=0)

    @cached_property
    def images(self) -> ImageTokenizer:
        """Return the image tokenizer: ``encode`` pixels to codes, ``decode`` codes to pictures."""
        from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer

        vqgan = self.weights.load_vqgan(self.device, self.image_dtype)
        return ImageTokenizer(vqgan, self.weights.settings, batch_size=self.input.batch_size)

    @cached_property
    def decoder(self) -> Decoder:
        """Return the decoder, never quantised: what reads states and likelihoods wants its own numbers."""
        return self.weights.load_decoder(self.device, self.dtype)

    @cached_property
    def tokenizer(self) -> TextTokenizer | None:
        """Return the text tokenizer, or None if the weights have none."""
        return self.weights.load_text_tokenizer()

    @cached_property
    def reports(self) -> ReportWriter:
        """Return the report writer."""
        from chexmix_cli.core.infer.reports.writer import ReportWriter

        if self.tokenizer is None:
            _LOG.warning("the weights have no text tokenizer: records carry token_ids but no report")
        if self.quantize is None:
            decoder = self.decoder
        else:
            decoder = self.weights.load_decoder(self.device, self.dtype, quantize=self.quantize)
        return ReportWriter(decoder, self.weights.settings.vocabulary, self.tokenizer)

    @cached_property
    def restorer(self) -> Restorer:
        """Return what fills hidden parts of films."""
        from chexmix_cli.core.infer.inpainting.code_filler import CodeFiller
        from chexmix_cli.core.infer.inpainting.restorer import Restorer

        vocabulary = self.weights.settings.vocabulary
        return Restorer(self.images, CodeFiller(self.decoder, vocabulary, self.images.vqgan.quantize.embedding.weight))

    def drafter(self, settings: DecodeSettings) -> Drafter | None:
        """Return what proposes the next tokens of a report: an index of reports, if there is one, and its own text.

        Raises:
            WeightsError: if the index cannot be read or is of another text tokenizer.
        """
        from chexmix_cli.core.infer.decoding.drafts import OwnText, Together
        from chexmix_cli.core.weights.draft_index import DraftIndex

        if settings.draft_rows < 2:
            return None
        if settings.drafts is None:
            index = self.weights.load_drafts()
        else:
            index = DraftIndex.load(settings.drafts, tokenizer=self.weights.text_tokenizer_hash)
        return OwnText() if index is None else Together(index, OwnText())

    def reader(self, *, keep_uids: bool = False, keeps_picture: bool = False, with_others: bool = False) -> FilmReader:
        """Return how films are read for this model; the arguments are those of :class:`FilmReader`."""
        return FilmReader(
            input=self.input,
            preset=self.preset,
            vocabulary=self.weights.settings.vocabulary,
            codebook_hash=self.weights.codebook_hash,
            keep_uids=keep_uids,
            keeps_picture=keeps_picture,
            with_others=with_others,
        )

    def provenance(self, *, seed: int = 0) -> dict[str, Any]:
        """Return what decided a result: version, model and its hash, preset, seed, device, dtype."""
        from chexmix_cli.core.runtime import provenance

        made = provenance(
            model=self.weights.name,
            fingerprint=self.weights.fingerprint,
            preset=self.preset.intensity,
            preset_hash=self.preset.hash,
            seed=seed,
            device=self.device,
            dtype=self.dtype,
        )
        return made if self.quantize is None else {**made, "quantize": self.quantize}

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

    def encode(self, films: Sequence[Film]) -> list[Tokens]:
        """Return the codes of a batch of films; those that came in as codes keep them."""
        from chexmix_cli.library.films import encode_films

        hash_ = self.weights.codebook_hash
        codes = encode_films(films, self.images)
        return [Tokens(film, found, hash_) for film, found in zip(films, codes, strict=True)]

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
            explain: find out, too, how far each sentence depends on the image.

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
            head: file of a head; None is the one beside the weights.

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
            layer: 0 is the token embedding, L the output of block L (CHEXMIX: layers 7 to 12 of the released model).
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
            block: share of the image that one hidden square takes; its place is drawn by ``seed`` and id.
            mask_ratio: share of the image's codes that is hidden, by ``settings.region.pattern``, drawn likewise.
            settings: what is hidden from whom, how it is filled and joined.
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


def open_model(
    name: str | None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: Quantize | None = None,
    settings: InputSettings | None = None,
    needs_decoder: bool = True,
) -> Model:
    """Return a model, checked as far as it can be without loading it.

    Args:
        name: of an entry of ``weights.toml``, or a directory; None is the embedded model.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        quantize: ``int8`` holds the decoder that writes reports in 8 bits (CPU only).
        settings: how films are read.
        needs_decoder: more is wanted than codes.

    Raises:
        WeightsError, MachineError, SettingsError: before any film is read.
    """
    from chexmix_cli.core.runtime import choose_device, slow_bfloat16
    from chexmix_cli.core.weights import open_weights

    weights = open_weights(name)
    if not weights.has_vqgan:
        raise WeightsError(
            "has no image tokenizer", where=str(weights.path), expected="vqgan.safetensors or vqgan.ckpt"
        )
    if needs_decoder and not weights.has_decoder:
        raise WeightsError("has no decoder", where=str(weights.path), expected="model.safetensors")
    place = choose_device(device)
    if quantize is not None and place.type != "cpu":
        raise SettingsError(f"is {quantize!r}, on {place}", where="quantize", expected="--device cpu with it")
    for warning in slow_bfloat16(dtype, place, "images are encoded faster with --dtype float32"):
        _LOG.warning(warning)
    model = Model(weights, place, settings or InputSettings(), dtype, quantize)
    # Both are looked up now, so that a wrong name stops a run before the first film.
    _ = model.preset, model.dtype
    return model


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
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: of the computation; ``auto`` chooses by device and size.
        quantize: ``int8`` holds the decoder that writes reports in 8 bits (CPU only).
        preset: image preset, or ``model`` for the one it was trained with.
        batch_size: films taken together by the ``_many`` verbs.
        workers: processes that read films ahead of the model.

    Raises:
        WeightsError, MachineError, SettingsError: if it cannot be opened so.
    """
    settings = InputSettings(preset=preset, batch_size=batch_size, workers=workers)
    model = open_model(
        None if name is None else str(name), device=device, dtype=dtype, quantize=quantize, settings=settings
    )
    if model.weights.licence_notice is not None:
        _LOG.warning(model.weights.licence_notice)
    return model
