"""``chexmix classify``: radiographs, or their codes, to probabilities of findings or embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexmix_cli.commands.records.streams import Record, check_arguments
from chexmix_cli.commands.shared import options
from chexmix_cli.core.errors import SettingsError, WeightsError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chexmix_cli.commands.records.film_jobs import Film
    from chexmix_cli.commands.shared.model import OpenModel
    from chexmix_cli.core.infer.classification.heads import Head
    from chexmix_cli.core.infer.classification.zero_shot import ZeroShot
    from chexmix_cli.core.models.decoder import Decoder
    from chexmix_cli.core.settings.classification import ClassifySettings

#: In every record with probabilities.
MARK = "preliminary, unverified; not for clinical use"
#: Findings named on a terminal, the most probable ones.
_MOST_SHOWN = 5

HeadFile = Annotated[
    Path | None, typer.Option("--head", metavar="FILE", help="Head to use. Default: head.safetensors of the weights.")
]
Embeddings = Annotated[
    bool, typer.Option("--embeddings", help="Give embeddings instead; with --head, beside probabilities.")
]
Layers = Annotated[
    list[int] | None,
    typer.Option("--layer", metavar="L", min=0, help="Layer of the embeddings; may be repeated. Default: all."),
]
Ratio = Annotated[
    float, typer.Option("--mask-ratio", metavar="R", min=0, max=1, help="Mask this share of the image's tokens.")
]
ZeroShotFlag = Annotated[
    bool, typer.Option("--zero-shot", help="Without a head: score sentences that state findings, and that deny them.")
]


def classify(
    inputs: options.Inputs = None,
    head: HeadFile = None,
    embeddings: Embeddings = False,
    layer: Layers = None,
    mask_ratio: Ratio = 0.0,
    zero_shot: ZeroShotFlag = False,
    preset: options.Preset = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    seed: options.Seed = 0,
    config: options.Config = None,
    assignments: options.Assignments = None,
    show_config: options.ShowConfig = False,
    is_json: options.Json = False,
    fail_fast: options.FailFast = False,
    provenance: options.Provenance = False,
    keep_uids: options.KeepUids = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Give the probability of each finding in each chest radiograph study, or embeddings.

    Inputs are DICOM or image files, folders, globs or zip archives; or, with -, paths, manifest lines or the records of
    `chexmix tokenize` on stdin. A head is made by `chexmix finetune --task classify --method probe`.

    Examples:

        chexmix classify study/ --weights runs/probe

        chexmix tokenize studies/ | chexmix classify - --embeddings --layer 4 > embeddings.jsonl
    """
    from chexmix_cli.core.settings.classification import ClassifySettings

    flags = {} if preset is None else {"input": {"preset": preset}}
    resolved = options.resolve_settings(ClassifySettings, config, assignments, flags)
    if show_config:
        typer.echo(resolved.to_json())
        return 0
    asked = Asked(head=head, embeddings=embeddings, layers=layer, mask_ratio=mask_ratio, zero_shot=zero_shot)
    asked.check()
    run = options.RunOptions(
        weights=weights,
        device=device,
        dtype=dtype,
        seed=seed,
        is_json=is_json,
        fail_fast=fail_fast,
        provenance=provenance,
        keep_uids=keep_uids,
        console=options.make_console(quiet, verbose),
    )
    return _run(check_arguments(inputs), run, resolved.settings, asked)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the flags ask for."""

    head: Path | None
    embeddings: bool
    layers: list[int] | None
    mask_ratio: float
    zero_shot: bool

    def check(self) -> None:
        """Refuse what does not go together."""
        if self.layers and not self.embeddings:
            raise SettingsError("is given without --embeddings", where="--layer", expected="both; a head has its layer")
        if self.zero_shot and (self.head is not None or self.embeddings):
            raise SettingsError("stands beside --head or --embeddings", where="--zero-shot", expected="one of them")
        if self.zero_shot and self.mask_ratio:
            raise SettingsError("stands beside --mask-ratio", where="--zero-shot", expected="one of them")


def _run(inputs: list[str], run: options.RunOptions, settings: ClassifySettings, asked: Asked) -> int:
    from chexmix_cli.commands.records.film_jobs import film_jobs
    from chexmix_cli.commands.records.runner import Loop
    from chexmix_cli.commands.records.streams import Writer
    from chexmix_cli.commands.shared.model import open_model

    model = open_model(run, settings.input, needs_decoder=True)
    writer = Writer(run.is_json)
    classifier = _Classifier(model, settings, asked)
    if writer.is_text:
        run.console.note(MARK)
    loop = Loop(
        process=classifier.process,
        describe=classifier.describe,
        batch_size=settings.input.batch_size,
        fail_fast=run.fail_fast,
        writer=writer,
        console=run.console,
        workers=settings.input.workers,
    )
    jobs = film_jobs(inputs, model, with_others=settings.study != "one")
    return loop.run(jobs, "studies").exit_code


class _Classifier:
    """Turns films into records of probabilities or embeddings."""

    def __init__(self, model: OpenModel, settings: ClassifySettings, asked: Asked) -> None:
        self._model, self._settings, self._asked = model, settings, asked
        num_layers = model.weights.settings.decoder.num_layers
        self._layers = list(dict.fromkeys(asked.layers or range(num_layers + 1))) if asked.embeddings else []
        if any(layer > num_layers for layer in self._layers):
            raise SettingsError(f"is {max(self._layers)}", where="--layer", expected=f"0..{num_layers}")
        self._head = self._load_head()
        # Now, so that a wrong file stops the command before the first record.
        self._zero_shot = self._load_zero_shot() if asked.zero_shot else None

    @cached_property
    def _decoder(self) -> Decoder:
        return self._model.weights.load_decoder(self._model.device, self._model.dtype)

    def process(self, items: list[tuple[str, Film]]) -> list[Record]:
        """Return the result fields of a batch."""
        import numpy as np

        from chexmix_cli.commands.records.film_jobs import encode_films

        films = [view for _, film in items for view in film.views]
        codes = encode_films(films, self._model)
        owner = np.repeat(np.arange(len(items)), [len(film.views) for _, film in items])
        found = self._read(codes, [items[place][0] for place in owner])
        records = []
        for place, (_, film) in enumerate(items):
            views = np.flatnonzero(owner == place)
            records.append({**film.fields, **self._record(found, views), **self._model.provenance()})
        return records

    def describe(self, record: Record) -> str:
        """Return a record in one paragraph, for a terminal."""
        lines = [f"{record['id']} ({record.get('view') or 'unknown view'})"]
        if "probabilities" in record:
            ordered = sorted(record["probabilities"].items(), key=lambda pair: -pair[1])
            known = record.get("validation_auroc", {})
            for name, value in ordered[:_MOST_SHOWN]:
                auroc = known.get(name)
                lines.append(
                    f"    {value:.3f}  {name}" + ("" if auroc is None else f" (AUROC in validation {auroc:.3f})")
                )
            if len(ordered) > _MOST_SHOWN:
                lines.append(f"    ({len(ordered) - _MOST_SHOWN} more: --json)")
        if "embeddings" in record:
            size = len(next(iter(record["embeddings"].values())))
            lines.append(f"    embeddings of {size} numbers, layers {', '.join(record['embeddings'])} (--json)")
        return "\n".join([*lines, *(f"    note: {note}" for note in record.get("notes", []))])

    def _read(self, codes: list[list[int]], ids: Sequence[str]) -> dict[str, NDArray[np.floating[Any]]]:
        """Return what is known of each image: ``probabilities`` (B, K), and its embeddings by layer, (B, D) each."""
        import numpy as np

        from chexmix_cli.core.infer.embeddings import image_embeddings

        if self._zero_shot is not None:
            return {"probabilities": np.stack([self._zero_shot.probabilities(image) for image in codes])}
        is_masked_BP = self._masks(ids) if self._asked.mask_ratio else None

        def embedded(layers: list[int], grid: int) -> NDArray[np.float32]:
            vocabulary = self._model.weights.settings.vocabulary
            found = image_embeddings(
                self._decoder, vocabulary, codes, layers=layers, grid=grid, is_masked_BP=is_masked_BP
            )
            return found.numpy()

        found: dict[str, NDArray[np.floating[Any]]] = {}
        if self._layers:
            states_BLD = embedded(self._layers, 1)
            found = {str(layer): states_BLD[:, place] for place, layer in enumerate(self._layers)}
        if self._head is not None:
            found["probabilities"] = self._head.probabilities(embedded([self._head.layer], self._head.grid)[:, 0])
        return found

    def _masks(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        import numpy as np

        from chexmix_cli.core.infer.position_masks import hidden_positions, hiding_order

        grid_size = self._model.weights.settings.grid_size
        pattern, seed = self._settings.mask.pattern, self._model.options.seed
        orders = [hiding_order(pattern, grid_size, seed=seed, key=name) for name in ids]
        return np.stack([hidden_positions(order, self._asked.mask_ratio) for order in orders])

    def _record(self, found: dict[str, NDArray[np.floating[Any]]], views: NDArray[np.intp]) -> Record:
        record: Record = {}
        if "probabilities" in found:
            pool = "mean" if self._settings.study == "mean" else "max"
            names = self._zero_shot.names if self._zero_shot is not None else self._labels
            values = getattr(found["probabilities"][views], pool)(axis=0)
            record["probabilities"] = {name: float(value) for name, value in zip(names, values, strict=True)}
            record["scored_by"] = "zero-shot" if self._zero_shot is not None else "head"
            # Measured on whole images.
            if self._head is not None and self._head.validation and not self._asked.mask_ratio:
                record["validation_auroc"] = {name: known.auroc for name, known in self._head.validation.items()}
            if self._settings.study != "one":
                record["scored_images"] = len(views)
        if self._layers:
            # Of the first view, the one a study is known by; nine digits are a float32 exactly.
            record["embeddings"] = {
                str(layer): [float(f"{value:.9g}") for value in found[str(layer)][views[0]]] for layer in self._layers
            }
        if self._asked.mask_ratio:
            masked = {"ratio": self._asked.mask_ratio, "pattern": self._settings.mask.pattern}
            record["masked"] = {**masked, "seed": self._model.options.seed, "hidden": "tokens"}
        return record | ({"mark": MARK} if "probabilities" in found else {})

    @property
    def _labels(self) -> tuple[str, ...]:
        return () if self._head is None else self._head.labels

    def _load_head(self) -> Head | None:
        from chexmix_cli.core.infer.classification.heads import Head
        from chexmix_cli.core.weights.files import HEAD_FILE

        asked, weights = self._asked, self._model.weights
        if asked.zero_shot or (asked.embeddings and asked.head is None):
            return None
        path = asked.head or weights.path / HEAD_FILE
        head = Head.load(path)
        head.require_model(weights.fingerprint, str(path))
        return head

    def _load_zero_shot(self) -> ZeroShot:
        from chexmix_cli.core.infer.classification.zero_shot import (
            ZeroShot,
            chosen_statements,
            own_statements,
            read_statements,
        )

        settings, weights = self._settings.zero_shot, self._model.weights
        tokenizer = weights.load_text_tokenizer()
        if tokenizer is None:
            raise WeightsError("has no text tokenizer", where=str(weights.path), expected="tokenizer.json")
        statements = own_statements() if settings.statements is None else read_statements(settings.statements)
        wanted = settings.labels or (("nih",) if settings.statements is None else tuple(statements))
        return ZeroShot(
            self._decoder,
            weights.settings.vocabulary,
            tokenizer,
            chosen_statements(statements, wanted),
            prefix=settings.prefix,
            batch_size=settings.batch_size,
        )
