"""A model opened for retrieval: what embeds, and what an index of it says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chexmix_cli.core.errors import WeightsError

if TYPE_CHECKING:
    from chexmix_cli.core.infer.retrieval.embedder import Embedder
    from chexmix_cli.core.models.decoder import Decoder
    from chexmix_cli.core.settings.retrieval import EmbeddingSettings
    from chexmix_cli.core.text.tokenizer import TextTokenizer
    from chexmix_cli.library.opened import OpenModel


class RetrievalModel:
    """A model's decoder, embedder and text tokenizer.

    Args:
        model: opened with its decoder.
        settings: what is embedded.

    Attributes:
        decoder, embedder: of the model.
        projection_hash: of the contrastive projections in use, or None.
    """

    def __init__(self, model: OpenModel, settings: EmbeddingSettings) -> None:
        from chexmix_cli.core.infer.retrieval.embedder import Embedder
        from chexmix_cli.core.infer.retrieval.projection import Projection
        from chexmix_cli.core.weights.files import RETRIEVAL_FILE
        from chexmix_cli.core.weights.fingerprint import file_sha256

        weights = model.weights
        projection = Projection.load(weights.path, weights.settings.decoder) if settings.is_projected else None
        self.model, self.settings = model, settings
        self.projection_hash = None if projection is None else file_sha256(weights.path / RETRIEVAL_FILE)
        self.decoder: Decoder = model.decoder
        self.embedder: Embedder = Embedder(
            self.decoder, weights.settings.vocabulary, projection, settings, batch_size=model.input.batch_size
        )

    @property
    def tokenizer(self) -> TextTokenizer:
        """Return the text tokenizer.

        Raises:
            WeightsError: if the weights have none.
        """
        if self.model.tokenizer is None:
            raise WeightsError(
                "has no text tokenizer", where=str(self.model.weights.path), expected="tokenizer.json, to read reports"
            )
        return self.model.tokenizer

    def identity(self) -> dict[str, Any]:
        """Return what decides the vectors, by the names an index has for it."""
        return {
            "model": self.model.weights.name,
            "model_hash": self.model.weights.fingerprint,
            "projection_hash": self.projection_hash,
            "preset": self.model.preset.intensity,
            "preset_hash": self.model.preset.hash,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "image_layer": self.embedder.image_layer,
            "text_layer": self.embedder.text_layer,
            "section": self.settings.section,
            "size": self.embedder.size,
        }
