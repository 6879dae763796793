"""What a weights directory describes: vocabulary, decoder, image tokenizer, image geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chexmix_cli.core.settings.checks import require, require_range
from chexmix_cli.core.vocab import Vocabulary

Geometry = Literal["pad", "crop"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderSettings:
    """Shape of the Phi-form decoder (see ``core/models/decoder.py``).

    Attributes:
        num_rows: rows of the embedding and of the head.
        rotary_size: features of each head that turn with the position.
        attention: ``causal``: each position attends to those before it, as in Phi. ``bidirectional``: a position of an
            image attends to its whole image, too, as ``masking.attention`` of stage 2 trained it to.
        rope_grid: side of the grid of codes whose rotary positions are row and column, half of the rotating features
            each; 0: every token has one position, as in Phi. A sequence is then an image first, ``I_s`` at position 0.
        rope_dtype: what the rotary frequencies are rounded to. ``float32`` leaves them as they are; ``bfloat16`` is
            what a Phi module becomes when it is cast as a whole, as some pipelines cast it before they run.
    """

    num_rows: int
    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int
    rotary_size: int
    max_positions: int
    attention: Literal["causal", "bidirectional"] = "causal"
    rope_theta: float = 10000.0
    rope_grid: int = 0
    rope_dtype: Literal["float32", "bfloat16"] = "float32"
    norm_eps: float = 1e-5
    residual_dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("num_rows", "hidden_size", "num_layers", "num_heads", "mlp_size", "max_positions"):
            require(getattr(self, name) > 0, f"decoder.{name}", getattr(self, name), "a positive number")
        require(
            self.hidden_size % self.num_heads == 0,
            "decoder.hidden_size",
            self.hidden_size,
            f"a multiple of num_heads ({self.num_heads})",
        )
        rotary_fits = self.rotary_size % 2 == 0 and 0 < self.rotary_size <= self.head_size
        require(rotary_fits, "decoder.rotary_size", self.rotary_size, f"an even number up to {self.head_size}")
        require(self.rope_grid >= 0, "decoder.rope_grid", self.rope_grid, "0 or more")
        if self.rope_grid:
            require(
                self.rotary_size % 4 == 0,
                "decoder.rotary_size",
                self.rotary_size,
                "a multiple of 4 for rows and columns",
            )
        require_range("decoder.residual_dropout", self.residual_dropout, 0.0, 0.99)

    @property
    def head_size(self) -> int:
        """Return the width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def num_parameters(self) -> int:
        """Return the parameters of a decoder of this shape: blocks, embedding, head with its bias, last norm.

        A block has two projections (query, key, value and feed-forward in one, both outputs in the other), their
        biases, and a norm.
        """
        width, mlp = self.hidden_size, self.mlp_size
        block = width * (3 * width + mlp) + 3 * width + mlp + (width + mlp) * width + 4 * width
        return self.num_layers * block + self.num_rows * (2 * width + 1) + 2 * width


@dataclass(frozen=True, kw_only=True, slots=True)
class VqganSettings:
    """Shape of the VQGAN image tokenizer (taming-transformers VQModel without attention but in the middle)."""

    num_codes: int
    code_size: int
    latent_channels: int
    channels: int
    channel_multipliers: tuple[int, ...]
    num_res_blocks: int
    image_channels: int
    num_groups: int = 32
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("num_codes", "code_size", "latent_channels", "channels", "num_res_blocks", "num_groups"):
            require(getattr(self, name) > 0, f"vqgan.{name}", getattr(self, name), "a positive number")
        require(len(self.channel_multipliers) > 0, "vqgan.channel_multipliers", self.channel_multipliers, "a level")
        require(self.image_channels in (1, 3), "vqgan.image_channels", self.image_channels, "1 or 3")
        for multiplier in self.channel_multipliers:
            width = self.channels * multiplier
            require(width % self.num_groups == 0, "vqgan.channels", width, f"a multiple of {self.num_groups} groups")

    @property
    def downsampling(self) -> int:
        """Return how many pixels of a side make one code."""
        return 1 << (len(self.channel_multipliers) - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSettings:
    """What the image tokenizer was trained to see.

    Attributes:
        resolution_px: side of the square input.
        intensity: intensity preset used unless the command says otherwise.
        geometry: ``pad`` keeps the whole film, ``crop`` is the released centre crop.
    """

    resolution_px: int
    intensity: str
    geometry: Geometry


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """One model, complete: everything needed to build its modules and its sequences."""

    name: str
    vocabulary: Vocabulary
    image: ImageSettings
    vqgan: VqganSettings
    decoder: DecoderSettings

    def __post_init__(self) -> None:
        vocabulary, resolution = self.vocabulary, self.image.resolution_px
        require(
            self.decoder.num_rows == vocabulary.num_rows,
            "decoder.num_rows",
            self.decoder.num_rows,
            f"the vocabulary's {vocabulary.num_rows} rows",
        )
        require(
            self.vqgan.num_codes == vocabulary.num_codes,
            "vqgan.num_codes",
            self.vqgan.num_codes,
            f"the vocabulary's {vocabulary.num_codes} codes",
        )
        require(
            resolution > 0 and resolution % self.vqgan.downsampling == 0,
            "image.resolution_px",
            resolution,
            f"a multiple of {self.vqgan.downsampling}",
        )
        require(
            self.grid_size**2 == vocabulary.tokens_per_image,
            "vocabulary.tokens_per_image",
            vocabulary.tokens_per_image,
            f"{self.grid_size} x {self.grid_size} codes of a {resolution} px image",
        )
        require(
            self.decoder.rope_grid in (0, self.grid_size),
            "decoder.rope_grid",
            self.decoder.rope_grid,
            f"0, or the {self.grid_size} codes of an image's side",
        )
        require(
            self.decoder.max_positions > vocabulary.prompt_length,
            "decoder.max_positions",
            self.decoder.max_positions,
            f"more than the report prompt's {vocabulary.prompt_length}",
        )

    @property
    def grid_size(self) -> int:
        """Return the number of codes along one side of an image."""
        return self.image.resolution_px // self.vqgan.downsampling
