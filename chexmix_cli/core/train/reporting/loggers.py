"""A run's figures in TensorBoard, Weights & Biases and MLflow (``train.loggers``): extras, imported when asked for.

All write into the run folder and reach no network, unless the user's environment says otherwise in the package's own
words (``WANDB_MODE``, ``MLFLOW_TRACKING_URI``). They are told figures and settings: no path, no command line, no id.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from chexmix_cli.core.errors import MachineError
from chexmix_cli.core.files import write_json
from chexmix_cli.core.settings.load import flat

_LOG = logging.getLogger("chexmix")
#: Packages that a logger is made of; MLflow keeps its files by the last two.
_PACKAGES = {"tensorboard": ("tensorboard",), "wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
#: Under this name runs stand together.
_PROJECT = "chexmix"
#: By which a resumed run goes on where it was.
_IDS = "loggers.json"


class Logger(Protocol):
    """One of them, while a run trains."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures of a record."""

    def close(self) -> None:
        """Write what is left."""


def require_loggers(names: Sequence[str]) -> None:
    """Raise MachineError if a logger's package is missing; long before the first figure."""
    for name in names:
        missing = [package for package in _PACKAGES[name] if find_spec(package) is None]
        if missing:
            raise MachineError(
                f"{name} needs the package {missing[0]}",
                where="train.loggers",
                hint="pip install 'chexmix[loggers]', or leave it out: RUN/metrics.jsonl has all figures",
            )


def open_loggers(names: Sequence[str], out: Path, *, step: int, settings: Mapping[str, Any]) -> list[Logger]:
    """Return the loggers of a run.

    Args:
        names: as ``train.loggers`` has them.
        out: the run folder.
        step: steps that are done.
        settings: of the run, nested; for the parameters of its page.
    """
    path = out / _IDS
    ids: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    # Settings may name folders of models.
    plain = {key: value for key, value in flat(settings).items() if not (isinstance(value, str) and os.sep in value)}
    loggers: list[Logger] = []
    for name in names:
        if name == "tensorboard":
            loggers.append(_TensorBoard(out, step))
        elif name == "wandb":
            ids.setdefault(name, uuid.uuid4().hex[:8])
            loggers.append(_Wandb(out, ids[name], plain))
        else:
            run = _MlFlow(out, ids.get(name), plain)
            ids[name] = run.id
            loggers.append(run)
    if ids:
        write_json(path, ids)
    return [_Guarded(name, logger) for name, logger in zip(names, loggers, strict=True)]


class _Guarded:
    """A logger whose failure is said once and ends its log, not the run: a server may be away for a night."""

    def __init__(self, name: str, logger: Logger) -> None:
        self._name = name
        self._logger: Logger | None = logger

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        if self._logger is not None:
            try:
                self._logger.log(step, figures)
            except Exception as error:  # noqa: BLE001 (each package has its own, and some the network's)
                self._give_up(error)

    def close(self) -> None:
        if self._logger is not None:
            try:
                self._logger.close()
            except Exception as error:  # noqa: BLE001
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._logger = None
        _LOG.warning("%s is told nothing more (%s); metrics.jsonl goes on", self._name, type(error).__name__)


class _TensorBoard:
    """RUN/tensorboard."""

    def __init__(self, out: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """RUN/wandb: offline, for ``wandb sync``, unless WANDB_MODE says otherwise."""

    def __init__(self, out: Path, run_id: str, settings: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb: Any = import_module("wandb")
        # The command line, the user, the host, the code and what is printed stay here: paths may name patients.
        quiet = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            silent=True,
            x_disable_meta=True,
            x_save_requirements=False,
        )
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=run_id,
            dir=str(out),
            config=dict(settings),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow" if os.environ.get("WANDB_MODE", "offline") == "online" else None,
            settings=quiet,
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


class _MlFlow:
    """RUN/mlflow.db, for ``mlflow ui --backend-store-uri sqlite:///...``, or what MLFLOW_TRACKING_URI says."""

    def __init__(self, out: Path, run_id: str | None, settings: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        mlflow: Any = import_module("mlflow")
        entities: Any = import_module("mlflow.entities")
        self._metric = entities.Metric
        store = f"sqlite:///{(out / 'mlflow.db').absolute()}"
        self._client = mlflow.MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", store))
        if run_id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            found = self._client.get_experiment_by_name(name)
            experiment = self._client.create_experiment(name) if found is None else found.experiment_id
            self.id: str = self._client.create_run(experiment).info.run_id
            self._client.log_batch(self.id, params=[entities.Param(key, str(value)) for key, value in settings.items()])
        else:
            self.id = run_id
            self._client.update_run(run_id, status="RUNNING")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(
            self.id, metrics=[self._metric(name, value, now, step) for name, value in figures.items()]
        )

    def close(self) -> None:
        self._client.set_terminated(self.id)
