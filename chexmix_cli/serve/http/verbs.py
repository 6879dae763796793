"""What can be asked for, each with what a batch of it must share: films in, results out, by the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from chexmix_cli.core.errors import WeightsError
from chexmix_cli.core.settings.classification import ClassifySettings
from chexmix_cli.core.settings.inference import DecodeSettings
from chexmix_cli.core.settings.inpainting import InpaintSettings
from chexmix_cli.core.settings.serving import ServeHttpSettings
from chexmix_cli.library.films import Film

if TYPE_CHECKING:
    from chexmix_cli.core.infer.inpainting.masked_film import BoxMask, PatternMask
    from chexmix_cli.library.classification import Classifier
    from chexmix_cli.library.opened import OpenModel
    from chexmix_cli.library.reports import Reporter


@dataclass(frozen=True)
class Served:
    """A model, and what its verbs keep from request to request.

    Attributes:
        model: opened.
        settings: of the server.
        seed: of everything random, where a request names none.
    """

    model: OpenModel
    settings: ServeHttpSettings
    seed: int

    @cached_property
    def reporter(self) -> Reporter:
        """Return what writes reports under the server's own settings."""
        from chexmix_cli.library.reports import Reporter

        return Reporter(self.model, self.settings.decode, None, seed=self.seed)

    @cached_property
    def classifier(self) -> Classifier | None:
        """Return what reads findings, or None where the weights have no head."""
        from chexmix_cli.core.weights.files import HEAD_FILE
        from chexmix_cli.library.classification import Classifier

        if not (self.model.weights.path / HEAD_FILE).is_file():
            return None
        return Classifier(self.model, ClassifySettings(input=self.model.input), seed=self.seed)

    def load(self) -> None:
        """Read everything from the disk and write one report, so that no request waits for what is done once."""
        _ = self.model.images, self.model.decoder, self.classifier
        self.reporter([Film("", None, [0] * self.model.weights.settings.vocabulary.tokens_per_image)])


class Request(Protocol):
    """One film of a batch."""

    @property
    def film(self) -> Film:
        """Return the film."""

    @property
    def seed(self) -> int:
        """Return the seed of what is sampled for it."""

    def give_text(self, piece: str) -> None:
        """Take the next piece of a report's text."""


class Verb(Protocol):
    """What is done with films. Equal ones share a batch."""

    @property
    def name(self) -> str:
        """Return the word for logs and metrics."""

    def __call__(self, served: Served, requests: Sequence[Request]) -> Sequence[Any]:
        """Return a result for each film, in order."""


@dataclass(frozen=True)
class Report:
    """Draft reports."""

    decode: DecodeSettings
    name: str = "report"

    def __call__(self, served: Served, requests: Sequence[Request]) -> Sequence[Any]:
        """Return a :class:`StudyReport` for each film."""

        def give(row: int, piece: str) -> None:
            requests[row].give_text(piece)

        on_text: Callable[[int, str], None] = give
        films, seeds = [one.film for one in requests], [one.seed for one in requests]
        return served.reporter.under(self.decode)(films, on_text=on_text, seeds=seeds)


@dataclass(frozen=True)
class Tokenize:
    """Image codes."""

    name: str = "tokenize"

    def __call__(self, served: Served, requests: Sequence[Request]) -> Sequence[Any]:
        """Return the fields of a record for each film."""
        return [found.fields() for found in served.model.encode([one.film for one in requests])]


@dataclass(frozen=True)
class Classify:
    """Probabilities of findings."""

    name: str = "classify"

    def __call__(self, served: Served, requests: Sequence[Request]) -> Sequence[Any]:
        """Return the fields of a record for each film."""
        if served.classifier is None:
            raise WeightsError("has no head of findings", where=served.model.weights.name)
        return [found.fields() for found in served.classifier([one.film for one in requests])]


@dataclass(frozen=True)
class Embed:
    """Embeddings of layers."""

    layers: tuple[int, ...]
    name: str = "embed"

    def __call__(self, served: Served, requests: Sequence[Request]) -> Sequence[Any]:
        """Return the fields of a record for each film."""
        from chexmix_cli.library.classification import Classifier

        classifier = Classifier(
            served.model, ClassifySettings(input=served.model.input), layers=self.layers, seed=served.seed
        )
        return [found.fields() for found in classifier([one.film for one in requests])]


@dataclass(frozen=True)
class Inpaint:
    """Films with a hidden part filled in."""

    mask: BoxMask | PatternMask
    seed: int
    name: str = "inpaint"

    def __call__(self, served: Served, requests: Sequence[Request]) -> Sequence[Any]:
        """Return the fields of a record for each film, with the picture as a ``data:`` URL."""
        from chexmix_cli.core.present.pages.render import data_url
        from chexmix_cli.library.inpainting import Inpainter, png

        own = served.settings
        settings = InpaintSettings(input=own.input, region=own.region, fill=own.fill, picture=own.picture)
        inpainter = Inpainter(served.model, settings, self.mask, seed=self.seed)
        filled = inpainter([one.film for one in requests])
        return [{**one.fields(), "picture": data_url(png(one.picture_YX))} for one in filled]
