"""Run folders that tests of reports read, and trainings that end at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_run import FakeRun
from judge import Judge

from medstill.refs import GUIDED, TEACHER, ModelRef

CONTROL = ModelRef("control", "unet-s1", 0)


@pytest.fixture
def fake_run(tmp_path: Path) -> Callable[..., FakeRun]:
    """Builds a finished run folder; see `FakeRun` for what can be chosen."""

    def build(**options: Any) -> FakeRun:
        return FakeRun(tmp_path / "run", **options).build()

    return build


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    """A finished run folder that tests only read."""
    return FakeRun(tmp_path_factory.mktemp("finished") / "run").build()


@pytest.fixture
def copied_run(finished_run: FakeRun, tmp_path: Path) -> Path:
    """Folder of a finished run that a test may change."""
    return Path(shutil.copytree(finished_run.folder, tmp_path / "copied"))


@pytest.fixture(scope="module")
def teacher(tiny: Any) -> Any:
    """An untrained teacher: what it says does not matter where it is used."""
    from medstill.training.assembly import build_teacher

    return build_teacher(tiny.study, tiny.material().preparation)


@pytest.fixture
def trained(tiny: Any, tiny_with: Any, tmp_path: Path, teacher: Any) -> Callable[..., Any]:
    """Trains one network of a changed study into `tmp_path`."""

    def train(
        ref: ModelRef = CONTROL,
        *,
        judge: Any = None,
        folder: str = "run",
        key: str = "key",
        guide: Any = teacher,
        **changes: Any,
    ) -> Any:
        from medstill import training

        settings = {"validate": judge or Judge(0.5)}
        if "resume" in changes:
            settings["resume"] = changes.pop("resume")
        material = tiny.material(tiny_with(**changes), **settings)
        if ref == TEACHER:
            return training.train_teacher(material, tmp_path / folder, {"key": key})
        frozen = guide if ref.arm in GUIDED else None
        return training.train_student(material, ref, frozen, tmp_path / folder, {"key": key})

    return train
