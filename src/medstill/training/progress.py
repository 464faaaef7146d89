"""Where a training is: a small file in its folder that any process can watch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from medstill.config import Record
from medstill.runs import write_json

PROGRESS_FILE = "progress.json"
INTERVAL_S = 1.0


class StepReport(Record):
    """How far a training has come. `steps_per_s` is the mean since it was started or taken up."""

    step: int
    steps: int
    steps_per_s: float


class Progress(pl.Callback):
    """Writes a `StepReport` about once a second."""

    def __init__(self, folder: Path, steps: int, start: int) -> None:
        self.path = folder / PROGRESS_FILE
        self.steps = steps
        self.start = start
        self._begun = time.perf_counter()
        self._written = self._begun - INTERVAL_S

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Report when the last report is old enough."""
        now = time.perf_counter()
        if not trainer.is_global_zero or now - self._written < INTERVAL_S:
            return
        self._written = now
        done = int(trainer.global_step)
        report = StepReport(
            step=self.start + done, steps=self.steps, steps_per_s=done / (now - self._begun)
        )
        write_json(self.path, report.model_dump())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training is over: there is nothing to watch."""
        if trainer.is_global_zero:
            self.path.unlink(missing_ok=True)
