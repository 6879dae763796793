"""RUN/losses.png."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from chexmix_cli.core.train.reporting import curves

LOSSES = [
    {"step": 1, "loss": 3.0, "loss_text": 4.0, "grad_norm": 9.0},
    {"step": 2, "loss": 2.0, "loss_text": 3.0},
    {"step": 2, "val_loss": 2.5, "val_loss_text": 3.5},
]


@pytest.fixture
def drawn(monkeypatch):
    """Return the curves that are drawn: their titles, and in each its lines."""
    found = []
    monkeypatch.setattr(curves, "panels_png", lambda plots: found.extend(plots) or b"png")
    return found


def lines(drawn):
    return {curve.title: {series.name: (series.x, series.y) for series in curve.series} for curve in drawn}


def test_one_quantity_has_one_axis_for_both_sides(drawn, tmp_path):
    curves.write_curves(LOSSES, tmp_path / "losses.png", metric="val_loss", best_step=2)
    assert (tmp_path / "losses.png").read_bytes() == b"png"
    assert lines(drawn) == {
        "loss": {"train": ([1, 2], [3.0, 2.0]), "validation": ([2], [2.5]), "best, step 2": ([2], [2.5])},
        "loss_text": {"train": ([1, 2], [4.0, 3.0]), "validation": ([2], [3.5])},
    }


def test_the_tasks_metric_stands_beside_the_loss(drawn, tmp_path):
    records = [{"step": 1, "loss": 0.7}, {"step": 1, "val_auroc": 0.8, "val_loss": 0.6}, {"step": 2, "loss": 0.5}]
    curves.write_curves(records, tmp_path / "losses.png", metric="val_auroc", best_step=1)
    assert lines(drawn) == {
        "loss": {"train": ([1, 2], [0.7, 0.5]), "validation": ([1], [0.6])},
        "auroc": {"validation": ([1], [0.8]), "best, step 1": ([1], [0.8])},
    }


def test_what_an_image_tokenizer_minimises_is_not_what_it_is_judged_by(drawn, tmp_path):
    records = [{"step": 1, "loss": 0.9, "l1": 0.3, "l2": 0.2}, {"step": 1, "val_l2": 0.1, "val_psnr": 20.0}]
    curves.write_curves(records, tmp_path / "losses.png", metric="val_l2")
    assert lines(drawn) == {"loss": {"train": ([1], [0.9])}, "l2": {"train": ([1], [0.2]), "validation": ([1], [0.1])}}


def test_a_part_that_is_the_whole_is_drawn_once(drawn, tmp_path):
    """Of a report's loss: all of it is text."""
    curves.write_curves([{"step": 1, "loss": 1.0, "loss_text": 1.0}], tmp_path / "losses.png", metric="val_loss")
    assert list(lines(drawn)) == ["loss"]


def test_the_picture_is_one_row_of_two(tmp_path):
    path = tmp_path / "losses.png"
    curves.write_curves(LOSSES, path, metric="val_loss", best_step=2)
    first = path.read_bytes()
    width, height = Image.open(io.BytesIO(first)).size
    assert 2 < width / height < 3
    curves.write_curves(LOSSES, path, metric="val_loss", best_step=2)
    assert path.read_bytes() == first


def test_a_run_without_losses_has_no_picture(tmp_path):
    curves.write_curves([{"step": 1, "grad_norm": 1.0}], tmp_path / "losses.png", metric="val_loss")
    assert not (tmp_path / "losses.png").exists()
