"""Settings of the commands that run a trained model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from chexmix_cli.core.settings.checks import MOST_WORKERS, require, require_range

_MOST_DRAFT_ROWS = 64

#: What the matrices of a decoder's linear layers can be held in, instead of its dtype.
Quantize = Literal["int8", "int4"]

#: Which ids a report may hold (core/infer/reports/engine.py: constrain).
DecodedIds = Literal["text", "all"]

#: What a report is written as, besides its record (core/present/documents).
DocumentKind = Literal["sr", "measurements", "pdf", "picture", "fhir"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSettings:
    """How inputs are read.

    Attributes:
        preset: image preset, or ``model`` for the one the model was trained with.
        views: ``frontal`` takes one image a study (PA over AP over unknown), ``all`` every usable image.
        batch_size: images encoded, or reports decoded, together.
        max_file_mb: largest file read, in MiB.
        max_pixels: most pixels decoded from one image (rows x columns).
        frame: which frame of a multi-frame DICOM image is read, from 0.
        workers: processes that read and scale images ahead of the model; 0 reads each image when it is needed.
        prefix_memory_mb: memory in MiB for what the decoder has read of images, so that what reads the same image again
            does not begin anew; 0 keeps nothing, and no codes either.
        burned_in_text: what becomes of a film in whose pixels text is seen, or whose header says so: ``note`` or
            ``refuse``.
    """

    preset: str = "model"
    views: Literal["frontal", "all"] = "frontal"
    batch_size: int = 4
    max_file_mb: int = 512
    max_pixels: int = 100_000_000
    frame: int = 0
    workers: int = 0
    prefix_memory_mb: int = 512
    burned_in_text: Literal["note", "refuse"] = "note"

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_file_mb", "max_pixels"):
            require(getattr(self, name) > 0, f"input.{name}", getattr(self, name), "a positive number")
        require(self.frame >= 0, "input.frame", self.frame, "0 or more")
        require_range("input.workers", self.workers, 0, MOST_WORKERS)
        require(self.prefix_memory_mb >= 0, "input.prefix_memory_mb", self.prefix_memory_mb, "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class RaySettings:
    """What a batch of films takes of a Ray cluster (``--ray``).

    Attributes:
        cpus: cores; as many threads compute it.
        gpus: share of a GPU, where one is used: below 1, batches of several processes overlap on it, and while one is
            read another is computed.
        retries: how often a batch is tried again whose process or machine ended.
    """

    cpus: int = 1
    gpus: float = 1.0
    retries: int = 3

    def __post_init__(self) -> None:
        require_range("ray.cpus", self.cpus, 1, 1024)
        require(0 < self.gpus <= 1, "ray.gpus", self.gpus, "above 0, up to 1")
        require(self.retries >= 0, "ray.retries", self.retries, "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeSettings:
    """How a report is decoded.

    Attributes:
        vocabulary: ``text`` allows only ordinary text ids, the end and the next ``I_s``; ``all`` every row, as
            released.
        max_new_tokens, min_new_tokens: bounds on the new tokens; the end cannot be chosen before the minimum.
        temperature: 0 is greedy; above, tokens are sampled with ``--seed``.
        top_p: smallest set of tokens whose probability reaches this is sampled from.
        comparisons: words that claim a comparison with an earlier study, which a report of one study cannot know:
            ``flag`` names those in the report, ``block`` keeps them from being written, ``allow`` does neither.
        header: words that contradict what is known of the film, the same way: a view other than the stated one; on an
            adult's film, bacterial and viral, which only children's films are labelled with.
        drafts: draft index (``chexmix weights drafts``); default: the weights' own ``drafts.safetensors``, if there
            is one. Drafts from the report's own text are proposed in any case.
        draft_rows: positions that a pass over all reports decoded together may read: each report's last token and
            the draft tokens proposed after it. The reports are the same; 0 turns drafts off. Not set: on a CPU as many
            as pay off there, 32 at most; on a GPU 8.
    """

    vocabulary: DecodedIds = "text"
    max_new_tokens: int = 200
    min_new_tokens: int = 5
    temperature: float = 0.0
    top_p: float = 1.0
    comparisons: Literal["allow", "flag", "block"] = "flag"
    header: Literal["allow", "flag", "block"] = "block"
    drafts: Path | None = None
    draft_rows: int | None = None

    def __post_init__(self) -> None:
        require(self.max_new_tokens > 0, "decode.max_new_tokens", self.max_new_tokens, "a positive number")
        require_range("decode.min_new_tokens", self.min_new_tokens, 0, self.max_new_tokens)
        require(0 <= self.temperature < math.inf, "decode.temperature", self.temperature, "0 or more, finite")
        require(0 < self.top_p <= 1, "decode.top_p", self.top_p, "above 0, up to 1")
        if self.draft_rows is not None:
            require_range("decode.draft_rows", self.draft_rows, 0, _MOST_DRAFT_ROWS)

    @property
    def uses_drafts(self) -> bool:
        """Return whether a pass may read draft tokens."""
        return self.draft_rows is None or self.draft_rows > 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftSettings:
    """What is kept of a corpus of reports.

    Attributes:
        order: most token ids that are looked back at.
        min_patients: ids in a row are kept if they occur in reports of so many patients; where a file does not say
            whose a report is, each counts as one. What is said of one patient only may make them known: 1 keeps it.
    """

    order: int = 6
    min_patients: int = 3

    def __post_init__(self) -> None:
        require_range("drafts.order", self.order, 1, 32)
        require(self.min_patients > 0, "drafts.min_patients", self.min_patients, "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftIndexSettings:
    """Root of ``chexmix weights drafts``."""

    drafts: DraftSettings = field(default_factory=DraftSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainSettings:
    """How ``--explain`` finds what a sentence depends on.

    Attributes:
        blocks: blocks along a side of the image; each is hidden in turn.
        least_drop: a sentence that loses less than this when the whole image is hidden, in nats a token, counts as
            written from the text before it alone.
        least_block: a block that alone loses less than this is not painted on a heat map, in nats a token.
        batch_size: sequences scored together.
        folder: where heat maps go; without it none are drawn, since they do not show where a finding is
            (docs/report-metrics.md).
    """

    blocks: int = 4
    least_drop: float = 0.05
    least_block: float = 0.02
    batch_size: int = 6
    folder: Path | None = None

    def __post_init__(self) -> None:
        require_range("explain.blocks", self.blocks, 1, 32)
        for name in ("least_drop", "least_block"):
            require(getattr(self, name) >= 0, f"explain.{name}", getattr(self, name), "0 or more")
        require(self.batch_size > 0, "explain.batch_size", self.batch_size, "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSettings:
    """How token shards are cut.

    Attributes:
        rows: inputs a shard covers; its codes have a row for each that succeeded.
    """

    rows: int = 4096

    def __post_init__(self) -> None:
        require(self.rows > 0, "shards.rows", self.rows, "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeSettings:
    """Root of ``chexmix tokenize``."""

    input: InputSettings = field(default_factory=InputSettings)
    shards: ShardSettings = field(default_factory=ShardSettings)
    ray: RaySettings = RaySettings()


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentSettings:
    """Which documents ``--documents`` writes.

    Attributes:
        kinds: ``sr`` the report as DICOM Basic Text SR; ``measurements`` the probabilities of findings as DICOM SR
            (needs ``chexmix[clinical]``); ``pdf`` report and film as Encapsulated PDF; ``picture`` what ``--picture``
            draws as Secondary Capture; ``fhir`` a FHIR R4B DiagnosticReport.
        dates: documents are dated as their ``study``, and a second run writes the same bytes; or as the ``run``, and
            each run's documents are new ones.
    """

    kinds: tuple[DocumentKind, ...] = ("sr",)
    dates: Literal["study", "run"] = "study"

    def __post_init__(self) -> None:
        require(len(self.kinds) > 0, "documents.kinds", list(self.kinds), "one kind at least")


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateReportSettings:
    """Root of ``chexmix generate-report``.

    Attributes:
        quantize: ``int8`` holds the decoder's matrices in 8 bits, on a CPU or a CUDA device: half the memory of
            bfloat16, faster, with slightly different numbers; ``int4`` in 4 bits, but for the head: smaller and faster
            again, less like it.
    """

    quantize: Quantize | None = None
    input: InputSettings = field(default_factory=InputSettings)
    decode: DecodeSettings = field(default_factory=DecodeSettings)
    explain: ExplainSettings = field(default_factory=ExplainSettings)
    documents: DocumentSettings = field(default_factory=DocumentSettings)
    ray: RaySettings = RaySettings()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewPageSettings:
    """Pictures of the page.

    Attributes:
        film_px: what the longer side of a film is reduced to; larger ones show more, and make the page larger.
        quality: of WebP, 1 to 100.
    """

    film_px: int = 512
    quality: int = 75

    def __post_init__(self) -> None:
        require_range("page.film_px", self.film_px, 64, 4096)
        require_range("page.quality", self.quality, 1, 100)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewSettings:
    """Root of ``chexmix review``."""

    input: InputSettings = field(default_factory=InputSettings)
    decode: DecodeSettings = field(default_factory=DecodeSettings)
    explain: ExplainSettings = field(default_factory=ExplainSettings)
    page: ReviewPageSettings = field(default_factory=ReviewPageSettings)
