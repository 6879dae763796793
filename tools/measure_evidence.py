"""Measure whether what a model points at lies in radiologists' boxes: one table.

    python tools/measure_evidence.py ../shared/data [--weights DIR] [--films N] [-o evidence.json]

NIH films with opacity boxes, or NIH's own boxes of pneumonia where there are no others (``radiographs`` and its
``expert_labels.jsonl``). Every method gives a map over the image's cells, made a little smooth; the larger, the more a
cell is pointed at:

- ``sentence``: what ``generate-report --explain`` draws: nats that a sentence loses with a block hidden;
- ``occlusion``: what the head's logit of the finding loses with the same block hidden;
- ``gradient``: the logit's gradient times what the mask token would change at a cell, to first order;
- ``head``: the head's own sum, by cell: weights times the cell's share of the state (no further pass);
- ``surprise``: how improbable a code is behind those before it, whatever the finding;
- ``boxes``: a linear probe of cell states fitted on the boxes of train films; what boxes could teach;
- ``prior``: the mean box map of train films, the same for every film; what any method has to beat.

Of each map: whether its peak lies in a box (``hit``), the IoU of its largest cells, as many as boxes take on average,
with the boxes (``iou``), and the share of pairs of a cell inside and one outside that it orders right (``auroc``);
means of films with 95 % intervals by patient, and of the difference from the prior. ``chance``: a random point hits.
Val films were seen by nothing here. Of train films the model may have read the findings; the prior and the probe are
fitted on other patients' boxes (five folds).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fit_typical import opened
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from chexmix_cli.core.evals.metrics.bootstrap import bootstrap, group_numbers, percentile_intervals
from chexmix_cli.core.files import write_json
from chexmix_cli.core.infer.classification.heads import Head
from chexmix_cli.core.infer.embeddings import image_embeddings
from chexmix_cli.core.infer.reports.engine import ReportFinish
from chexmix_cli.core.infer.reports.evidence import block_positions, find_evidence
from chexmix_cli.core.infer.reports.writer import WrittenReport
from chexmix_cli.core.infer.scoring import token_logprobs
from chexmix_cli.core.settings.inference import ExplainSettings
from chexmix_cli.core.weights.files import HEAD_FILE
from chexmix_cli.library.films import film_of_picture
from chexmix_cli.library.model import Model, load

_BOX_SIDE = 1024
_FOLDS, _RESAMPLES, _BATCH = 5, 1000, 6
#: The blur of maps, as a share of the side.
_SMOOTH = 1 / 16
#: Cells of a film that the probe is fitted on, of either kind.
_CELLS = 60
_FINDINGS = ("Lung Opacity", "Pneumonia")
Map = NDArray[np.float64]


@dataclass(slots=True)
class Film:
    """A film with boxes: ``is_boxed_YX`` says which cells have their middle in one."""

    split: str
    patient: str
    codes: list[int]
    is_boxed_YX: NDArray[np.bool_]
    maps: dict[str, Map] = field(default_factory=dict)
    states_PH: NDArray[np.float32] | None = None


def boxes_of(row: dict[str, Any]) -> list[Sequence[float]]:
    """Return the boxes of a film, (x, y, width, height) of 1024."""
    named = row.get("nih_bbox_xywh_1024") or []
    own = [list(map(float, values)) for name, *values in named if name in ("Pneumonia", "Infiltrate")]
    opacities: list[Sequence[float]] = row.get("opacity_boxes_xywh_1024") or []
    return opacities or [*own]


def boxed_cells(boxes: Sequence[Sequence[float]], side: int) -> NDArray[np.bool_]:
    """Return which cells have their middle in a box, (Y, X)."""
    middle = (np.arange(side) + 0.5) * _BOX_SIDE / side
    found = np.zeros((side, side), bool)
    for x, y, width, height in boxes:
        found |= np.outer((middle >= y) & (middle < y + height), (middle >= x) & (middle < x + width))
    return found


def read_films(model: Model, data: Path, most: int | None) -> list[Film]:
    """Return the films with boxes, val first, at most so many of a split."""
    folder, side = data / "radiographs", model.weights.settings.grid_size
    lines = {name: (folder / name).read_text().split("\n") for name in ("index.jsonl", "expert_labels.jsonl")}
    patients = {row["file"]: row["patient"] for row in map(json.loads, filter(None, lines["index.jsonl"]))}
    rows = [row for row in map(json.loads, filter(None, lines["expert_labels.jsonl"])) if boxes_of(row)]
    found = []
    for split in ("val", "train"):
        for row in [row for row in rows if row["split"] == split][:most]:
            pixels = film_of_picture(opened(folder / row["file"]), model.preset).pixels
            assert pixels is not None
            codes = model.images.encode(pixels[None])[0].tolist()
            found.append(Film(split, patients[row["file"]], codes, boxed_cells(boxes_of(row), side)))
    return found


class Pointer:
    """Makes the maps of films, with one model, head and finding."""

    def __init__(self, model: Model, head: Head, finding: str, sentence: str, blocks: int) -> None:
        self._model, self._head, self._blocks = model, head, blocks
        self._vocabulary, self._decoder = model.weights.settings.vocabulary, model.decoder
        self._side = model.weights.settings.grid_size
        place = head.labels.index(finding)
        self._weight_D = (head.weight_KD[place] / head.scale_D).astype(np.float64)
        self._sentence = sentence

    def point(self, film: Film) -> None:
        """Add the maps and the cells' states of a film."""
        codes, image = film.codes, slice(1, 1 + len(film.codes))
        if self._blocks:
            film.maps["sentence"] = self._blocks_map(self._sentence_drops(codes))
            film.maps["occlusion"] = self._blocks_map(self._logit_drops(codes))
        gradient_PH, change_PH, states_PH = self._gradient(codes, image)
        film.maps["gradient"] = -(gradient_PH * change_PH).sum(axis=1).reshape(self._side, -1)
        film.states_PH = states_PH
        film.maps["head"] = self._cell_sums(states_PH)
        sequence = self._vocabulary.image_sequence(codes)
        logprob_T = token_logprobs(self._decoder, [sequence], pad=self._vocabulary.pad)[0]
        film.maps["surprise"] = -logprob_T[: len(codes)].double().numpy().reshape(self._side, -1)

    def _blocks_map(self, drop_B: Sequence[float]) -> Map:
        found = np.zeros(self._side**2)
        for drop, positions in zip(drop_B, block_positions(self._side**2, self._blocks), strict=True):
            found[positions] = drop
        return found.reshape(self._side, -1)

    def _sentence_drops(self, codes: list[int]) -> Sequence[float]:
        tokenizer = self._model.tokenizer
        assert tokenizer is not None
        ids = tokenizer.encode(self._sentence)
        report = WrittenReport(
            token_ids=ids,
            report_ids=ids,
            text=self._sentence,
            num_not_text=0,
            finish=ReportFinish.END,
            logprob=0.0,
            logprobs=[0.0] * len(ids),
            comparisons=[],
        )
        settings = ExplainSettings(blocks=self._blocks, batch_size=_BATCH)
        found = find_evidence(self._decoder, tokenizer, codes, report, settings)
        drops: list[float] = found[-1].drop_blocks.ravel().tolist()
        return drops

    def _logit_drops(self, codes: list[int]) -> Sequence[float]:
        blocks = block_positions(len(codes), self._blocks)
        is_masked_VP = np.zeros((len(blocks) + 1, len(codes)), bool)
        for number, positions in enumerate(blocks, start=1):
            is_masked_VP[number, positions] = True
        logits = []
        for start in range(0, len(is_masked_VP), _BATCH):
            masks = is_masked_VP[start : start + _BATCH]
            state_VLD = image_embeddings(
                self._decoder,
                self._vocabulary,
                [codes] * len(masks),
                layers=[self._head.layer],
                grid=self._head.grid,
                is_masked_BP=masks,
            )
            logits.append(state_VLD[:, 0].double().numpy() @ self._weight_D)
        logit_V = np.concatenate(logits)
        drops: list[float] = (logit_V[0] - logit_V[1:]).tolist()
        return drops

    def _gradient(self, codes: list[int], image: slice) -> tuple[Map, Map, NDArray[np.float32]]:
        """Return the logit's gradient by the codes' embeddings, what masking adds to those, and the states: (P, H)."""
        sequence_1T = torch.tensor([self._vocabulary.image_sequence(codes)])
        kept: list[Tensor] = []

        def keep(_: object, __: object, output: Tensor) -> Tensor:
            kept.append(output.detach().requires_grad_())
            return kept[0]

        handle = self._decoder.embedding.register_forward_hook(keep)
        try:
            with torch.enable_grad():
                state_1TH = next(
                    state
                    for layer, state in enumerate(self._decoder.layer_states(sequence_1T))
                    if layer == self._head.layer
                )
                weight_PH = torch.from_numpy(self._weights_by_cell()).float()
                logit = (state_1TH[0, image].float() * weight_PH).sum()
                (gradient_1TH,) = torch.autograd.grad(logit, kept)
        finally:
            handle.remove()
        mask_H = self._decoder.embedding.weight[self._vocabulary.mask].detach()
        change_PH = (mask_H - kept[0][0, image].detach()).double().numpy()
        return gradient_1TH[0, image].double().numpy(), change_PH, state_1TH[0, image].detach().float().numpy()

    def _weights_by_cell(self) -> Map:
        """Return the weights that a cell's state has in the logit, (P, H)."""
        grid, side = self._head.grid, self._side
        square_YX = np.add.outer(np.arange(side) * grid // side * grid, np.arange(side) * grid // side)
        found: Map = self._weight_D.reshape(grid * grid, -1)[square_YX.ravel()] / (side // grid) ** 2
        return found

    def _cell_sums(self, states_PH: NDArray[np.float32]) -> Map:
        """Return what each cell adds to the logit, over what the head's train films add there on average."""
        grid, side = self._head.grid, self._side
        weight_PH = self._weights_by_cell()
        square_YX = np.add.outer(np.arange(side) * grid // side * grid, np.arange(side) * grid // side)
        mean_PH = self._head.mean_D.astype(np.float64).reshape(grid * grid, -1)[square_YX.ravel()]
        sum_P: Map = ((states_PH - mean_PH) * weight_PH).sum(axis=1)
        return sum_P.reshape(side, -1)


def fitted_maps(films: Sequence[Film]) -> None:
    """Add the maps that boxes of train films teach: to val films of all, to train films of other patients'."""
    train = [film for film in films if film.split == "train"]
    groups = group_numbers([film.patient for film in train])
    folds = [([place for place, film in enumerate(films) if film.split == "val"], list(range(len(train))))]
    offset = len(films) - len(train)
    for fitted, scored in GroupKFold(_FOLDS).split(train, groups=groups):
        folds.append(([offset + int(place) for place in scored], fitted.tolist()))
    for scored, fitted in folds:
        known = [train[place] for place in fitted]
        prior_YX = np.mean([film.is_boxed_YX for film in known], axis=0)
        predict = cell_probe(known, prior_YX)
        for place in scored:
            films[place].maps["prior"] = prior_YX
            films[place].maps["boxes"] = predict(films[place])


def cell_features(film: Film, prior_YX: Map) -> NDArray[np.float32]:
    """Return the states of a film's cells and how often boxes lie there, (P, H + 1)."""
    assert film.states_PH is not None
    odds_P1 = np.log((prior_YX + 0.02) / (1.02 - prior_YX)).reshape(-1, 1)
    return np.concatenate([film.states_PH, odds_P1], axis=1).astype(np.float32)


def cell_probe(films: Sequence[Film], prior_YX: Map) -> Callable[[Film], Map]:
    """Return a linear probe of cells inside boxes, fitted on some cells of each film."""
    rng = np.random.default_rng(0)
    features, labels = [], []
    for film in films:
        is_boxed_P = film.is_boxed_YX.ravel()
        for kind in (True, False):
            places = np.flatnonzero(is_boxed_P == kind)
            places = rng.choice(places, min(_CELLS, len(places)), replace=False)
            features.append(cell_features(film, prior_YX)[places])
            labels += [kind] * len(places)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=300))
    probe.fit(np.concatenate(features), labels)
    return lambda film: probe.decision_function(cell_features(film, prior_YX)).reshape(film.is_boxed_YX.shape)


def score(map_YX: Map, is_boxed_YX: NDArray[np.bool_], num_cells: int) -> tuple[float, float, float]:
    """Return hit, IoU and AUROC of a map."""
    smooth_YX = ndimage.gaussian_filter(map_YX, _SMOOTH * len(map_YX), mode="nearest")
    hit = float(is_boxed_YX.ravel()[smooth_YX.argmax()])
    is_chosen_YX = smooth_YX >= np.sort(smooth_YX.ravel())[-num_cells]
    iou = (is_chosen_YX & is_boxed_YX).sum() / (is_chosen_YX | is_boxed_YX).sum()
    return hit, float(iou), float(roc_auc_score(is_boxed_YX.ravel(), smooth_YX.ravel()))


def table(films: Sequence[Film], split: str) -> list[dict[str, Any]]:
    """Return the numbers of each method on a split, and print them."""
    own = [film for film in films if film.split == split]
    share = float(np.mean([film.is_boxed_YX.mean() for film in films if film.split == "train"]))
    num_cells = max(1, round(share * own[0].is_boxed_YX.size))
    groups = group_numbers([film.patient for film in own])
    names = list(own[0].maps)
    value_NMS = np.array([[score(film.maps[name], film.is_boxed_YX, num_cells) for name in names] for film in own])
    area = float(np.mean([film.is_boxed_YX.mean() for film in own]))
    print(f"\n{split}: {len(own)} films of {groups.max() + 1} patients; a random point hits {area:.3f}\n")
    print("| method | hit | IoU | AUROC of cells | hit over prior | IoU over prior |\n|---|---|---|---|---|---|")
    rows, prior = [], names.index("prior")
    drawn_RMS = bootstrap(
        groups, lambda places: value_NMS[places].mean(axis=0).ravel(), resamples=_RESAMPLES, seed=0
    ).reshape(_RESAMPLES, len(names), 3)
    for number, name in enumerate(names):
        mean_S = value_NMS[:, number].mean(axis=0)
        bounds = percentile_intervals(drawn_RMS[:, number])
        over = percentile_intervals(drawn_RMS[:, number] - drawn_RMS[:, prior])
        row: dict[str, Any] = {"method": name, "split": split, "films": len(own), "chance": area}
        for place, metric in enumerate(("hit", "iou", "auroc")):
            difference = float(mean_S[place] - value_NMS[:, prior, place].mean())
            row[metric] = {"value": float(mean_S[place]), "interval": bounds[place]}
            row[metric] |= {"over_prior": difference, "over_prior_interval": over[place]}
        rows.append(row)
        cells = [f"{row[metric]['value']:.3f} {shown(row[metric]['interval'])}" for metric in ("hit", "iou", "auroc")]
        cells += [
            f"{row[metric]['over_prior']:+.3f} {shown(row[metric]['over_prior_interval'])}" for metric in ("hit", "iou")
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return rows


def shown(interval: tuple[float, float] | None) -> str:
    """Return an interval in brackets."""
    return "" if interval is None else f"({interval[0]:.3f} to {interval[1]:.3f})"


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", help="default: the embedded model")
    parser.add_argument("--head", type=Path, help=f"default: {HEAD_FILE} of the weights")
    parser.add_argument("--finding", help="default: Lung Opacity, or Pneumonia where the head has none")
    parser.add_argument("--sentence", default="FINDINGS: There is a lung opacity.")
    parser.add_argument("--blocks", type=int, default=4, help="along a side, hidden one by one; 0 hides none")
    parser.add_argument("--films", type=int, help="most films of a split; default: all")
    parser.add_argument("-o", "--output", type=Path, help="write the figures, as JSON")
    options = parser.parse_args(arguments)
    model = load(options.weights, device="cpu", dtype="float32")
    head = Head.load(options.head or model.weights.path / HEAD_FILE)
    head.require_model(model.weights.fingerprint, "--head")
    finding = options.finding or next(name for name in _FINDINGS if name in head.labels)
    films = read_films(model, options.data, options.films)
    pointer = Pointer(model, head, finding, options.sentence, options.blocks)
    for number, film in enumerate(films, start=1):
        pointer.point(film)
        if number % 10 == 0 or number == len(films):
            print(f"{number} of {len(films)} films", file=sys.stderr, flush=True)
    fitted_maps(films)
    rows = [row for split in ("val", "train") for row in table(films, split)]
    if options.output is not None:
        facts = {"model": model.weights.name, "finding": finding, "sentence": options.sentence, "head": head.features}
        write_json(options.output, {**facts, "blocks": options.blocks, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
