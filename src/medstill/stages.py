"""One network of a run: train it, load it. The parts of the pipeline that jobs run.

Everything here is a function of a run folder, so that any process can do it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medstill import deploy, evaluation, training
from medstill.config import NetworkConfig, Study, content_hash
from medstill.errors import RunError
from medstill.links import prepared_folder
from medstill.refs import GUIDED, TEACHER, ModelRef
from medstill.runs import Stage, read_study
from medstill.volumes.records import Split
from medstill.volumes.splits import load_split
from medstill.volumes.store import CASES, PreparedSet, open_set

SPLIT_FILE = "split.json"


@dataclass(frozen=True)
class Job:
    """A training or a scoring that some process runs. Everything in it can be pickled."""

    name: str
    function: Callable[..., object]
    arguments: tuple[Any, ...]
    needs: tuple[str, ...] = ()
    folder: Path | None = None
    """The stage's folder. Jobs of several runs that have the same one are the same job."""
    run: str = ""
    """The first run of a study of many that needs it; it stands before what the job logs."""


Perform = Callable[[Sequence[Job]], None]


def in_turn(jobs: Sequence[Job]) -> None:
    """Run jobs one after another in this process."""
    for job in jobs:
        job.function(*job.arguments)


@dataclass(frozen=True)
class Opened:
    """A prepared run folder."""

    out: Path
    study: Study
    prepared: PreparedSet
    split: Split


def limit_threads(threads: int) -> None:
    """Let this process compute with so many threads."""
    training.set_threads(threads)


def open_prepared(out: Path) -> Opened:
    """Open a run whose preparation is finished.

    Raises:
        RunError: There is no such run, or its preparation is not finished.
    """
    study, folder = read_study(out), prepared_folder(out)
    if not (folder / CASES).is_dir():
        raise RunError(
            f"There are no prepared cases in '{folder}'. Prepare them first, for example with "
            "'medstill run' on the same folder. If they were cleaned away, delete the folder of "
            "the network that you need and repeat 'medstill study run', which makes both again."
        )
    prepared = open_set(folder)
    return Opened(out, study, prepared, load_split(out / SPLIT_FILE, prepared.data_hash))


def train(out: Path, ref: ModelRef, resume: bool = True) -> dict[str, Any]:
    """Train one network of a run unless it is finished.

    Args:
        out: A prepared run folder.
        ref: Which network.
        resume: Take an interrupted training up at its last validation; else begin anew.

    Returns:
        `best_step`, `best_dice` (mean 3-D Dice of the validation patients), `collapsed` classes,
        `weights` (hash) and `facts` of the network.
    """
    run = open_prepared(out)
    stage = Stage(ref.folder(out), training_key(run, ref))
    if stage.finished():
        return stage.result()
    stage.begin()
    material = material_of(run, resume=resume)
    if ref == TEACHER:
        teach = training.train_teachers if run.study.teacher.folds else training.train_teacher
        result = teach(material, stage.folder, stage.key)
    else:
        guide = load_network(run, TEACHER) if ref.arm in GUIDED else None
        result = training.train_student(material, ref, guide, stage.folder, stage.key)
    stage.finish(
        {
            "best_step": result.best.step,
            "best_dice": result.best.dice,
            "collapsed": list(result.collapsed),
            "weights": training.weights_hash(load_network(run, ref, finished=False)),
            "facts": training.network_facts(
                network_config(run.study, ref),
                run.prepared.preparation,
                reconstruction=ref == TEACHER and run.study.teacher.reconstruction.weight > 0,
                members=run.study.teacher.folds if ref == TEACHER else 0,
            ),
        }
    )
    return stage.result()


def material_of(run: Opened, *, resume: bool = False) -> training.Material:
    """What the trainings of a run share."""
    validate = partial(validation_dice, prepared=run.prepared, cases=run.split.validation)
    caches = cache_folder(run.out)
    return training.Material(run.study, run.prepared, run.split, validate, resume, caches)


def cache_folder(out: Path) -> Path:
    """Where a run keeps what its teacher says of the fixed views: with the teacher."""
    return TEACHER.folder(out) / "cache"


def validation_dice(
    network: Any, *, prepared: PreparedSet, cases: Sequence[str]
) -> dict[str, float]:
    """Mean 3-D Dice of each foreground class over validation cases, on the prepared grid."""
    call = training.logits_function(network)
    classes = prepared.preparation.classes
    found = []
    for case in map(prepared.open, cases):
        assert case.label_ZYX is not None
        label_ZYX = deploy.segment_prepared(case.image_CZYX, call, prepared.preparation)
        found.append(evaluation.dice_by_class(np.asarray(case.label_ZYX), label_ZYX, len(classes)))
    return evaluation.mean_by_class(found, classes)


def load_network(run: Opened, ref: ModelRef, *, finished: bool = True) -> Any:
    """A trained network in eval mode.

    Raises:
        RunError: Its training is not finished.
    """
    if finished:
        training_result(run, ref)
    preparation, folder = run.prepared.preparation, ref.folder(run.out)
    if ref == TEACHER:
        return training.load_teacher(run.study, preparation, folder)
    return training.load_student(run.study, ref, preparation, folder)


def network_config(study: Study, ref: ModelRef) -> NetworkConfig:
    """The configuration of one network of a study."""
    if ref == TEACHER:
        return study.teacher.network
    return training.student_config(study, ref)


def training_key(run: Opened, ref: ModelRef) -> dict[str, Any]:
    """All that decides the weights of one network of a run."""
    prepared = content_hash(
        [run.prepared.data_hash, run.prepared.preparation.model_dump(mode="json")]
    )
    if ref == TEACHER:
        return training.teacher_key(run.study, prepared, run.split)
    return training.student_key(run.study, ref, prepared, run.split)


def training_result(run: Opened, ref: ModelRef) -> dict[str, Any]:
    """What `train` returned for a network.

    Raises:
        RunError: Its training is not finished.
    """
    stage = Stage(ref.folder(run.out), training_key(run, ref))
    if not stage.finished():
        raise RunError(
            f"The training of '{ref.name}' in '{run.out}' is not finished. Finish it first, for "
            "example with 'medstill run' on the same folder."
        )
    return stage.result()
