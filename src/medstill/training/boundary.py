"""What happens at every validation boundary: score, remember the best, write the checkpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import nn

from medstill.config import EngineConfig
from medstill.errors import RunError, TrainingError
from medstill.runs import read_rows, write_json
from medstill.training import checkpoint
from medstill.training.checkpoint import BEST, LAST, Best
from medstill.training.data import SampleSource
from medstill.training.learner import Learner, Stopwatch, Validate

log = logging.getLogger(__name__)

COLLAPSED_DICE = 0.05
HISTORY_FILE = "history.json"


@dataclass(frozen=True)
class FitResult:
    """How training ended. `history` has one entry per validation."""

    best: Best
    history: tuple[dict[str, Any], ...]
    collapsed: tuple[str, ...]
    """Classes whose Dice is below .05 at the chosen checkpoint."""


@dataclass(frozen=True)
class FitPlan:
    """All that `fit` needs beside the task: data, where to write, how to score, how to report."""

    name: str
    """Name of the training in the log."""
    source: SampleSource
    folder: Path
    key: str
    """Hash of all that decides the result; a checkpoint with another key is refused."""
    validate: Validate | None
    """None: nothing is scored, and the last weights are the chosen ones."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    resume: bool = True
    teacher: str | None = None
    """Hash of the frozen teacher's weights, which are in no checkpoint of the student."""


class Boundary(pl.Callback):
    """At each validation: score, remember the best, write the checkpoint, warn of dead classes."""

    def __init__(self, plan: FitPlan, state: dict[str, Any] | None) -> None:
        self.plan = plan
        self.state = state
        self.stopwatch = Stopwatch()
        self.history: list[dict[str, Any]] = list(state["history"]) if state else []
        self.best = Best(**state["best"]) if state else None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore what the checkpoint holds, now that the optimiser exists."""
        if self.state is None:
            return
        pl_module.task.load_state_dict(self.state["task"])  # type: ignore[union-attr]
        trainer.optimizers[0].load_state_dict(self.state["optimiser"])
        trainer.precision_plugin.load_state_dict(self.state["precision"])

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Validate at the boundaries and after the last step."""
        learner: Learner = pl_module  # type: ignore[assignment]
        recipe = self.plan.source.recipe
        if learner.step % recipe.validate_every and learner.step != recipe.steps:
            return
        if trainer.is_global_zero:
            self._validate(trainer, learner)
        trainer.strategy.barrier()
        self.stopwatch.rest()

    def _validate(self, trainer: pl.Trainer, learner: Learner) -> None:
        network: nn.Module = learner.task.network  # type: ignore[assignment]
        scores = self._scores(learner, network)
        steps = max(1, self.stopwatch.steps)
        entry = {
            "step": learner.step,
            **scores,
            "losses": {name: value / steps for name, value in learner.sums.items()},
            "gradients": {
                name: sum(norms) / len(norms) for name, norms in learner.gradients.items()
            },
            **self.stopwatch.read(),
        }
        learner.sums.clear()
        learner.gradients.clear()
        self.history.append(entry)
        self._log(trainer, learner, entry)
        if self.best is None or not scores or scores["dice"] > self.best.dice:
            self.best = Best(learner.step, scores.get("dice", math.nan))
            checkpoint.save(
                self.plan.folder / BEST, {"network": network.state_dict(), **asdict(self.best)}
            )
        self._save(trainer, learner)

    def _scores(self, learner: Learner, network: nn.Module) -> dict[str, Any]:
        """Mean and single Dice of the classes; nothing where nothing is scored."""
        if self.plan.validate is None:
            return {}
        network.eval()
        dice_by_class = dict(self.plan.validate(network))
        learner.task.train()
        if not dice_by_class:
            raise TrainingError(
                "None of the classes is in any validation patient, in truth or prediction, so no "
                "checkpoint can be chosen. Use another split.seed or more validation patients."
            )
        mean = sum(dice_by_class.values()) / len(dice_by_class)
        return {
            "dice": mean,
            "dice_by_class": dice_by_class,
            "dead": list(dead_classes(dice_by_class)),
        }

    def _log(self, trainer: pl.Trainer, learner: Learner, entry: dict[str, Any]) -> None:
        log.info(
            "%s: step %d of %d, %s, %.2f steps/s, %.1f %% of the time waiting for data",
            self.plan.name,
            entry["step"],
            learner.recipe.steps,
            _state(entry),
            entry["steps_per_s"],
            100 * entry["data_wait_share"],
        )
        by_class = entry.get("dice_by_class", {})
        # Not below `validation/dice`: a store of files has no file and folder of one name.
        values = {f"validation/dice_by_class/{name}": v for name, v in by_class.items()}
        if by_class:
            values["validation/dice"] = entry["dice"]
            values["validation/dead_classes"] = float(len(entry["dead"]))
        values["time/data_wait_share"] = entry["data_wait_share"]
        values["time/steps_per_s"] = entry["steps_per_s"]
        for logger in trainer.loggers:
            logger.log_metrics(values, step=learner.step)
            logger.save()
        if entry.get("dead"):
            late = 2 * learner.step >= learner.recipe.steps
            log.log(
                logging.WARNING if late else logging.INFO,
                "%s: validation Dice below %.2f at step %d for: %s",
                self.plan.name,
                COLLAPSED_DICE,
                learner.step,
                ", ".join(_fate(name, self.history) for name in entry["dead"]),
            )
        if by_class and learner.step == learner.recipe.steps:
            self._log_collapsed()

    def _log_collapsed(self) -> None:
        chosen = max(self.history, key=lambda entry: float(entry["dice"]))
        if chosen["dead"]:
            log.warning(
                "%s: collapsed at step %d, which has the best mean: %s. Recipes against it: "
                "class_balance, head_prior, more steps, a lower weight of the distillation terms.",
                self.plan.name,
                chosen["step"],
                ", ".join(_fate(name, self.history) for name in chosen["dead"]),
            )

    def _save(self, trainer: pl.Trainer, learner: Learner) -> None:
        write_json(self.plan.folder / HISTORY_FILE, self.history)
        assert self.best is not None
        checkpoint.save(
            self.plan.folder / LAST,
            {
                "key": self.plan.key,
                "teacher": self.plan.teacher,
                "step": learner.step,
                "task": learner.task.state_dict(),
                "optimiser": trainer.optimizers[0].state_dict(),
                "precision": trainer.precision_plugin.state_dict(),
                "history": self.history,
                "best": asdict(self.best),
            },
        )


def result_of(folder: Path, best: Best) -> FitResult:
    """How the training in `folder` ended.

    It is read from disk, since a strategy may have trained in processes of its own.

    Raises:
        RunError: The history is missing, damaged or of another training than `best`.
    """
    path = folder / HISTORY_FILE
    history = read_rows(path)
    chosen = [entry for entry in history if entry.get("step") == best.step]
    if not chosen:
        raise RunError(
            f"'{path}' should hold the validation of step {best.step}, which chose '{BEST}', but "
            "does not. Delete its folder and train again."
        )
    return FitResult(best, history, dead_classes(chosen[0].get("dice_by_class", {})))


def _state(entry: Mapping[str, Any]) -> str:
    if "dice" in entry:
        return f"validation Dice {entry['dice']:.3f}"
    return f"loss {entry['losses']['train/total']:.4f}"


def _fate(name: str, history: Sequence[Mapping[str, Any]]) -> str:
    """A dead class, and whether it ever lived."""
    lived = [e["step"] for e in history if e["dice_by_class"].get(name, 0.0) >= COLLAPSED_DICE]
    return f"{name} (alive until step {lived[-1]})" if lived else f"{name} (not alive so far)"


def dead_classes(dice_by_class: Mapping[str, float]) -> tuple[str, ...]:
    """The classes that count as collapsed."""
    return tuple(name for name, dice in dice_by_class.items() if dice < COLLAPSED_DICE)
