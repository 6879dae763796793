"""What a plan measures in place of the full size: fewer layers, a smaller vocabulary, fewer or smaller pictures."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from chexmix_cli.core.settings.model import DecoderSettings, ModelSettings
from chexmix_cli.core.vocab import compact

#: Layers at most of a decoder that is measured; two would do, but the further apart, the less noise counts.
_LAYERS = 3
#: Smallest vocabulary that a cut-down decoder gets, and the share it has of the larger one.
_FEWEST_ROWS, _SHARE = 512, 16
#: Smallest side of a cut-down picture.
_SMALLEST_PX = 64
#: Fewest codes along a side of a cut-down decoder's pictures.
_FEWEST_CODES = 8
#: Parameters of the largest decoder that is built to measure.
MEASURED_PARAMETERS = 1.6e8


@dataclass(frozen=True, slots=True)
class Limits:
    """What measuring may cost.

    Attributes:
        parameters: most parameters of a decoder that is built.
        flop: about how many floating-point operations a pass forwards and backwards may take.
    """

    parameters: float
    flop: float


@dataclass(frozen=True, slots=True)
class DecoderSize:
    """A cut-down decoder, how many documents pass it at once, and how many times shorter they are.

    Attributes:
        layers, rows: of the decoder.
        examples: documents of a micro-batch.
        shorter: a power of 4: pictures have sides of so much less, by its root.
    """

    layers: int
    rows: int
    examples: int
    shorter: int = 1

    @property
    def share(self) -> float:
        """Return the tokens that pass at once, as documents of full length."""
        return self.examples / self.shorter


@dataclass(frozen=True, slots=True)
class PictureSize:
    """A cut-down picture and how many pass at once."""

    side_px: int
    examples: int

    @property
    def pixels(self) -> int:
        """Return the pixels of all of them: what a convolutional network's costs are linear in."""
        return self.examples * self.side_px**2


def decoder_parameters(decoder: DecoderSettings, *, layers: int, rows: int) -> int:
    """Return the parameters of a decoder with so many layers and rows."""
    return dataclasses.replace(decoder, num_layers=layers, num_rows=rows).num_parameters


def decoder_sizes(
    decoder: DecoderSettings, *, tokens: int, side_codes: int, examples: int, limits: Limits
) -> list[DecoderSize]:
    """Return sizes from which costs at any number of layers and rows follow; the first is the base of the others.

    Where fewer tokens pass than a micro-batch has, the last one is the base with another number of documents.

    Args:
        decoder: the full one.
        tokens: of a document.
        side_codes: codes along a picture's side.
        examples: documents of a micro-batch; fewer pass where that many cost too much.
        limits: what measuring may cost.
    """
    rows = decoder.num_rows
    while rows > _SHARE * _FEWEST_ROWS and decoder_parameters(decoder, layers=1, rows=rows) > limits.parameters:
        rows //= 2
    few_rows = max(min(rows, _FEWEST_ROWS), rows // _SHARE)
    layers = min(decoder.num_layers, _LAYERS)
    while layers > 2 and decoder_parameters(decoder, layers=layers, rows=few_rows) > limits.parameters:
        layers -= 1
    largest = max(decoder_parameters(decoder, layers=n, rows=r) for n, r in ((1, rows), (layers, few_rows)))
    wanted, shorter = examples, 1
    while examples > 1 and 6.0 * tokens * examples * largest > limits.flop:
        examples //= 2
    while side_codes % 2 == 0 and side_codes > _FEWEST_CODES and 6.0 * tokens / shorter * largest > limits.flop:
        shorter *= 4
        side_codes //= 2
    base = DecoderSize(1, few_rows, examples, shorter)
    found = [base]
    if rows > few_rows:
        found.append(dataclasses.replace(base, rows=rows))
    if layers > 1:
        found.append(dataclasses.replace(base, layers=layers))
    if examples < wanted or shorter > 1:
        found.append(dataclasses.replace(base, examples=examples // 2 if examples > 1 else 2))
    return found


def picture_sizes(side_px: int, *, examples: int, flop: float, step_px: int, limits: Limits) -> list[PictureSize]:
    """Return sizes from which the cost of any number of pixels follows; the full one alone if it is cheap enough.

    Args:
        side_px: of a full picture.
        examples: pictures at once.
        flop: of one full picture, all passes.
        step_px: sides must be multiples of this.
        limits: what measuring may cost.
    """
    full = PictureSize(side_px, examples)
    while examples > 1 and examples * flop > limits.flop:
        examples //= 2
    side = side_px
    while flop * (side / side_px) ** 2 > limits.flop and side % (2 * step_px) == 0 and side > _SMALLEST_PX:
        side //= 2
    first = PictureSize(side, examples)
    if first == full:
        return [first]
    if examples > 1:
        return [first, PictureSize(side, examples // 2)]
    return [first, PictureSize(side // 2, 1)]


def cut_decoder(model: ModelSettings, size: DecoderSize) -> ModelSettings:
    """Return the model with a decoder of that size; a smaller vocabulary has the same kinds of ids."""
    model = cut_picture(model, model.image.resolution_px // math.isqrt(size.shorter))
    vocabulary, vqgan = model.vocabulary, model.vqgan
    if size.rows != vocabulary.num_rows:
        num_codes = min(vqgan.num_codes, size.rows // 4)
        num_text = size.rows - num_codes - 2
        vocabulary = compact(num_text=num_text, num_codes=num_codes, tokens_per_image=vocabulary.tokens_per_image)
        vqgan = dataclasses.replace(vqgan, num_codes=num_codes)
    decoder = dataclasses.replace(model.decoder, num_layers=size.layers, num_rows=size.rows)
    return dataclasses.replace(model, vocabulary=vocabulary, vqgan=vqgan, decoder=decoder)


def cut_picture(model: ModelSettings, side_px: int) -> ModelSettings:
    """Return the model for pictures of that side."""
    image = dataclasses.replace(model.image, resolution_px=side_px)
    grid = side_px // model.vqgan.downsampling
    vocabulary = dataclasses.replace(model.vocabulary, tokens_per_image=grid**2)
    decoder = dataclasses.replace(model.decoder, rope_grid=grid if model.decoder.rope_grid else 0)
    return dataclasses.replace(model, image=image, vocabulary=vocabulary, decoder=decoder)
