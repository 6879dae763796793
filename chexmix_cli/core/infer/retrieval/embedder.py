"""Images and reports to vectors of one space, of length 1: their dot product is the cosine to rank by.

B images or reports, P image positions, D hidden, E vector size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from chexmix_cli.core.data.manifest import ManifestRow
from chexmix_cli.core.errors import SettingsError
from chexmix_cli.core.infer.decoding.prefixes import NO_PREFIXES, PrefixStore
from chexmix_cli.core.infer.embeddings import image_embeddings, wanted_layers
from chexmix_cli.core.infer.retrieval.projection import Projection
from chexmix_cli.core.infer.retrieval.text_embeddings import text_embeddings
from chexmix_cli.core.models.decoder import Decoder
from chexmix_cli.core.settings.choices import Section
from chexmix_cli.core.settings.model import DecoderSettings
from chexmix_cli.core.settings.retrieval import EmbeddingSettings
from chexmix_cli.core.vocab import Vocabulary

_HIGHEST_LAYER = 11


class Embedder:
    """Embeds with one model.

    Args:
        decoder: in eval mode.
        vocabulary: the model's ids.
        projection: the model's contrastive projections, on the CPU, or None to compare the states themselves.
        settings: layers and section.
        batch_size: images or reports read together.
        prefixes: images read before, which are not read again.

    Attributes:
        image_layer, text_layer: in use.
        size: E.

    Raises:
        SettingsError: if there is no such layer, or projections are in use and another layer than theirs is asked for.
    """

    def __init__(
        self,
        decoder: Decoder,
        vocabulary: Vocabulary,
        projection: Projection | None,
        settings: EmbeddingSettings,
        *,
        batch_size: int,
        prefixes: PrefixStore = NO_PREFIXES,
    ) -> None:
        self._decoder, self._vocabulary, self._batch_size = decoder, vocabulary, batch_size
        self._projection, self._prefixes = projection, prefixes
        default = default_layer(decoder.settings) if projection is None else projection.layer
        layers = [default if layer is None else layer for layer in (settings.image_layer, settings.text_layer)]
        if projection is not None and set(layers) != {projection.layer}:
            raise SettingsError(
                f"layers {layers[0]} and {layers[1]}",
                where="embedding",
                expected=f"layer {projection.layer}, which the model's projections read",
                hint="--set embedding.is_projected=false compares the states themselves",
            )
        wanted_layers(decoder, layers)
        self.image_layer, self.text_layer = layers
        self.size = decoder.settings.hidden_size if projection is None else projection.size

    def images(self, codes: Sequence[Sequence[int]] | NDArray[Any]) -> Tensor:
        """Return the vectors of images, (B, E) float32 on the CPU; errors as ``image_embeddings``."""
        parts = [torch.empty(0, self.size)]
        for start in range(0, len(codes), self._batch_size):
            batch = [[int(code) for code in image] for image in codes[start : start + self._batch_size]]
            state_BLD = image_embeddings(
                self._decoder, self._vocabulary, batch, layers=[self.image_layer], prefixes=self._prefixes
            )
            parts.append(self._vectors(state_BLD[:, 0], is_image=True))
        return torch.cat(parts)

    def reports(self, reports: Sequence[Sequence[int]]) -> Tensor:
        """Return the vectors of reports by their token ids, (B, E) float32 on the CPU; errors as ``text_embeddings``.

        Equal reports are read once, so that they have equal vectors whatever batches they would have been in.
        """
        keys = [tuple(int(token_id) for token_id in report) for report in reports]
        places = {key: place for place, key in enumerate(sorted(set(keys), key=lambda key: (len(key), key)))}
        unique, parts = list(places), [torch.empty(0, self.size)]
        for start in range(0, len(unique), self._batch_size):
            batch = unique[start : start + self._batch_size]
            state_BLD = text_embeddings(self._decoder, self._vocabulary, batch, layers=[self.text_layer])
            parts.append(self._vectors(state_BLD[:, 0], is_image=False))
        return torch.cat(parts)[[places[key] for key in keys]]

    @torch.inference_mode()
    def _vectors(self, state_BD: Tensor, *, is_image: bool) -> Tensor:
        if self._projection is None:
            return F.normalize(state_BD, dim=-1)
        tower = self._projection.image if is_image else self._projection.text
        vectors_BE: Tensor = tower(state_BD)
        return vectors_BE


def default_layer(decoder: DecoderSettings) -> int:
    """Return the layer that is averaged unless another is asked for: two thirds up, but no higher than the eleventh.

    Of chexmix-mini's 6 blocks that is 4, the best one on its training rows (docs/retrieval.md); of the released model's
    32 it is 11, among the 7 to 12 that its authors recommend for retrieval.
    """
    return max(1, min(round(2 * decoder.num_layers / 3), _HIGHEST_LAYER))


def section_text(row: ManifestRow, section: Section) -> str | None:
    """Return the text of a row that is compared, or None if it has none. No section ever stands in for another."""
    text = row.report if section == "both" else getattr(row, section)
    return None if text is None or not text.strip() else str(text).strip()
