"""Settings of retrieval: what is embedded, how it is searched, how it is evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from chexmix_cli.core.settings.checks import require
from chexmix_cli.core.settings.choices import Section
from chexmix_cli.core.settings.evaluation import BootstrapSettings
from chexmix_cli.core.settings.inference import InputSettings

Scorer = Literal["cosine", "likelihood"]
#: What a report is scored against (core/infer/likelihood.py).
Minus = Literal["none", "hidden", "alone"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingSettings:
    """What becomes a vector.

    Attributes:
        image_layer, text_layer: hidden state that is averaged: 0 the token embeddings, then each block, the last one
            normed. None: that of the model's contrastive projections, if it has some, else two thirds up, at most 11.
        section: text of a report: ``both`` sections with their headings, or one of them alone. A row without it has no
            text; the other section is never taken instead.
        is_projected: whether the model's contrastive projections are used, if it has some.
    """

    image_layer: int | None = None
    text_layer: int | None = None
    section: Section = "both"
    is_projected: bool = True

    def __post_init__(self) -> None:
        for name in ("image_layer", "text_layer"):
            layer = getattr(self, name)
            require(layer is None or layer >= 0, f"embedding.{name}", layer, "0 or more, or none")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreSettings:
    """What an index keeps.

    Attributes:
        rows: vectors of one file; a killed run loses no more than these.
        codes: keep the codes of images too, which the likelihood scorer reads (two bytes an image position).
    """

    rows: int = 4096
    codes: bool = True

    def __post_init__(self) -> None:
        require(self.rows > 0, "store.rows", self.rows, "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """How an index is searched.

    Attributes:
        backend: ``torch``: exact, block by block, from the file; ``faiss``: in memory (extra ``scale``).
        faiss: a FAISS factory string: ``Flat`` is exact, ``HNSW32`` and the like are fast and approximate.
        block_rows: vectors searched together.
    """

    backend: Literal["torch", "faiss"] = "torch"
    faiss: str = "Flat"
    block_rows: int = 16384

    def __post_init__(self) -> None:
        require(self.block_rows > 0, "search.block_rows", self.block_rows, "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class LikelihoodSettings:
    """Re-ranking by the log-probability of the text given the image, a token on average.

    Attributes:
        top: candidates that are scored, the best ones by cosine; they rank before the others. 0 is all.
        minus: what is subtracted: ``none``; ``hidden``, the text's log-probability with every image position masked;
            ``alone``, without an image. Both tell a text that fits from one that is likely anyway.
        batch_size: texts read together.
    """

    top: int = 100
    minus: Minus = "hidden"
    batch_size: int = 16

    def __post_init__(self) -> None:
        require(self.top >= 0, "likelihood.top", self.top, "0 or more")
        require(self.batch_size > 0, "likelihood.batch_size", self.batch_size, "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class TileSettings:
    """How ranks are counted.

    Attributes:
        rows, columns: scores in memory at once.
        tie_tolerance: scores no further apart than this are ties.
    """

    rows: int = 512
    columns: int = 4096
    tie_tolerance: float = 1e-6

    def __post_init__(self) -> None:
        require(self.rows > 0, "tiles.rows", self.rows, "a positive number")
        require(self.columns > 0, "tiles.columns", self.columns, "a positive number")
        require(self.tie_tolerance >= 0, "tiles.tie_tolerance", self.tie_tolerance, "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolSettings:
    """Smaller pools, drawn by seed and id: the pool of a seed is the same whatever else is in the data.

    Attributes:
        size: pairs of a pool; 0 ranks among all of them.
        seeds: pools drawn; numbers are means over them.
        curve: sizes of the pool-size curve; those beyond the data are left out.
    """

    size: int = 0
    seeds: int = 5
    curve: tuple[int, ...] = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)

    def __post_init__(self) -> None:
        require(self.size == 0 or self.size > 1, "pool.size", self.size, "0, or 2 or more")
        require(self.seeds > 0, "pool.seeds", self.seeds, "a positive number")
        require(all(size > 1 for size in self.curve), "pool.curve", self.curve, "sizes of 2 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassPoolSettings:
    """The class-balanced pool (5x200): images that have exactly one of the classes.

    Attributes:
        classes: findings; an image of the pool has one of them present and no other present or uncertain.
        per_class: images drawn of each class; every class must have that many.
    """

    classes: tuple[str, ...] = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    per_class: int = 200

    def __post_init__(self) -> None:
        require(len(self.classes) > 1, "classes.classes", self.classes, "two or more findings")
        require(self.per_class > 0, "classes.per_class", self.per_class, "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexSettings:
    """Root of ``chexmix retrieve index``."""

    input: InputSettings = field(default_factory=lambda: InputSettings(batch_size=16))
    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    store: StoreSettings = field(default_factory=StoreSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuerySettings:
    """Root of ``chexmix retrieve query``."""

    input: InputSettings = field(default_factory=InputSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    likelihood: LikelihoodSettings = field(default_factory=LikelihoodSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalEvaluationSettings:
    """Root of ``chexmix evaluate retrieval``.

    Attributes:
        scorer: ``cosine`` of embeddings, or ``likelihood`` re-ranking.
        relevance: what counts as found: the ``pair``; a report with the identical ``text`` (identical ones are one
            candidate); an image or report with the same ``labels``, all of them.
    """

    scorer: Scorer = "cosine"
    relevance: tuple[Literal["pair", "text", "labels"], ...] = ("pair", "text", "labels")
    input: InputSettings = field(default_factory=lambda: InputSettings(batch_size=16))
    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    likelihood: LikelihoodSettings = field(default_factory=LikelihoodSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)
    classes: ClassPoolSettings = field(default_factory=ClassPoolSettings)
    tiles: TileSettings = field(default_factory=TileSettings)
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)

    def __post_init__(self) -> None:
        require(len(self.relevance) > 0, "relevance", self.relevance, "some of pair, text, labels")
