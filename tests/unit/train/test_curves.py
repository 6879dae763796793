"""RUN/losses.png."""

from __future__ import annotations

from chexmix_cli.core.train import curves


def test_losses_are_drawn_and_nothing_else(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(curves, "curve_png", lambda curve: drawn.append(curve) or b"png")
    records = [
        {"step": 1, "loss": 3.0, "loss_text": 4.0, "grad_norm": 9.0},
        {"step": 2, "loss": 2.0, "loss_text": 3.0},
        {"step": 2, "val_loss": 2.5, "val_psnr": 20.0},
    ]
    curves.write_curves(records, tmp_path / "losses.png")
    assert (tmp_path / "losses.png").read_bytes() == b"png"
    found = {series.name: (series.x, series.y) for series in drawn[0].series}
    assert found == {"loss": ([1, 2], [3.0, 2.0]), "loss_text": ([1, 2], [4.0, 3.0]), "val_loss": ([2], [2.5])}


def test_a_run_without_losses_has_no_picture(tmp_path):
    curves.write_curves([{"step": 1, "grad_norm": 1.0}], tmp_path / "losses.png")
    assert not (tmp_path / "losses.png").exists()
