"""The Lightning module and the callback that stands at every validation boundary."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medstill.config import EngineConfig
from medstill.errors import TrainingError
from medstill.training.data import Sample, SampleSource, loader, plain_batches
from medstill.training.gradients import gradient_norms
from medstill.training.schedule import learning_rate
from medstill.training.seeds import torch_seed
from medstill.training.tasks import Place, StepResult, Task

log = logging.getLogger(__name__)

ENGINE = EngineConfig()
LOG_EVERY = 10
"""Steps between two entries of the CSV and TensorBoard logs."""

Validate = Callable[[nn.Module], Mapping[str, float]]
"""Scores a network on the validation patients: class name -> mean 3-D Dice."""


class Learner(pl.LightningModule):
    """Steps a task, with a learning rate that is a function of the step."""

    def __init__(
        self, task: nn.Module, source: SampleSource, start: int, engine: EngineConfig = ENGINE
    ) -> None:
        super().__init__()
        # Before a strategy wraps it: its gradient buckets take the strides that they find.
        place = Place(torch.device("cpu"), source.spatial_dims)
        task.to(memory_format=place.memory_format)  # type: ignore[call-overload]
        self.task = task
        self.source = source
        self.recipe = source.recipe
        self.start = start
        self.engine = engine
        self.sums: dict[str, float] = {}
        self.gradients: dict[str, list[float]] = {}

    def train_dataloader(self) -> DataLoader[Sample]:
        """Batches from the first step that is still to be done; each rank gets its share."""
        ranks = self.trainer.world_size
        if self.source.samples_per_step % ranks:
            raise TrainingError(
                f"A batch of {self.source.samples_per_step} samples cannot be shared by {ranks} "
                "processes. Choose training.batch_size as a multiple of devices x nodes."
            )
        return loader(
            self.source,
            self.start,
            workers=self.engine.loader_workers,
            rank=self.trainer.global_rank,
            ranks=ranks,
        )

    def on_fit_start(self) -> None:
        """Let the task compute what it needs once; a resumed task has it in its checkpoint."""
        task: Task = self.task  # type: ignore[assignment]
        place = self._place()
        task.before_training(place, plain_batches(self.source) if self.start == 0 else None)

    def _place(self) -> Place:
        return Place(self.device, self.source.spatial_dims)

    @property
    def step(self) -> int:
        """Steps done since the very beginning of training, kills and resumes included."""
        return self.start + int(self.trainer.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Over the network and the projectors; the teacher is not among them."""
        recipe, parameters = self.recipe, self.task.parameters()
        rate, decay = recipe.learning_rate, recipe.weight_decay
        if recipe.optimizer == "rmsprop":
            return torch.optim.RMSprop(parameters, lr=rate, weight_decay=decay)
        return torch.optim.AdamW(parameters, lr=rate, betas=recipe.betas, weight_decay=decay)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of this step."""
        rate = learning_rate(self.step, self.recipe)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        """The weighted loss of a batch; every term is logged by name."""
        image_BC, label_B, *said = batch
        task: Task = self.task  # type: ignore[assignment]
        bare_B = self.source.bare(self.trainer.global_rank, self.trainer.world_size)
        bare_B = bare_B.to(label_B.device)
        with torch.random.fork_rng():
            # A network's own dropout draws from the global generator: it too follows the step.
            torch.manual_seed(torch_seed("loss", self.source.seed, self.step, 1))
            image_BC = self._place().put(image_BC)
            result = task.compute(image_BC, label_B, self.step, *said, bare_B=bare_B)
        values = {f"train/{name}": value.detach() for name, value in result.terms.items()}
        values["train/total"] = result.total.detach()
        if not torch.isfinite(result.total):
            bad = [name for name, value in values.items() if not torch.isfinite(value)]
            raise TrainingError(
                f"The loss is not finite at step {self.step} ({', '.join(bad)}). Lower "
                "training.learning_rate, or check the intensities with 'medstill inspect'."
            )
        numbers = {name: float(value) for name, value in values.items()}
        for name, number in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + number
        self._measure_gradients(result)
        if self.step == self.start or (self.step + 1) % LOG_EVERY == 0:
            weights = {f"weight/{name}": weight for name, weight in result.weights.items()}
            self._log({**numbers, **weights})
        return result.total

    def _measure_gradients(self, result: StepResult) -> None:
        every = self.engine.gradient_norms_every
        if not every or self.step % every:
            return
        network: nn.Module = self.task.network  # type: ignore[assignment]
        norms = gradient_norms(result, network)
        for name, norm in norms.items():
            self.gradients.setdefault(name, []).append(norm)
        self._log({f"gradient/{name}": norm for name, norm in norms.items()})

    def _log(self, numbers: dict[str, float]) -> None:
        # Lightning's own logging counts steps anew after a resume.
        for logger in self.trainer.loggers:
            logger.log_metrics(numbers, step=self.step)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient norm."""
        if self.recipe.gradient_clip:
            self.clip_gradients(optimizer, self.recipe.gradient_clip, "norm")


class Stopwatch(pl.Callback):
    """Measures how long the training process waits for data and how fast it steps."""

    def __init__(self) -> None:
        self.waiting_s = 0.0
        self.total_s = 0.0
        self.steps = 0
        self._mark: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the first wait."""
        self._mark = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch has come: the wait ends."""
        if self._mark is not None:
            waited = time.perf_counter() - self._mark
            self.waiting_s += waited
            self.total_s += waited
        self._mark = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """The step is done: the next wait begins."""
        if self._mark is not None:
            self.total_s += time.perf_counter() - self._mark
        self.steps += 1
        self._mark = time.perf_counter()

    def rest(self) -> None:
        """Forget the time spent outside training, such as a validation."""
        self._mark = time.perf_counter()

    def read(self) -> dict[str, float]:
        """Share of time spent waiting and steps per second since the last reading."""
        total_s = max(self.total_s, 1e-9)
        values = {"data_wait_share": self.waiting_s / total_s, "steps_per_s": self.steps / total_s}
        self.waiting_s = self.total_s = 0.0
        self.steps = 0
        return values
