"""Fit a task and take it up again after a kill, ending in the same weights.

A validation boundary is the only place where a run can be taken up: there network, losses,
optimiser and history are written together. Learning rate, batches and loss sampling are functions
of the step, so nothing else has to be restored. Lightning's own resume is not used: it restores no
generator state, and its loop counters differ after a resume at an epoch's end.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.warnings import PossibleUserWarning
from torch import nn

from medstill.errors import RunError
from medstill.training import checkpoint
from medstill.training.boundary import Boundary, FitPlan, FitResult, result_of
from medstill.training.checkpoint import BEST, LAST, Best
from medstill.training.learner import Learner
from medstill.training.loggers import Place, begin_loggers, end_loggers
from medstill.training.memory import kept_memory
from medstill.training.progress import Progress

log = logging.getLogger(__name__)


@kept_memory()
def fit(task: nn.Module, plan: FitPlan) -> FitResult:
    """Train until the recipe's last step and leave the best weights in `task.network`.

    Writes `last.ckpt`, `best.ckpt`, `history.json` and the logs of `plan.engine.loggers` to
    `plan.folder`.

    Raises:
        TrainingError: A loss that is not finite.
        RunError: A checkpoint of another run, or of another teacher, lies in the folder.
    """
    state = _previous(plan)
    start = state["step"] if state else 0
    learner = Learner(task, plan.source, start, plan.engine)
    if start < plan.source.recipe.steps:
        with warnings.catch_warnings():
            # Lightning's advice on loader workers does not fit machines where every core trains.
            warnings.filterwarnings("ignore", r".*does not have many workers", PossibleUserWarning)
            # It trains for one epoch, so there is nothing to persist to.
            warnings.filterwarnings("ignore", r"Consider setting `persistent_workers")
            # Nothing is logged through Lightning: see `Learner.training_step`.
            warnings.filterwarnings(
                "ignore", r"The number of training batches", PossibleUserWarning
            )
            # Lightning 2.6 with torch 2.13; torch marks the call that it makes as deprecated.
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
            trainer = _trainer(plan, start, Boundary(plan, state))
            try:
                trainer.fit(learner)
            finally:
                end_loggers(trainer.loggers)
    best = checkpoint.load(plan.folder / BEST)
    network: nn.Module = task.network  # type: ignore[assignment]
    network.load_state_dict(best["network"])
    network.eval()
    return result_of(plan.folder, Best(best["step"], best["dice"]))


def _previous(plan: FitPlan) -> dict[str, Any] | None:
    path = plan.folder / LAST
    if not plan.resume or not path.exists():
        return None
    state = checkpoint.load(path)
    if state["key"] != plan.key:
        raise RunError(
            f"'{path}' is the checkpoint of another recipe or other data. Choose another output "
            "folder, or delete it to train anew."
        )
    if state.get("teacher", plan.teacher) != plan.teacher:
        raise RunError(
            f"'{path}' was distilled from a teacher of other weights ({state['teacher']}, now "
            f"{plan.teacher}). Delete its folder to train anew from the present teacher."
        )
    log.info("%s: taken up again at step %d", plan.name, state["step"])
    return state


def _trainer(plan: FitPlan, start: int, boundary: Boundary) -> pl.Trainer:
    engine = plan.engine
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    # Left by a run that was killed before its next boundary: these steps are done again.
    loggers = begin_loggers(engine, Place(plan.name, plan.folder, f"from-step-{start}"))
    progress = Progress(plan.folder, plan.source.recipe.steps, start)
    return pl.Trainer(
        accelerator=engine.accelerator,
        devices=engine.devices,  # type: ignore[arg-type]
        strategy=engine.strategy,
        num_nodes=engine.nodes,
        precision=plan.source.recipe.precision,
        max_epochs=1,
        logger=loggers,
        callbacks=[boundary.stopwatch, boundary, progress],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
