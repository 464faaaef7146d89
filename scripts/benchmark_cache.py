"""Time a distilled step against a control step, with and without the teacher cache.

    python scripts/benchmark_cache.py [ROUNDS]

One thread, batches of 16 slices of 128 x 128 of a phantom with four organs, the default terms
(`supcon` at three scales, `kl`), a quarter-width `unet-t1` as teacher. Contenders take turns, so
that whatever else the machine does meets all of them; medians over the rounds. A step is: the
batch from the loader, forward, backward, AdamW.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from medstill import pipeline, stages, training
from medstill.config import Study
from medstill.refs import ModelRef
from medstill.training.assembly import student_config, student_source, student_task
from medstill.training.cachefill import filled_cache
from medstill.training.data import loader, plain_batches
from medstill.training.tasks import Place
from medstill.volumes.phantom import write_phantom

STUDENTS = ("unet-s1", "compact")
UNLABELLED = 16


@dataclass
class Contender:
    """One kind of training, step by step."""

    name: str
    task: Any
    batches: Iterator[Any]
    optimiser: torch.optim.Optimizer
    waited_ms: list[float]
    step_ms: list[float]

    def step(self, number: int) -> None:
        """One step; the times of loading and of the whole are kept."""
        begun = time.perf_counter()
        image_BC, label_B, *said = next(self.batches)
        loaded = time.perf_counter()
        image_BC = Place(torch.device("cpu"), 2).put(image_BC)
        self.task.compute(image_BC, label_B, number, *said).total.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.waited_ms.append(1e3 * (loaded - begun))
        self.step_ms.append(1e3 * (time.perf_counter() - begun))


def study_of(student: str, cache: str, unlabelled: int) -> Study:
    """The study of one contender."""
    return Study.model_validate(
        {
            "name": "benchmark",
            "data": {
                "labels": {n: [n] for n in ("liver", "spleen", "right kidney", "left kidney")},
                "patch_size": [128, 128],
            },
            "split": {"train": 4, "validation": 1, "test": 1},
            "students": [{"name": student}],
            "training": {"views": 2},
            "distillation": {"cache": cache, "unlabelled_batch": unlabelled},
        }
    )


def contender(name: str, out: Path, study: Study, ref: ModelRef) -> Contender:
    """Build one from a prepared folder; the teacher is untrained, which costs the same."""
    run = stages.open_prepared(out)
    material = training.Material(study, run.prepared, run.split, lambda _: {})
    teacher = training.build_teacher(study, run.prepared.preparation).eval()
    guide = teacher if ref.arm == "distilled" else None
    source = student_source(material, ref)
    task = student_task(study, run.prepared.preparation, ref, guide)
    if guide and study.distillation.cache != "off":
        pupil = student_config(study, ref)
        source = replace(source, cache=filled_cache(study, pupil, teacher, source, out / "caches"))
    task.to(memory_format=torch.channels_last)
    task.before_training(Place(torch.device("cpu"), 2), plain_batches(source, 2))
    optimiser = torch.optim.AdamW(task.parameters(), lr=1e-4)
    return Contender(name, task, iter(loader(source, 0, workers=0)), optimiser, [], [])


def contenders(out: Path, student: str) -> list[Contender]:
    """All that are compared for one student; the first is what they are compared with."""
    distilled, found = ModelRef("distilled", student, 0), []
    found.append(
        contender("control", out, study_of(student, "off", 0), ModelRef("control", student, 0))
    )
    for unlabelled in (0, UNLABELLED):
        for cache in ("off", "float16"):
            name = f"distilled, cache {cache}" + (f", {unlabelled} unlabelled" * bool(unlabelled))
            found.append(contender(name, out, study_of(student, cache, unlabelled), distilled))
    return found


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    torch.set_num_threads(1)
    table = Table("student", "step", "loader, ms", "whole step, ms", "of the control's")
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "run"
        write_phantom(data, patients=6, size_zyx=(24, 128, 128), workers=1)
        pipeline.prepare(study_of("unet-s1", "off", 0), data, out)
        for student in STUDENTS:
            rivals = contenders(out, student)
            for number in range(rounds + 2):
                for rival in rivals:
                    rival.step(number)
            base = statistics.median(rivals[0].step_ms[2:])
            for rival in rivals:
                step_ms = statistics.median(rival.step_ms[2:])
                waited_ms = statistics.median(rival.waited_ms[2:])
                ratio = f"{step_ms / base:.2f}"
                table.add_row(student, rival.name, f"{waited_ms:.1f}", f"{step_ms:.0f}", ratio)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
