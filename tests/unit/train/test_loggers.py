"""TensorBoard, Weights & Biases and MLflow, each as its package writes and reads it; without a network."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from chexmix_cli.core.errors import ExitCode, MachineError
from chexmix_cli.core.train.reporting import loggers
from chexmix_cli.core.train.reporting.loggers import open_loggers, require_loggers

#: What a logger must never be told: it stands in the command line.
PLANTED = "Zephyranthes"
SETTINGS = {"train": {"steps": 4, "seed": 7}, "start": {"decoder": f"/models/{PLANTED}"}, "task": "classify"}
FIRST, SECOND = {"loss": 2.5, "mfu": 0.25}, {"val_auroc": 0.75}


@pytest.fixture(autouse=True)
def local(monkeypatch):
    """Leave the environment to the test: nothing of the user's own accounts, a command line with a patient's name."""
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_LOGGING_LEVEL"):
        monkeypatch.setenv(
            name, {"MLFLOW_LOGGING_LEVEL": "WARNING", "WANDB_ERROR_REPORTING": "false"}.get(name, "true")
        )
    monkeypatch.setattr(sys, "argv", ["chexmix", "finetune", "--manifest", f"/films/{PLANTED}.jsonl"])


def write(name, out, *, step=0, records=((1, FIRST), (2, SECOND))):
    """Log records of a run as the loop does, from ``step`` on."""
    for logger in open_loggers([name], out, step=step, settings=SETTINGS):
        for number, figures in records:
            logger.log(number, figures)
        logger.close()


def require_no_names(folder):
    """Nothing that a run was told besides figures and settings is in any file of a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert PLANTED.encode() not in path.read_bytes(), path


def test_tensorboard_reads_the_figures(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra `loggers` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write("tensorboard", tmp_path)
    # Resumed behind step 1: step 2 is done again, and stands there once.
    write("tensorboard", tmp_path, step=1, records=[(2, {"val_auroc": 0.5})])
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(1, 2.5)]
    assert [(event.step, event.value) for event in board.Scalars("val_auroc")] == [(2, 0.5)]
    require_no_names(tmp_path / "tensorboard")


@pytest.mark.filterwarnings("default")  # the package's own
def test_mlflow_reads_the_figures_and_a_resumed_run_goes_on(tmp_path):
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package, reason="the extra `loggers` is not installed")
    from mlflow import MlflowClient

    write("mlflow", tmp_path)
    write("mlflow", tmp_path, step=2, records=[(3, {"loss": 1.5})])
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("chexmix").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train.steps": "4", "train.seed": "7", "task": "classify"}
    assert [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "loss")] == [(1, 2.5), (3, 1.5)]
    assert run.data.metrics["val_auroc"] == 0.75
    require_no_names(tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_wandb_keeps_an_offline_run_without_names(tmp_path):
    pytest.importorskip("wandb", reason="the extra `loggers` is not installed")
    write("wandb", tmp_path)
    (run,) = tmp_path.glob("wandb/offline-run-*")
    assert json.loads((tmp_path / "loggers.json").read_text())["wandb"] == run.name.rpartition("-")[2]
    # Records of protobuf behind each other: names and values stand there as they are.
    content = next(run.glob("*.wandb")).read_bytes()
    for text in ("loss", "2.5", "val_auroc", "0.75", "train.seed"):
        assert text.encode() in content
    require_no_names(tmp_path / "wandb")
    assert not list(run.rglob("requirements.txt"))
    assert not list(run.rglob("wandb-metadata.json"))


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_said_before_anything_else(monkeypatch, name):
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    with pytest.raises(MachineError, match=f"train.loggers: {name} needs the package {name}") as caught:
        require_loggers([name])
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert "chexmix[loggers]" in str(caught.value.hint)
    require_loggers([])


def test_a_logger_that_fails_is_given_up_and_said_once(caplog):
    class Away:
        calls = 0

        def log(self, step, figures):
            self.calls += 1
            raise ConnectionError

        def close(self):
            raise AssertionError("it was given up")

    away = Away()
    guarded = loggers._Guarded("mlflow", away)
    with caplog.at_level(logging.WARNING, "chexmix"):
        for step in (1, 2):
            guarded.log(step, FIRST)
    guarded.close()
    assert away.calls == 1
    assert [record.getMessage() for record in caplog.records] == [
        "mlflow is told nothing more (ConnectionError); metrics.jsonl goes on"
    ]
