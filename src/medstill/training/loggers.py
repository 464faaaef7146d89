"""Where numbers are logged beside the history: Lightning's loggers by name.

Each training logs below its own folder, each start of it in a folder of its own: what a kill left
behind is written anew when the training is taken up again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytorch_lightning.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from pytorch_lightning.utilities import rank_zero_only

from medstill.config import EngineConfig
from medstill.errors import require

PROJECT = "medstill"
"""Experiment or project in which MLflow and W&B keep all trainings."""


@dataclass(frozen=True)
class Place:
    """Where one start of a training logs."""

    training: str
    """Name of the training, such as `students/compact/control/seed-0`."""
    folder: Path
    """Folder of the training."""
    version: str
    """Name of this start."""


def _csv(place: Place) -> Logger:
    return CSVLogger(place.folder, name="csv", version=place.version)


def _tensorboard(place: Place) -> Logger:
    return TensorBoardLogger(place.folder, name="tensorboard", version=place.version)


def _mlflow(place: Place) -> Logger:
    # MLflow advises against its file store, which needs no server and no database, and reports to
    # its makers what it is used for.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    store = (place.folder / "mlflow" / place.version).resolve().as_uri()
    return MLFlowLogger(
        PROJECT,
        f"{place.training} {place.version}",
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", store),
    )


def _wandb(place: Place) -> Logger:
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    return WandbLogger(
        name=f"{place.training} {place.version}",
        project=PROJECT,
        save_dir=place.folder / "wandb" / place.version,
        offline="WANDB_MODE" not in os.environ,
    )


LOGGERS: dict[str, Callable[[Place], Logger]] = {
    "csv": _csv,
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}
"""Name in `engine.loggers` -> how it is begun; names that are packages are extras of medstill."""

OPTIONAL = ("mlflow", "wandb")


def check_loggers(engine: EngineConfig) -> None:
    """Demand the packages of an engine's loggers.

    Raises:
        MissingExtraError: One is not installed.
    """
    for name in OPTIONAL:
        if name in engine.loggers:
            require(name, name)


def begin_loggers(engine: EngineConfig, place: Place) -> list[Logger]:
    """The loggers of one start of a training; what a killed start of that name left is removed.

    Raises:
        MissingExtraError: The package of one is not installed.
    """
    check_loggers(engine)
    for name in engine.loggers:
        rank_zero_only(shutil.rmtree)(place.folder / name / place.version, ignore_errors=True)
    return [LOGGERS[name](place) for name in engine.loggers]


def end_loggers(loggers: Sequence[Logger]) -> None:
    """End what would go on into the next training of this process: W&B has one run at a time."""
    if any(isinstance(logger, WandbLogger) for logger in loggers):
        require("wandb", "wandb").finish()
