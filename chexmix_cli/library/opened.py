"""A model opened for use: weights, device, dtype, preset. Its parts load when they are first used."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.errors import SettingsError, WeightsError
from chexmix_cli.core.settings.inference import DecodeSettings, InputSettings, Quantize
from chexmix_cli.library.films import Film, FilmReader
from chexmix_cli.library.results import Tokens

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from chexmix_cli.core.data.presets import ResolvedPreset
    from chexmix_cli.core.infer.classification.heads import Head
    from chexmix_cli.core.infer.decoding.drafts import Drafter
    from chexmix_cli.core.infer.decoding.prefixes import PrefixStore
    from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
    from chexmix_cli.core.infer.inpainting.restorer import Restorer
    from chexmix_cli.core.infer.known_codes import KnownCodes
    from chexmix_cli.core.infer.reports.writer import ReportWriter
    from chexmix_cli.core.infer.typicality import Typical
    from chexmix_cli.core.models.decoder import Decoder
    from chexmix_cli.core.text.tokenizer import TextTokenizer
    from chexmix_cli.core.weights import WeightsDir

_LOG = logging.getLogger("chexmix")


@dataclass(frozen=True)
class OpenModel:
    """Weights opened for use; parts load when they are first used.

    Attributes:
        weights: the directory they came from.
        device: where it computes.
        input: how films are read, and how many are taken together.
        dtype_name: as asked for: ``auto``, ``float32`` or ``bfloat16``; :attr:`dtype` is what came of it.
        quantize: the decoder that writes reports is held in this, instead of its dtype.
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

        num_parameters, is_quantized = self.weights.settings.decoder.num_parameters, self.quantize is not None
        return choose_dtype(self.dtype_name, self.device, num_parameters=num_parameters, is_quantized=is_quantized)

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
        """Return the decoder, never quantised: states and likelihoods need the original numbers."""
        return self.weights.load_decoder(self.device, self.dtype)

    @cached_property
    def prefixes(self) -> PrefixStore:
        """Return the images that this model's decoders have read, as many as ``input.prefix_memory_mb`` holds."""
        from chexmix_cli.core.infer.decoding.prefixes import PrefixStore

        settings = self.weights.settings
        has_room = settings.vocabulary.prompt_length <= settings.decoder.max_positions
        return PrefixStore(self.input.prefix_memory_mb * 2**20 if has_room else 0)

    @cached_property
    def known_codes(self) -> KnownCodes:
        """Return the codes of films that were encoded before; none are kept if ``input.prefix_memory_mb`` is 0."""
        from chexmix_cli.core.infer.known_codes import KnownCodes

        return KnownCodes() if self.input.prefix_memory_mb else KnownCodes(0)

    def forget(self) -> None:
        """Forget the films seen so far: for whoever promises the same bytes whatever came before a batch."""
        for name in ("prefixes", "known_codes"):
            if name in vars(self):  # what was never asked for is not made to be emptied
                vars(self)[name].forget()

    def codes_of(self, films: Sequence[Film]) -> list[list[int]]:
        """Return the codes of a batch of films: those that came in or are known, the others encoded together once."""
        import numpy as np

        pixels = {id(film.pixels): film.pixels for film in films if film.codes is None and film.pixels is not None}
        known = {key: self.known_codes.find(pixels_CYX) for key, pixels_CYX in pixels.items()}
        found = {key: codes for key, codes in known.items() if codes is not None}
        new = [key for key in pixels if key not in found]
        encoded = self.images.encode(np.stack([pixels[key] for key in new])).tolist() if new else []
        for key, codes in zip(new, encoded, strict=True):
            found[key] = codes
            self.known_codes.keep(pixels[key], codes)
        return [found[id(film.pixels)] if film.codes is None else film.codes for film in films]

    @cached_property
    def tokenizer(self) -> TextTokenizer | None:
        """Return the text tokenizer, or None if the weights have none."""
        return self.weights.load_text_tokenizer()

    @cached_property
    def typical(self) -> Typical | None:
        """Return what the films are like that the model learnt from, or None if the weights do not say.

        Raises:
            WeightsError: if the file is damaged.
        """
        from chexmix_cli.core.infer.typicality import Typical
        from chexmix_cli.core.weights.files import TYPICAL_FILE

        path = self.weights.path / TYPICAL_FILE
        if not path.is_file():
            return None
        typical = Typical.load(path)
        typical.require_model(self.weights.fingerprint, str(path))
        typical.require_size(self.weights.settings.decoder, str(path))
        return typical

    @cached_property
    def head(self) -> Head | None:
        """Return the head of findings that came with the weights, or None.

        Raises:
            WeightsError: if the file is damaged, or of other weights.
        """
        from chexmix_cli.core.weights.files import HEAD_FILE

        path = self.weights.path / HEAD_FILE
        if not path.is_file():
            return None
        return self.load_head(path)

    def load_head(self, path: Path) -> Head:
        """Return the head of a file, held against this model.

        Raises:
            WeightsError: if there is none, or it is damaged, or of other weights.
        """
        from chexmix_cli.core.infer.classification.heads import Head

        head = Head.load(path)
        head.require_model(self.weights.fingerprint, str(path), lambda: self.values_hash)
        head.require_size(self.weights.settings.decoder, str(path))
        return head

    @cached_property
    def values_hash(self) -> str:
        """Return the hash of all values that a head reads through: image encoder, codebook, decoder."""
        from chexmix_cli.core.infer.embeddings import values_read
        from chexmix_cli.core.weights.fingerprint import values_hash

        return values_hash(values_read(self.decoder, self.images.vqgan))

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
        return ReportWriter(decoder, self.weights.settings.vocabulary, self.tokenizer, prefixes=self.prefixes)

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
            WeightsError: if the index cannot be read, or the one asked for is of another text tokenizer.
        """
        from chexmix_cli.core.infer.decoding.drafts import OwnText, Together
        from chexmix_cli.core.weights.draft_index import DraftIndex, ForeignDraftsError

        if not settings.uses_drafts:
            return None
        if settings.drafts is None:
            try:
                index = self.weights.load_drafts()
            except ForeignDraftsError as error:
                # Drafts save time and change no report; an index that was asked for is another matter.
                _LOG.warning("%s: left out, reports take longer and are the same", error)
                index = None
        else:
            index = DraftIndex.load(
                settings.drafts,
                tokenizer=self.weights.text_tokenizer_hash,
                vocabulary=self.weights.settings.vocabulary,
            )
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
        """Return what decided a result: version, model and its hash, preset, seed, device, dtype, kernels."""
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
        if self.quantize is None:
            return made
        from chexmix_cli.core.models.quantized import product_kind

        return {**made, "quantize": self.quantize, "kernels": product_kind(self.device)}

    def encode(self, films: Sequence[Film]) -> list[Tokens]:
        """Return the codes of a batch of films; those that came in as codes keep them."""
        hash_ = self.weights.codebook_hash
        codes = self.codes_of(films)
        return [Tokens(film, found, hash_) for film, found in zip(films, codes, strict=True)]


def open_model(
    name: str | None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: Quantize | None = None,
    settings: InputSettings | None = None,
    needs_decoder: bool = True,
) -> OpenModel:
    """Return a model, checked as far as it can be without loading it.

    Args:
        name: of an entry of ``weights.toml``, or a directory; None is the embedded model.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        quantize: ``int8`` or ``int4`` holds the decoder that writes reports in 8 or 4 bits, on a CPU or a CUDA device.
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
        weights.refuse_foreign_decoder()
        raise WeightsError("has no decoder", where=str(weights.path), expected="model.safetensors")
    place = choose_device(device)
    if quantize is not None and place.type not in ("cpu", "cuda"):
        raise SettingsError(f"is {quantize!r}, on {place}", where="quantize", expected="--device cpu or cuda with it")
    for warning in slow_bfloat16(dtype, place, "images are encoded faster with --dtype float32"):
        _LOG.warning(warning)
    model = OpenModel(weights, place, settings or InputSettings(), dtype, quantize)
    # Both are looked up now, so that a wrong name stops a run before the first film.
    _ = model.preset, model.dtype
    return model
