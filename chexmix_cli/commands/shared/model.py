"""A model opened for a command: weights, device, dtype, preset."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from chexmix_cli.commands.shared.options import RunOptions
from chexmix_cli.core.errors import SettingsError, WeightsError
from chexmix_cli.core.settings.inference import DecodeSettings, InputSettings, Quantize

if TYPE_CHECKING:
    import torch

    from chexmix_cli.core.data.presets import ResolvedPreset
    from chexmix_cli.core.infer.decoding.drafts import Drafter
    from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer
    from chexmix_cli.core.infer.inpainting.restorer import Restorer
    from chexmix_cli.core.infer.reports.writer import ReportWriter
    from chexmix_cli.core.weights import WeightsDir

_LOG = logging.getLogger("chexmix")


@dataclass(frozen=True)
class OpenModel:
    """Weights opened for one run; parts load when first used."""

    weights: WeightsDir
    device: torch.device
    options: RunOptions
    input: InputSettings
    quantize: Quantize | None = None

    @cached_property
    def preset(self) -> ResolvedPreset:
        """Return the image preset in use."""
        from chexmix_cli.core.data.presets import resolve_preset

        settings = self.weights.settings
        return resolve_preset(self.input.preset, settings.image, settings.vqgan.image_channels)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Return the dtype the model computes in."""
        from chexmix_cli.core.runtime import choose_dtype

        num_parameters = self.weights.settings.decoder.num_parameters
        return choose_dtype(self.options.dtype, self.device, num_parameters=num_parameters)

    @cached_property
    def image_dtype(self) -> torch.dtype:
        """Return the dtype the image tokenizer computes in."""
        from chexmix_cli.core.runtime import choose_dtype

        # ``auto`` keeps float32 here: on a CPU codes are compared exactly, and it is the decoder whose size decides.
        return choose_dtype(self.options.dtype, self.device, num_parameters=0)

    @cached_property
    def images(self) -> ImageTokenizer:
        """Return the image tokenizer."""
        from chexmix_cli.core.infer.image_tokenizer import ImageTokenizer

        vqgan = self.weights.load_vqgan(self.device, self.image_dtype)
        return ImageTokenizer(vqgan, self.weights.settings, batch_size=self.input.batch_size)

    @cached_property
    def reports(self) -> ReportWriter:
        """Return the report writer."""
        from chexmix_cli.core.infer.reports.writer import ReportWriter

        tokenizer = self.weights.load_text_tokenizer()
        if tokenizer is None:
            _LOG.warning("the weights have no text tokenizer: records carry token_ids but no report")
        decoder = self.weights.load_decoder(self.device, self.dtype, quantize=self.quantize)
        return ReportWriter(decoder, self.weights.settings.vocabulary, tokenizer)

    def drafter(self, settings: DecodeSettings) -> Drafter | None:
        """Return what supposes what follows in a report: an index of reports, if there is one, and its own text.

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

    @cached_property
    def restorer(self) -> Restorer:
        """Return what fills hidden parts of films."""
        from chexmix_cli.core.infer.inpainting.code_filler import CodeFiller
        from chexmix_cli.core.infer.inpainting.restorer import Restorer

        filler = CodeFiller(
            self.weights.load_decoder(self.device, self.dtype),
            self.weights.settings.vocabulary,
            self.images.vqgan.quantize.embedding.weight,
        )
        return Restorer(self.images, filler)

    def provenance(self) -> dict[str, Any]:
        """Return the provenance field of a record, or nothing unless ``--provenance`` asks for it."""
        if not self.options.provenance:
            return {}
        from chexmix_cli.core.runtime import provenance

        made = provenance(
            model=self.weights.name,
            fingerprint=self.weights.fingerprint,
            preset=self.preset.intensity,
            preset_hash=self.preset.hash,
            seed=self.options.seed,
            device=self.device,
            dtype=self.dtype,
        )
        if self.quantize is not None:
            made["quantize"] = self.quantize
        return {"provenance": made}


def open_model(
    options: RunOptions, settings: InputSettings, *, needs_decoder: bool, quantize: Quantize | None = None
) -> OpenModel:
    """Return the model of a command.

    Args:
        options: weights, device, dtype.
        settings: how inputs are read.
        needs_decoder: the command does more than encode images.
        quantize: what the decoder that writes reports is held in.

    Raises:
        WeightsError, MachineError, SettingsError: before any input is read.
    """
    from chexmix_cli.core.runtime import choose_device, slow_bfloat16
    from chexmix_cli.core.weights import open_weights

    weights = open_weights(options.weights)
    if not weights.has_vqgan:
        raise WeightsError(
            "has no image tokenizer", where=str(weights.path), expected="vqgan.safetensors or vqgan.ckpt"
        )
    if needs_decoder and not weights.has_decoder:
        raise WeightsError("has no decoder", where=str(weights.path), expected="model.safetensors")
    if weights.licence_notice is not None:
        options.console.note(weights.licence_notice)
    device = choose_device(options.device)
    if quantize is not None and device.type != "cpu":
        raise SettingsError(f"is {quantize!r}, on {device}", where="quantize", expected="--device cpu with it")
    for warning in slow_bfloat16(options.dtype, device, "images are encoded faster with --dtype float32"):
        _LOG.warning(warning)
    model = OpenModel(weights, device, options, settings, quantize)
    # Both are looked up now, so that a wrong name stops the command before the first record.
    _ = model.preset, model.dtype
    return model
