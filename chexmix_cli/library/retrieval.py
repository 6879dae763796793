"""A model opened for retrieval: rows become items of an index, here or in shares that are merged into one."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.errors import DataError, Reason, SettingsError, WeightsError
from chexmix_cli.library.jobs.job import Record

if TYPE_CHECKING:
    from chexmix_cli.core.data.sources import Source
    from chexmix_cli.core.infer.retrieval.embedder import Embedder
    from chexmix_cli.core.infer.retrieval.vector_index import IndexIdentity, Item, Kind
    from chexmix_cli.core.models.decoder import Decoder
    from chexmix_cli.core.settings.retrieval import EmbeddingSettings
    from chexmix_cli.core.text.tokenizer import TextTokenizer
    from chexmix_cli.library.films import Film
    from chexmix_cli.library.opened import OpenModel

#: What shares of an index say they were made by (:mod:`chexmix_cli.library.jobs.journal`).
INDEX_COMMAND = "retrieve index"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What of a row goes into an index; None where that does not.

    Attributes:
        id: of the row.
        image_digest, text_digest: of what is embedded.
        text: token ids.
        film: read, if its image goes into the index.
    """

    id: str
    image_digest: int | None = None
    text_digest: int | None = None
    text: list[int] | None = None
    film: Film | None = None

    @property
    def source(self) -> Source | None:
        """Return the file that the film was read from, if any. Not for records or logs."""
        return None if self.film is None else self.film.source


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
        if projection is not None:
            projection.require_model(weights.fingerprint, str(weights.path / RETRIEVAL_FILE))
        self.model, self.settings = model, settings
        self.projection_hash = None if projection is None else file_sha256(weights.path / RETRIEVAL_FILE)
        self.decoder: Decoder = model.decoder
        self.embedder: Embedder = Embedder(
            self.decoder,
            weights.settings.vocabulary,
            projection,
            settings,
            batch_size=model.input.batch_size,
            prefixes=model.prefixes,
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

    def items(self, rows: Sequence[Wanted], identity: IndexIdentity) -> list[dict[Kind, Item]]:
        """Return what a batch of rows gives an index: for each row its items by their kind.

        Args:
            rows: embedded together.
            identity: of the index; says which tokens it keeps.
        """
        from chexmix_cli.core.infer.retrieval.vector_index import Item

        found: list[dict[Kind, Item]] = [{} for _ in rows]
        imaged = [(place, row.film, row.image_digest) for place, row in enumerate(rows) if row.film is not None]
        texts = [(place, row.text, row.text_digest) for place, row in enumerate(rows) if row.text is not None]
        codes = self.model.codes_of([film for _, film, _ in imaged])
        image_BE = self.embedder.images(codes)
        text_BE = self.embedder.reports([text for _, text, _ in texts])
        for (place, _, digest), vector_E, image in zip(imaged, image_BE, codes, strict=True):
            assert digest is not None
            kept = image if identity.with_codes else None
            found[place]["images"] = Item(rows[place].id, vector_E, digest, kept)
        for (place, text, digest), vector_E in zip(texts, text_BE, strict=True):
            assert digest is not None
            found[place]["reports"] = Item(rows[place].id, vector_E, digest, text if identity.with_text else None)
        return found


def item_fields(item: Item) -> Record:
    """Return an item, but for its id, as the record of a share holds it: the vector's bytes as base64."""
    vector = base64.b64encode(item.vector_E.numpy().astype("<f4").tobytes()).decode("ascii")
    return {"digest": item.digest, "vector": vector, "tokens": item.tokens}


def merge_index(made: Mapping[str, Any], lines: Iterator[bytes], folder: Path) -> int:
    """Write the records of all shares into an index, as one process would have written it; return how many there are.

    Args:
        made: what decided the records.
        lines: in the order of the list.
        folder: of the index; an existing one is added to.

    Raises:
        DataError: if the folder holds something else, an index of another identity, or another item of an id.
        MachineError: if it cannot be written.
    """
    from chexmix_cli.core.infer.retrieval.index_writer import IndexWriter
    from chexmix_cli.core.infer.retrieval.vector_index import IndexIdentity
    from chexmix_cli.core.settings.load import build
    from chexmix_cli.core.settings.retrieval import StoreSettings

    try:
        identity = build(IndexIdentity, _named(made, "index."))
        rows = build(StoreSettings, _named(made, "store.")).rows
    except SettingsError as error:
        raise DataError(Reason.CORRUPT, f"shares of a damaged identity ({error})", where=str(folder)) from None
    num_records = 0
    with IndexWriter(folder, identity, rows=rows) as writer:
        for line in lines:
            record = json.loads(line)
            for kind, fields in record.get("items", {}).items():
                if not writer.holds(kind, record["id"], fields["digest"]):
                    writer.add(kind, _item(record["id"], fields))
            num_records += 1
    return num_records


def _item(item_id: str, fields: Mapping[str, Any]) -> Item:
    import numpy as np
    import torch

    from chexmix_cli.core.infer.retrieval.vector_index import Item

    vector = np.frombuffer(base64.b64decode(fields["vector"]), "<f4").astype(np.float32)
    return Item(item_id, torch.from_numpy(vector), fields["digest"], fields["tokens"])


def _named(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
