"""What leaves a run: which network, with which contract, verified on what."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from medstill import deploy, evaluation, training
from medstill.config import Study, study_hash
from medstill.errors import ConfigError, ModelFileError, unknown_name
from medstill.patches.grid import iterate_batches
from medstill.refs import GUIDED, TEACHER, ModelRef, student_arms, student_refs
from medstill.runs import cores
from medstill.scoring import TEST
from medstill.stages import (
    Opened,
    load_network,
    material_of,
    open_prepared,
    training_result,
)
from medstill.volumes.records import LabelArray
from medstill.volumes.terms import terms_of

CALIBRATION_BATCHES: Final = 16
"""Batches of training patients from which int8 learns its ranges."""


def students(study: Study, name: str | None, arms: Sequence[str] | None = None) -> list[ModelRef]:
    """The networks of one student of a study, or of all; of some arms, or of all.

    Raises:
        UnknownNameError: The study has no such student or arm.
    """
    names, known = [one.called for one in study.students], student_arms(study)
    if name is not None and name not in names:
        raise unknown_name("student of this study", name, names)
    asked = known if arms is None else arms
    for arm in asked:
        if arm not in known:
            raise unknown_name("arm of this study", arm, known)
    refs = student_refs(study)
    return [ref for ref in refs if name in (None, ref.student) and ref.arm in asked]


def chosen(run: Opened, name: str | None) -> ModelRef:
    """The network that stands for a student: the distilled seed with the best validation Dice.

    Args:
        run: A run folder.
        name: A student, `teacher`, or None for the study's first student.

    Raises:
        UnknownNameError: The study has no such student.
        RunError: A training is not finished.
    """
    if name == TEACHER.name:
        return TEACHER
    student = name or run.study.students[0].called
    seeds = [ref for ref in students(run.study, student) if ref.arm == "distilled"]
    return max(seeds, key=lambda ref: training_result(run, ref)["best_dice"])


def is_current(run: Opened, name: str, file: Path) -> bool:
    """Whether a file is the export of the network that stands for a student, with its contract."""
    if not file.exists():
        return False
    try:
        found = deploy.contract_in(deploy.read_metadata(file), file)
    except ModelFileError:
        return False
    asked = contract_of(run, chosen(run, name))
    return found.verification is not None and asked == found.model_copy(
        update={"verification": None}
    )


@dataclass(frozen=True)
class TrainedModel:
    """A network of a run folder as what `deploy.predict_path` takes."""

    contract: deploy.Contract
    network: Callable[[Any], Any]

    def __call__(self, array: Any, /) -> Any:
        """Logits of a batch of prepared patches."""
        return self.network(array)


def open_model(
    model: Path, student: str | None, options: deploy.PredictOptions | None
) -> deploy.Model:
    """An exported file, or a network of a run folder, on the threads and device of `options`.

    Raises:
        ModelFileError: The file is not ours or damaged.
        ConfigError: The device is not available.
        RunError: The folder holds no run, or its training is not finished.
    """
    options = options or deploy.PredictOptions()
    if not model.is_dir():
        return deploy.load_model(model, threads=options.threads, device=options.device)
    if options.device != "cpu":
        raise ConfigError(
            f"The device '{options.device}' is for exported files, but '{model}' is a run folder, "
            "which predicts with PyTorch on the CPU. Export the network, or leave the device out."
        )
    opened = open_prepared(model)
    training.set_threads(options.threads or cores())
    return model_of_run(opened, chosen(opened, student))


def model_of_run(run: Opened, ref: ModelRef) -> TrainedModel:
    """A trained network with its contract."""
    return TrainedModel(contract_of(run, ref), training.logits_function(load_network(run, ref)))


def contract_of(run: Opened, ref: ModelRef) -> deploy.Contract:
    """All that must travel with an exported network."""
    result = training_result(run, ref)
    facts = result["facts"]
    return deploy.Contract(
        network=deploy.NetworkSummary(
            name=facts["name"], parameters=facts["parameters"], macs=facts["macs"]
        ),
        preparation=run.prepared.preparation.model_copy(
            update={"seen": run.prepared.seen(run.split.train)}
        ),
        terms=terms_of(run.prepared.preparation.classes, run.study.data.terms),
        training=deploy.Origin(study=study_hash(run.study), weights=result["weights"]),
        scores=_contract_scores(run, ref),
    )


def _contract_scores(run: Opened, ref: ModelRef) -> deploy.Scores | None:
    path = ref.folder(run.out) / TEST / evaluation.SCORES_FILE
    if not path.exists():
        return None
    scores = evaluation.load_scores(path)
    settings = run.study.evaluation
    values = list(scores.per_patient_mean("dice").values())
    if not values:
        return None
    interval = evaluation.bootstrap_interval(
        values, settings.confidence, settings.resamples, settings.seed
    )
    by_class = {name: scores.per_patient(name, "dice") for name in scores.class_names}
    return deploy.Scores(
        dice=interval.mean,
        low=interval.low,
        high=interval.high,
        confidence=settings.confidence,
        patients=len(values),
        dice_by_class={
            name: sum(found.values()) / len(found) for name, found in by_class.items() if found
        },
    )


def export(
    run: Opened,
    file: Path,
    ref: ModelRef,
    options: deploy.ExportOptions,
    scratch: Path | None = None,
) -> deploy.ExportReport:
    """Write a network of a run in the format of `options`, verified on the validation cases.

    A tuning keeps its checkpoints in `scratch`, or in a temporary folder.
    """
    network, evidence = load_network(run, ref), evidence_of(run, options)
    if options.tune:
        with tempfile.TemporaryDirectory() as own:
            tuned = tuned_student(
                run, ref, evidence.calibration, options.tune, scratch or Path(own)
            )
        evidence = replace(evidence, tuned=tuned)
    return deploy.export_network(network, contract_of(run, ref), file, evidence, options)


def tuned_student(
    run: Opened, ref: ModelRef, images: Sequence[NDArray[np.floating]], steps: int, scratch: Path
) -> deploy.Tuned:
    """A student of a run after it has learned to answer in 8-bit integers.

    Args:
        run: Its run; it is not changed.
        ref: Which network.
        images: Prepared images of training patients, from which the ranges start.
        steps: Of the tuning.
        scratch: Folder for its checkpoints.

    Raises:
        ConfigError: The teacher was chosen, which has no recipe to be tuned by.
        RunError: The teacher, or what the student was trained with, is not there any more.
    """
    if ref == TEACHER:
        raise ConfigError(
            "Only students can be tuned for 8 bits, by their own recipe, but the teacher was "
            "chosen. Leave --tune out, or choose a student."
        )
    teacher = load_network(run, TEACHER) if ref.arm in GUIDED else None
    pupil = training.Pupil(ref, load_network(run, ref), teacher, ref.folder(run.out))
    found = training.tune_student(material_of(run), pupil, images, steps, scratch / "tuning")
    tuning = deploy.Tuning(
        steps=steps,
        chosen_step=found.best_step,
        dice_before=found.dice_before,
        dice_after=found.dice_after,
    )
    return deploy.Tuned(found.network, found.grids, tuning)


def evidence_of(run: Opened, options: deploy.ExportOptions) -> deploy.Evidence:
    """What an export is traced with, verified on, and, for int8, calibrated on."""
    int8 = options.precision == "int8"
    return deploy.Evidence(
        inputs_of(run, run.split.validation),
        trial_of(run) if options.verify else None,
        inputs_of(run, run.split.train, CALIBRATION_BATCHES) if int8 else (),
    )


def trial_of(run: Opened) -> deploy.Trial:
    """The validation cases, and how labels of them are scored."""
    classes = run.prepared.preparation.classes

    def mean_dice(pairs: Sequence[tuple[LabelArray, LabelArray]]) -> float:
        found = [evaluation.dice_by_class(*pair, len(classes)) for pair in pairs]
        by_class = evaluation.mean_by_class(found, classes)
        return math.fsum(by_class.values()) / len(by_class)

    return deploy.Trial([run.prepared.open(case) for case in run.split.validation], mean_dice)


def inputs_of(
    run: Opened, cases: Sequence[str], batches: int = 4, batch: int = 8
) -> list[NDArray[np.float32]]:
    """Batches of real network inputs, spread evenly over cases; the same each time."""
    preparation = run.prepared.preparation
    found: list[NDArray[np.float32]] = []
    for case in map(run.prepared.open, cases):
        image_CZYX = np.asarray(case.image_CZYX, dtype=np.float32)
        for patches_BCZYX, _ in iterate_batches(
            image_CZYX, preparation.patch_zyx, 0.0, batch, preparation.pad_value
        ):
            flat = preparation.spatial_dims == 2
            found.append(patches_BCZYX[:, :, 0] if flat else patches_BCZYX)
    # Evenly spread: the first slices of a scan hold little to disagree about.
    step = max(1, len(found) // batches)
    return found[step // 2 :: step][:batches]
