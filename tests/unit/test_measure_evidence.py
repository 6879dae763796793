"""``tools/measure_evidence.py``: boxes to cells, what a map scores, and a head's logit cell by cell."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import measure_evidence as tool  # noqa: E402

from chexmix_cli.core.infer.embeddings import image_embeddings  # noqa: E402
from chexmix_cli.library.model import load  # noqa: E402
from tests.unit.infer.classification.test_heads import make_head  # noqa: E402


def test_a_cell_is_boxed_if_its_middle_is():
    found = tool.boxed_cells([(256, 0, 300, 100), (900, 900, 100, 100)], 4)
    assert found.tolist() == [[False] * 4] * 3 + [[False] * 4]
    found = tool.boxed_cells([(256, 100, 300, 300), (800, 900, 150, 124)], 4)
    assert np.argwhere(found).tolist() == [[0, 1], [1, 1]]


def test_boxes_of_other_findings_do_not_count():
    row = {"nih_bbox_xywh_1024": [["Mass", "1", "2", "3", "4"], ["Pneumonia", "5", "6.5", "7", "8"]]}
    assert tool.boxes_of(row) == [[5.0, 6.5, 7.0, 8.0]]
    assert tool.boxes_of({**row, "opacity_boxes_xywh_1024": [[1.0, 2.0, 3.0, 4.0]]}) == [[1.0, 2.0, 3.0, 4.0]]


def test_a_perfect_map_scores_one_and_its_opposite_nothing():
    is_boxed_YX = np.zeros((16, 16), bool)
    is_boxed_YX[4:9, 3:8] = True
    assert tool.score(is_boxed_YX.astype(float), is_boxed_YX, 25)[0] == 1
    assert tool.score(is_boxed_YX.astype(float), is_boxed_YX, 25)[1] > 0.7
    hit, iou, auroc = tool.score(-is_boxed_YX.astype(float), is_boxed_YX, 25)
    assert (hit, iou) == (0, 0)
    assert auroc < 0.05


@pytest.mark.parametrize("grid", [1, 2])
def test_the_cells_of_a_head_sum_up_to_its_logit(debug_weights, grid):
    model = load(debug_weights, device="cpu", dtype="float32")
    settings = model.weights.settings
    head = make_head(2, grid**2 * settings.decoder.hidden_size, labels=("Edema", "Mass"), layer=1, grid=grid)
    pointer = tool.Pointer(model, head, "Mass", "There is a mass.", 2)
    codes = torch.randint(settings.vocabulary.num_codes, (settings.vocabulary.tokens_per_image,)).tolist()
    film = tool.Film("val", "p", codes, np.zeros((settings.grid_size,) * 2, bool))
    pointer.point(film)
    state_1LD = image_embeddings(model.decoder, settings.vocabulary, [codes], layers=[1], grid=grid)
    logit = head.logits(state_1LD[:, 0].numpy())[0, 1] - head.bias_K[1]
    assert film.maps["head"].sum() == pytest.approx(logit, rel=1e-3)
    assert set(film.maps) == {"sentence", "occlusion", "gradient", "head", "surprise"}
    assert all(values.shape == film.is_boxed_YX.shape and values.std() > 0 for values in film.maps.values())
