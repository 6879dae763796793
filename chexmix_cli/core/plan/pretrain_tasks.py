"""Tasks on drawn data, of any size, for a plan to measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from PIL import Image

from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.models.init import init_decoder
from chexmix_cli.core.models.meta import on_meta_device
from chexmix_cli.core.models.vqgan import Vqgan
from chexmix_cli.core.plan.sizes import DecoderSize, PictureSize, cut_decoder, cut_picture
from chexmix_cli.core.settings.model import ModelSettings
from chexmix_cli.core.settings.training import LoopSettings, Stage1Training, Stage2Training, TokenizerTraining
from chexmix_cli.core.train.examples.documents import DocumentSet
from chexmix_cli.core.train.examples.films import Films, reduced
from chexmix_cli.core.train.image_tokenizer.task import TokenizerTask
from chexmix_cli.core.train.order import step_generator
from chexmix_cli.core.train.pretrain.decoder_task import DecoderTask

#: A manifest's film is about this much larger than the model's picture: what training keeps of one.
_FILM_SCALE = 2


def drawn_tokenizer_task(settings: TokenizerTraining, size: PictureSize) -> tuple[TokenizerTask, LoopSettings]:
    """Return the stage's task on noise, and its loop, with pictures of that size."""
    loop = _loop(settings.train, size.examples)
    model = cut_picture(settings.model, size.side_px)
    films = _films(model, loop.batch_size)
    val = _films(model, size.examples)
    vqgan = Vqgan(model.vqgan).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    cut = dataclasses.replace(settings, model=model, train=loop)
    return TokenizerTask(cut, vqgan, films, val, [str(number) for number in range(len(films))]), loop


def empty_tokenizer_task(settings: TokenizerTraining) -> TokenizerTask:
    """Return the stage's task at its full size, without a film and on the meta device: shapes alone."""
    films = _films(settings.model, 0)
    with on_meta_device():
        return TokenizerTask(settings, Vqgan(settings.model.vqgan), films, films, [])


def drawn_decoder_task(
    settings: Stage1Training | Stage2Training,
    size: DecoderSize,
    report_tokens: Sequence[int],
    *,
    has_values: bool = True,
) -> tuple[DecoderTask, LoopSettings]:
    """Return the stage's task on random documents, and its loop, with a decoder of that size.

    Args:
        settings: root of the stage.
        size: of decoder and micro-batch.
        report_tokens: lengths of reports; the longest is among the drawn ones, which decides what a batch is padded to.
        has_values: else the decoder is on the meta device: its shapes alone.
    """
    loop = _loop(settings.train, size.examples)
    model = cut_decoder(settings.model, size)
    lengths = [max(1, length // size.shorter) for length in report_tokens]
    document = model.vocabulary.prompt_length + max(lengths)
    row_tokens, in_a_row = settings.packing.row_tokens // size.shorter, 1
    if row_tokens:
        row_tokens = max(row_tokens, document)
        in_a_row = row_tokens // (model.vocabulary.prompt_length + min(lengths)) + 1
    packing = dataclasses.replace(settings.packing, row_tokens=row_tokens)
    cut = dataclasses.replace(settings, model=model, train=loop, packing=packing)
    with nullcontext() if has_values else on_meta_device():
        decoder = Decoder(model.decoder)
    if has_values:
        init_decoder(decoder, step_generator(0, 0))
    train, val = (_documents(model, count * in_a_row, lengths) for count in (loop.batch_size, size.examples))
    return DecoderTask(cut, decoder, train, val, lambda directory: None), loop


def _loop(train: LoopSettings, examples: int) -> LoopSettings:
    """Return the loop with micro-batches of so many examples, two a step if the run accumulates."""
    micros = min(2, train.batch_size // train.micro_batch_size)
    return dataclasses.replace(train, batch_size=micros * examples, micro_batch_size=examples, validation_batches=1)


def _films(model: ModelSettings, count: int) -> Films:
    rng = np.random.default_rng(0)
    side = model.image.resolution_px * _FILM_SCALE
    pictures = rng.integers(0, 256, (count, side, side), dtype=np.uint8)
    return Films([reduced(Image.fromarray(picture), model) for picture in pictures], model)


def _documents(model: ModelSettings, count: int, report_tokens: Sequence[int]) -> DocumentSet:
    rng = np.random.default_rng(0)
    vocabulary = model.vocabulary
    codes_NVP = rng.integers(0, vocabulary.num_codes, (count, 1, vocabulary.tokens_per_image)).astype(np.uint16)
    lengths = np.quantile(report_tokens, np.linspace(0, 1, count) if count > 1 else [1.0]).astype(int)
    ordinary = min(vocabulary.begin_text, vocabulary.begin_image, vocabulary.end_image)
    reports = [rng.integers(0, ordinary, length).tolist() for length in lengths]
    return DocumentSet(codes_NVP, reports, [str(number) for number in range(count)])
