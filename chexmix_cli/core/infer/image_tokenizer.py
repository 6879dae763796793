"""Pixels to image codes and back, in batches. Shape letters: B images, C channels, Y X pixels, P image positions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chexmix_cli.core.data.images.geometry import LEVELS_PER_UNIT
from chexmix_cli.core.errors import ShapeError, VocabularyError
from chexmix_cli.core.models.vqgan import Vqgan, layout
from chexmix_cli.core.runtime import memory_errors, sent
from chexmix_cli.core.settings.model import ModelSettings

#: Pixels that pass the network together on a CPU: more do not stay in its caches. One 512 px film after the other is
#: faster than four at once (docs/performance.md).
_CPU_PIXELS = 256 * 256
#: Images that :meth:`ImageTokenizer.encode_each` reads before it encodes them.
READ_AHEAD = 32
#: How far rounding may carry a pixel out of [-1, 1].
_PIXEL_SLACK = 1e-3


class ImageTokenizer:
    """The image tokenizer of one model, for arrays of any number of images.

    Args:
        vqgan: the model's VQGAN, on its device and in its dtype; its weights are put into the layout it runs in.
        settings: the model's settings.
        batch_size: most images that pass the network together; bounds memory, not the number of images.
        memory_hint: what to do where memory runs out; None where no setting helps.
    """

    def __init__(
        self,
        vqgan: Vqgan,
        settings: ModelSettings,
        *,
        batch_size: int = 4,
        memory_hint: str | None = "--set input.batch_size=1",
    ) -> None:
        self.vqgan = vqgan.eval()
        with torch.inference_mode():
            memory_format = layout(vqgan.quant_conv.weight)
        self.vqgan.to(memory_format=memory_format)  # type: ignore[call-overload]
        self.settings = settings
        self._memory_hint = memory_hint
        self.batch_size = batch_size
        if vqgan.quant_conv.weight.device.type == "cpu":
            self.batch_size = min(batch_size, max(1, _CPU_PIXELS // settings.image.resolution_px**2))

    @torch.inference_mode()
    def encode(self, pixels_BCYX: Tensor | NDArray[np.float32]) -> Tensor:
        """Return the codes of images in raster order, (B, P) int64 on the CPU.

        Args:
            pixels_BCYX: float pixels in [-1, 1], as ``core/data/images/geometry.py`` makes them.

        Raises:
            ShapeError: if the images are not the model's size, not float, not finite or not in [-1, 1].
            MachineError: if memory runs out.
        """
        if not isinstance(pixels_BCYX, Tensor):
            pixels_BCYX = torch.tensor(pixels_BCYX)
        self._check_pixels(pixels_BCYX)
        weight = self.vqgan.quant_conv.weight
        codes = [torch.empty(0, self.settings.vocabulary.tokens_per_image, dtype=torch.int64, device=weight.device)]
        with memory_errors("encoding images", self._memory_hint):
            for batch_BCYX in pixels_BCYX.split(self.batch_size):
                # Pinned one by one: a GPU encodes a batch while the next is made ready.
                codes.append(self.vqgan.encode(sent(batch_BCYX, weight.device).to(weight.dtype)))
            return torch.cat(codes).cpu()

    def encode_each(self, images: Iterable[NDArray[np.float32]]) -> NDArray[np.uint16]:
        """Return the codes of images that come one by one, (B, P) uint16; no more than a few of them are held.

        Args:
            images: (C, Y, X) float32 in [-1, 1] each.

        Raises:
            ShapeError, MachineError: as :meth:`encode`.
        """
        waiting = iter(images)
        codes = [np.empty((0, self.settings.vocabulary.tokens_per_image), np.uint16)]
        while batch := list(itertools.islice(waiting, READ_AHEAD)):
            codes.append(self.encode(np.stack(batch)).numpy().astype(np.uint16))
        return np.concatenate(codes)

    @torch.inference_mode()
    def decode(self, codes_BP: Tensor | NDArray[Any] | Sequence[Sequence[int]]) -> NDArray[np.uint8]:
        """Return the pictures of codes: (B, Y, X) of a grey model, (B, Y, X, 3) of a colour one, uint8.

        Pixels are clamped to [-1, 1], scaled to 0..255 and cut to whole grey levels, as the released pipeline does.

        Raises:
            ShapeError: if there are not ``tokens_per_image`` whole numbers an image.
            VocabularyError: if a code lies outside the codebook.
            MachineError: if memory runs out.
        """
        codes_BP = self._checked_codes(codes_BP)
        side = self.settings.grid_size
        device = self.vqgan.quant_conv.weight.device
        batches = codes_BP.view(-1, side, side).split(self.batch_size)
        return self._draw(self.vqgan.quantize.decode(batch_BYX.to(device)) for batch_BYX in batches)

    @torch.inference_mode()
    def decode_vectors(self, vectors_BEYX: Tensor) -> NDArray[np.uint8]:
        """Return the pictures of vectors (B, E, Y, X), rows of the codebook or anything between, as :meth:`decode`.

        Raises:
            ShapeError: if they are not of the model's grid and code size.
            MachineError: if memory runs out.
        """
        shape = (self.settings.vqgan.code_size, self.settings.grid_size, self.settings.grid_size)
        if tuple(vectors_BEYX.shape[1:]) != shape:
            raise ShapeError(
                f"vectors {tuple(vectors_BEYX.shape)}",
                where="image tokenizer",
                expected=f"(B, {', '.join(map(str, shape))})",
            )
        weight = self.vqgan.quant_conv.weight
        return self._draw(batch.to(weight.device, weight.dtype) for batch in vectors_BEYX.split(self.batch_size))

    def _draw(self, batches: Iterable[Tensor]) -> NDArray[np.uint8]:
        """Return the pictures of batches of code vectors."""
        side, channels = self.settings.image.resolution_px, self.settings.vqgan.image_channels
        pictures = [np.empty((0, side, side, channels), np.uint8)]
        with memory_errors("decoding images", self._memory_hint):
            for vectors_BEYX in batches:
                if len(vectors_BEYX) == 0:
                    continue
                pixels_BCYX = self.vqgan.decode_latents(vectors_BEYX)
                levels_BCYX = ((pixels_BCYX.float().clamp(-1, 1) + 1) * LEVELS_PER_UNIT).to(torch.uint8)
                pictures.append(levels_BCYX.permute(0, 2, 3, 1).cpu().numpy())
        picture_BYXC = np.concatenate(pictures)
        return picture_BYXC[..., 0] if channels == 1 else picture_BYXC

    def _check_pixels(self, pixels_BCYX: Tensor) -> None:
        side, channels = self.settings.image.resolution_px, self.settings.vqgan.image_channels
        if pixels_BCYX.ndim != 4 or tuple(pixels_BCYX.shape[1:]) != (channels, side, side):
            raise ShapeError(
                f"pixels {tuple(pixels_BCYX.shape)}",
                where="image tokenizer",
                expected=f"(B, {channels}, {side}, {side})",
            )
        if not pixels_BCYX.is_floating_point():
            raise ShapeError(f"pixels of {pixels_BCYX.dtype}", where="image tokenizer", expected="float32 in [-1, 1]")
        if len(pixels_BCYX) == 0:
            return
        low, high = (float(extreme) for extreme in pixels_BCYX.aminmax())
        if not (low >= -1 - _PIXEL_SLACK and high <= 1 + _PIXEL_SLACK):  # so written, NaN is refused too
            raise ShapeError(f"pixels from {low:g} to {high:g}", where="image tokenizer", expected="-1..1")

    def _checked_codes(self, codes: Tensor | NDArray[Any] | Sequence[Sequence[int]]) -> Tensor:
        num_positions, num_codes = self.settings.vocabulary.tokens_per_image, self.settings.vqgan.num_codes
        try:
            array = np.asarray(codes.cpu() if isinstance(codes, Tensor) else codes)
        except ValueError:
            raise ShapeError(
                "rows of different lengths", where="image tokenizer", expected=f"{num_positions}"
            ) from None
        if len(array) == 0:
            return torch.empty(0, num_positions, dtype=torch.int64)
        if array.ndim != 2 or array.shape[1] != num_positions or array.dtype.kind not in "iu":
            raise ShapeError(
                f"codes of shape {array.shape}, {array.dtype}",
                where="image tokenizer",
                expected=f"whole numbers (B, {num_positions})",
            )
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= num_codes:
            raise VocabularyError(
                f"image code {low if low < 0 else high} is out of range", expected=f"0..{num_codes - 1}"
            )
        return torch.tensor(array, dtype=torch.int64)
