"""Films to probabilities of findings, by a linear head or zero-shot, and to embeddings; also with tokens masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.errors import SettingsError, WeightsError
from chexmix_cli.core.text.disclaimer import UNVERIFIED
from chexmix_cli.library.films import Film
from chexmix_cli.library.jobs.job import Record

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from chexmix_cli.core.infer.classification.heads import Head
    from chexmix_cli.core.infer.classification.zero_shot import ZeroShot
    from chexmix_cli.core.infer.typicality import Typicality
    from chexmix_cli.core.settings.classification import ClassifySettings
    from chexmix_cli.library.opened import OpenModel

#: In every record with probabilities.
MARK = UNVERIFIED


@dataclass(frozen=True, slots=True)
class Findings:
    """What is known of a study: probabilities, embeddings, or both. Preliminary, unverified.

    Attributes:
        film: of the study.
        probabilities: of each finding, by name; empty where only embeddings were asked for.
        embeddings: layer to the mean hidden state of the study's first view, (D,) float32.
        details: the other fields of the record: ``scored_by``, ``val_auroc``, ``scored_images``, ``masked``.
        typicality: how like the train films the study's first view is; None where no probabilities were asked for,
            tokens are masked, or the weights do not say what is typical.
        head_notes: whether the head has seen few films of its kind.
    """

    film: Film
    probabilities: dict[str, float] = field(default_factory=dict)
    embeddings: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    details: Record = field(default_factory=dict)
    typicality: Typicality | None = None
    head_notes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Return the id of the study."""
        return self.film.id

    @property
    def notes(self) -> list[str]:
        """Return what reading the film left in doubt, and whether it is unlike what the model knows."""
        return [*self.film.notes, *([] if self.typicality is None else self.typicality.notes), *self.head_notes]

    def fields(self) -> Record:
        """Return the result fields of a ``chexmix classify`` record."""
        record: Record = {**self.film.fields, **({"notes": self.notes} if self.notes else {})}
        if self.typicality is not None:
            record["typicality"] = self.typicality.to_dict()
        if self.probabilities:
            record["probabilities"] = self.probabilities
        record |= {name: value for name, value in self.details.items() if name != "masked"}
        if self.embeddings:
            # Nine digits are a float32 exactly.
            record["embeddings"] = {
                str(layer): [float(f"{value:.9g}") for value in vector] for layer, vector in self.embeddings.items()
            }
        if "masked" in self.details:
            record["masked"] = self.details["masked"]
        return record | ({"mark": MARK} if self.probabilities else {})


class Classifier:
    """Reads findings or embeddings off films, with one model and one head.

    Args:
        model: in use.
        settings: views of a study, mask pattern, zero-shot sentences.
        head: file of a head; None is the one in the weights directory.
        layers: whose embeddings are given: none where empty. With ``head`` None, embeddings come alone.
        mask_ratio: share of the image's tokens that is masked.
        is_zero_shot: score sentences that state and deny findings, in place of a head.
        seed: of the masks.

    Raises:
        SettingsError: if the model has no such layer, or options exclude each other.
        WeightsError: if there is no head, it is of another model, or zero-shot finds no text tokenizer.
    """

    def __init__(
        self,
        model: OpenModel,
        settings: ClassifySettings,
        *,
        head: Path | None = None,
        layers: Sequence[int] = (),
        mask_ratio: float = 0.0,
        is_zero_shot: bool = False,
        seed: int = 0,
    ) -> None:
        if is_zero_shot and (head is not None or layers):
            raise SettingsError(
                "cannot be combined with --head or --embeddings", where="--zero-shot", expected="one of them"
            )
        if is_zero_shot and mask_ratio:
            raise SettingsError("cannot be combined with --mask-ratio", where="--zero-shot", expected="one of them")
        num_layers = model.weights.settings.decoder.num_layers
        self._layers = list(dict.fromkeys(layers))
        if any(layer > num_layers for layer in self._layers):
            raise SettingsError(f"is {max(self._layers)}", where="--layer", expected=f"0..{num_layers}")
        self.model, self._settings, self._mask_ratio, self._seed = model, settings, mask_ratio, seed
        is_headless = is_zero_shot or (bool(layers) and head is None)
        # Now, so that a wrong file stops a run before the first film.
        self._head = None if is_headless else _load_head(model, head)
        self._zero_shot = _load_zero_shot(model, settings) if is_zero_shot else None
        # Whether a film whose tokens are masked is unlike others is not known.
        is_judged = (self._head is not None or is_zero_shot) and not mask_ratio
        self._typical = model.typical if is_judged else None

    @property
    def origin(self) -> str | None:
        """Return what the head was trained and validated on, on one line; None without a head."""
        return None if self._head is None else self._head.origin

    def __call__(self, films: Sequence[Film]) -> list[Findings]:
        """Return what is known of each study of a batch."""
        import numpy as np

        views = [view for film in films for view in film.views]
        codes = self.model.codes_of(views)
        # A study's masks are drawn by its own id, for each of its views.
        ids = [film.id for film in films for _ in film.views]
        probability_BK, embedding_LBD, typicality_B = self._read(codes, ids)
        ends = np.cumsum([len(film.views) for film in films])
        results = []
        for film, end in zip(films, ends, strict=True):
            own = slice(end - len(film.views), end)
            probabilities = {} if probability_BK is None else self._pooled(probability_BK[own])
            # Of the first view, the one a study is known by.
            embeddings = {layer: vectors_BD[own.start] for layer, vectors_BD in embedding_LBD.items()}
            typicality = typicality_B[own.start] if typicality_B else None
            notes = () if self._head is None else tuple(self._head.notes(film.fields))
            results.append(Findings(film, probabilities, embeddings, self._details(len(film.views)), typicality, notes))
        return results

    def _read(
        self, codes: list[list[int]], ids: Sequence[str]
    ) -> tuple[NDArray[np.floating[Any]] | None, dict[int, NDArray[np.float32]], list[Typicality]]:
        """Return what is known of each image of a batch.

        Returns:
            The probabilities, (B, K), or None; the embeddings by layer, (B, D) each; how like train films the images
            are, or nothing.
        """
        import numpy as np

        from chexmix_cli.core.infer.embeddings import image_prompts, read_images
        from chexmix_cli.core.infer.typicality import codes_statistics
        from chexmix_cli.library.readings import FilmReadings

        decoder, vocabulary = self.model.decoder, self.model.weights.settings.vocabulary
        typical, prefixes = self._typical, self.model.prefixes
        if self._zero_shot is not None:
            # This first: it reads all films in one pass, and leaves them for the sentences.
            read = None if typical is None else codes_statistics(decoder, vocabulary, codes, prefixes=prefixes)
            found = np.stack([self._zero_shot.probabilities(image) for image in codes])
            return found, {}, [] if typical is None or read is None else typical.judge(read)
        is_masked_BP = self._masks(ids) if self._mask_ratio else None
        seen = FilmReadings(decoder, vocabulary, codes, head=self._head, typical=typical, embedded=self._layers)
        read_images(decoder, image_prompts(vocabulary, codes, is_masked_BP), seen.layers, seen.read, prefixes)
        embeddings = {layer: seen.embeddings[layer] for layer in self._layers}
        return seen.probability_BK, embeddings, seen.typicality_B

    def _masks(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        import numpy as np

        from chexmix_cli.core.infer.position_masks import hidden_positions, hiding_order

        grid_size = self.model.weights.settings.grid_size
        orders = [hiding_order(self._settings.mask.pattern, grid_size, seed=self._seed, key=name) for name in ids]
        return np.stack([hidden_positions(order, self._mask_ratio) for order in orders])

    def _pooled(self, probability_VK: NDArray[np.floating[Any]]) -> dict[str, float]:
        """Return the probabilities of a study from those of its views."""
        pool = "mean" if self._settings.study == "mean" else "max"
        values = getattr(probability_VK, pool)(axis=0)
        if self._zero_shot is not None:
            names: Sequence[str] = self._zero_shot.names
        else:
            names = () if self._head is None else self._head.labels
        return {name: float(value) for name, value in zip(names, values, strict=True)}

    def _details(self, num_views: int) -> Record:
        details: Record = {}
        if self._head is not None or self._zero_shot is not None:
            details["scored_by"] = "head" if self._zero_shot is None else "zero-shot"
            # Measured on whole images.
            if self._head is not None and self._head.validation and not self._mask_ratio:
                details["val_auroc"] = {name: known.auroc for name, known in self._head.validation.items()}
            if self._settings.study != "one":
                details["scored_images"] = num_views
        if self._mask_ratio:
            masked = {"ratio": self._mask_ratio, "pattern": self._settings.mask.pattern}
            details["masked"] = {**masked, "seed": self._seed, "hidden": "tokens"}
        return details


def _load_head(model: OpenModel, asked: Path | None) -> Head:
    from chexmix_cli.core.weights.files import HEAD_FILE

    if asked is None and model.head is not None:
        return model.head
    return model.load_head(asked or model.weights.path / HEAD_FILE)


def _load_zero_shot(model: OpenModel, settings: ClassifySettings) -> ZeroShot:
    from chexmix_cli.core.infer.classification.zero_shot import (
        ZeroShot,
        chosen_statements,
        own_statements,
        read_statements,
    )

    chosen = settings.zero_shot
    if model.tokenizer is None:
        raise WeightsError("has no text tokenizer", where=str(model.weights.path), expected="tokenizer.json")
    statements = own_statements() if chosen.statements is None else read_statements(chosen.statements)
    wanted = chosen.labels or (("nih",) if chosen.statements is None else tuple(statements))
    return ZeroShot(
        model.decoder,
        model.weights.settings.vocabulary,
        model.tokenizer,
        chosen_statements(statements, wanted),
        prefix=chosen.prefix,
        batch_size=chosen.batch_size,
        prefixes=model.prefixes,
    )
