"""What the decoder's states show of films, from whichever pass over them comes by: findings, embeddings, typicality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.infer.embeddings import image_means, require_grid, wanted_layers
from chexmix_cli.core.infer.typicality import film_statistics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from chexmix_cli.core.infer.classification.heads import Head
    from chexmix_cli.core.infer.typicality import Typical, Typicality
    from chexmix_cli.core.models.decoder import Decoder
    from chexmix_cli.core.vocab import Vocabulary


class FilmReadings:
    """Reads films off a pass over their prompts: in the engine (``on_prompts``) or by itself (``read_images``).

    Args:
        decoder: whose states they are.
        vocabulary: the model's ids.
        codes: of each film.
        head: of findings, or None.
        typical: what train films are like, or None.
        embedded: layers whose embeddings are wanted.

    Attributes:
        layers: whose states are needed.
        probability_BK: of the head's findings; None without one.
        typicality_B: how like train films each film is; empty where that is not known.
        embeddings: layer to the mean states of the films, (B, D) float32.

    Raises:
        SettingsError: if there is no such layer, or the image cannot be divided as the head does.
    """

    def __init__(
        self,
        decoder: Decoder,
        vocabulary: Vocabulary,
        codes: Sequence[Sequence[int]],
        *,
        head: Head | None = None,
        typical: Typical | None = None,
        embedded: Sequence[int] = (),
    ) -> None:
        self._decoder, self._vocabulary, self._codes = decoder, vocabulary, codes
        self._head, self._typical, self._embedded = head, typical, frozenset(embedded)
        final = () if typical is None else (decoder.settings.num_layers,)
        self.layers = self._embedded.union(() if head is None else (head.layer,), final)
        if self.layers:
            wanted_layers(decoder, sorted(self.layers))
        if head is not None:
            require_grid(head.grid, vocabulary)
        self.probability_BK: NDArray[np.floating[Any]] | None = None
        self.typicality_B: list[Typicality] = []
        self.embeddings: dict[int, NDArray[np.float32]] = {}

    def read(self, layer: int, state_BTH: Tensor) -> None:
        """Take what a layer's states of ``I_s`` and the images, and what follows them, show."""
        head, typical = self._head, self._typical
        if layer in self._embedded:
            self.embeddings[layer] = image_means(state_BTH, self._vocabulary, 1).cpu().numpy()
        if head is not None and layer == head.layer:
            embedding_BD = image_means(state_BTH, self._vocabulary, head.grid).cpu().numpy()
            self.probability_BK = head.probabilities(embedding_BD)
        if typical is not None and layer == self._decoder.settings.num_layers:
            self.typicality_B = typical.judge(film_statistics(self._decoder, self._vocabulary, state_BTH, self._codes))
