"""A tiny phantom, prepared once, and studies that train on it within seconds."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from medstill.config import Study

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # So it is for what a shell starts in the background; children would inherit it, and tests that
    # interrupt them would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)

RECIPE = {"steps": 4, "batch_size": 4, "warmup_steps": 1, "validate_every": 2}
STUDY: dict[str, Any] = {
    "name": "tiny",
    "data": {
        "labels": {"liver": ["liver"], "kidneys": ["right kidney", "left kidney"]},
        "patch_size": [48, 48],
    },
    "split": {"train": 3, "validation": 1, "test": 2},
    "label_fraction": 0.6,
    "teacher": {"network": {"name": "unet-t1", "width": 0.0625}, "training": RECIPE},
    "students": [{"name": "unet-s1"}],
    "training": RECIPE,
    "distillation": {"features": {"B": {"weight": 0.2}}},
    "evaluation": {"resamples": 99},
    "engine": {"workers": 1, "threads": 1},
}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings laid over each other."""
    result = dict(base)
    for key, value in changes.items():
        below = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if below else value
    return result


def tiny_study(**changes: Any) -> Study:
    """The tiny study with some of its values changed."""
    return Study.model_validate(merged(STUDY, changes))


@dataclass(frozen=True)
class Tiny:
    """A phantom on disk, prepared in a run folder."""

    data: Path
    out: Path
    study: Study

    def copy(self, out: Path) -> Path:
        """A run folder of its own, for a test that writes."""
        return Path(shutil.copytree(self.out, out))

    def material(self, study: Study | None = None, **changes: Any) -> Any:
        """What `training.train_teacher` and `train_student` take."""
        from medstill import stages, training

        run = stages.open_prepared(self.out)
        validate = partial(
            stages.validation_dice, prepared=run.prepared, cases=run.split.validation
        )
        settings = {"validate": validate, **changes}
        return training.Material(study or self.study, run.prepared, run.split, **settings)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six patients of 8 slices of 48 x 48."""
    from medstill.volumes.phantom import write_phantom

    data = tmp_path_factory.mktemp("phantom") / "data"
    write_phantom(data, patients=6, size_zyx=(8, 48, 48), workers=1)
    return data


@pytest.fixture(scope="session")
def tiny(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny study, prepared. Do not write into its folder: copy it."""
    from medstill import pipeline

    study = tiny_study()
    out = tmp_path_factory.mktemp("tiny") / "run"
    pipeline.prepare(study, phantom, out)
    return Tiny(phantom, out, study)


@pytest.fixture(scope="session")
def tiny_with(tiny: Tiny) -> Callable[..., Study]:
    """The tiny study with nested values changed: `tiny_with(training={"steps": 6})`."""
    return tiny_study


@pytest.fixture(scope="session")
def finished_grid(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder, outcome and job names of a finished grid of four tiny runs. Do not write into it."""
    from grids import run_all, tiny_grid

    out = tmp_path_factory.mktemp("grid") / "out"
    return out, *run_all(tiny_grid(tiny_study()), phantom, out)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch with one thread: sums over several are not bit for bit the same everywhere."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
