"""THE PAGE: volumes on disk become a distilled student, scores with intervals and a report.

    prepare -> split -> train the teacher -> train control and distilled students
        -> score -> compare -> export -> report          and: predict a new volume

Every stage works on a run folder, is skipped when it is finished, and can be called by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medstill import deploy, evaluation, handover, scoring, stages, training
from medstill import reporting as pages
from medstill.config import Study
from medstill.links import prepared_folder
from medstill.lock import alone_in_run, alone_in_training, demand_free
from medstill.refs import GUIDED, TEACHER, student_refs
from medstill.runs import check_run, cores, open_run
from medstill.stages import Job, Perform, in_turn
from medstill.volumes.layouts import find_dataset
from medstill.volumes.preparation import draft_preparation
from medstill.volumes.prepare import prepare as prepare_cases
from medstill.volumes.records import Dataset
from medstill.volumes.splits import (
    check_division,
    demand_unlabelled,
    load_split,
    make_split,
    save_split,
)
from medstill.volumes.store import PreparedSet, demand_foreground

if TYPE_CHECKING:
    from medstill.deploy import CaseResult, ExportOptions, ExportReport, PredictOptions
    from medstill.evaluation import ModelScores, Summary
    from medstill.training import Estimate

MODELS = "models"
AnyPath = Path | str

REPORT_FILE = "report.html"


def run(
    study: Study,
    data: AnyPath,
    out: AnyPath,
    *,
    perform: Perform = in_turn,
    skip_bad: bool = False,
    resume: bool = True,
) -> Path:
    """Everything, from volumes to the report. Finished stages are skipped.

    Args:
        study: What is computed.
        data: Folder of a data set in any known layout.
        out: Run folder; a new one, or one of the same study.
        perform: Runs the jobs: in turn, or side by side (`medstill.study.perform_for`).
        skip_bad: Leave bad cases out and list them instead of stopping at the first.
        resume: Take interrupted trainings up again at their last validation.

    Returns:
        The report page.

    Raises:
        MedstillError: Study, data or folder are wrong; what is finished stays finished.
    """
    data, out = Path(data), Path(out)
    demand_free(out)
    check(study, data, skip_bad=skip_bad)
    check_run(out, study)
    with alone_in_run(out):
        _prepare(study, find_dataset(data, skip_bad=skip_bad), out, skip_bad)
        perform(jobs(study, data, out, resume=resume))
        scoring.compare(out, data)
        for student in study.students:
            file = out / MODELS / f"{student.called}.onnx"
            if not handover.is_current(stages.open_prepared(out), student.called, file):
                export(out, file, student=student.called)
        return report(out)


def check(study: Study, data: AnyPath, *, skip_bad: bool = False) -> None:
    """Check names, sizes, labels, data layout and the split before any work starts.

    Raises:
        ConfigError: A name or a size in the study is wrong.
        DataError: The data's layout or labels are wrong.
    """
    data = Path(data)
    dataset = find_dataset(data, skip_bad=skip_bad)
    split = check_division(dataset, study.split, study.label_fraction, study.teacher.folds)
    scoring.warn_of_few(split, study)
    training.check_networks(study, draft_preparation(dataset, study.data))


def estimate(study: Study, data: AnyPath) -> Estimate:
    """What the trainings of a study will cost, from a few timed steps on noise."""
    data = Path(data)
    dataset = find_dataset(data, skip_bad=True)
    images = 0.0 if study.distillation.cache == "off" else training.taught_images(study, dataset)
    preparation = draft_preparation(dataset, study.data)
    return training.estimate(study, preparation, study.engine.workers or cores(), images)


def prepare(study: Study, data: AnyPath, out: AnyPath, *, skip_bad: bool = False) -> PreparedSet:
    """Bring all cases to one grid and intensity scale, and divide the patients.

    Raises:
        DataError: Images, labels, layout or split are wrong.
        RunError: `out` belongs to another study, or another process computes into it.
    """
    data, out = Path(data), Path(out)
    dataset = find_dataset(data, skip_bad=skip_bad)
    check_run(out, study)
    with alone_in_run(out):
        return _prepare(study, dataset, out, skip_bad)


def _prepare(study: Study, dataset: Dataset, out: Path, skip_bad: bool) -> PreparedSet:
    check_run(out, study)
    target, workers = prepared_folder(out), study.engine.workers
    prepared = prepare_cases(dataset, study.data, target, workers=workers, skip_bad=skip_bad)
    divide(study, dataset, prepared, out)
    return prepared


def divide(study: Study, dataset: Dataset, prepared: PreparedSet, out: Path) -> None:
    """Divide the patients of prepared cases, and claim the run folder for the study.

    Raises:
        DataError: The patients cannot be divided so, or no training case holds a foreground class.
        RunError: `out` belongs to another study.
    """
    infos = tuple(prepared.infos.values())
    split = make_split(
        infos, study.split, study.label_fraction, prepared.data_hash, dataset.splits_file
    )
    shown = [info for info in infos if info.id in split.student]
    demand_foreground(shown, prepared.preparation.classes, where="the students' training cases")
    demand_unlabelled(split, study.references)
    if (out / stages.SPLIT_FILE).exists():
        load_split(out / stages.SPLIT_FILE, prepared.data_hash)
    save_split(split, out / stages.SPLIT_FILE)
    open_run(out, study)


def jobs(study: Study, data: Path, out: Path, *, resume: bool = True) -> tuple[Job, ...]:
    """Every training and scoring of a study, in an order in which they can run."""
    found: list[Job] = []
    for ref in (TEACHER, *student_refs(study)):
        needs = (TEACHER.name,) if ref.arm in GUIDED else ()
        folder = ref.folder(out)
        found.append(Job(ref.name, stages.train, (out, ref, resume), needs, folder))
        work = (out, ref, data)
        scores = Job(f"{ref.name} scores", scoring.score, work, (ref.name,), folder / scoring.TEST)
        found.append(scores)
    return tuple(found)


def train_teacher(out: AnyPath, *, resume: bool = True) -> dict[str, Any]:
    """Train the teacher of a prepared run on all training patients; see `stages.train`."""
    out = Path(out)
    with alone_in_training(out):
        return stages.train(out, TEACHER, resume)


def distill(
    out: AnyPath,
    *,
    student: str | None = None,
    arms: Sequence[str] | None = None,
    resume: bool = True,
) -> dict[str, dict[str, Any]]:
    """Train the students of a run, control, distilled and references by one recipe.

    Args:
        out: Run folder; the arms that learn from the teacher need it finished.
        student: One of the study's students; None trains all of them.
        arms: Which of the study's arms to train; None trains all of them.
        resume: Take interrupted trainings up again.

    Returns:
        Result of each training by name; see `stages.train`.

    Raises:
        UnknownNameError: The study has no such student or arm.
        RunError: The teacher is not finished, and an arm learns from it; or `alone_in_training`.
    """
    out = Path(out)
    opened = stages.open_prepared(out)
    chosen = handover.students(opened.study, student, arms)
    if any(ref.arm in GUIDED for ref in chosen):
        stages.training_result(opened, TEACHER)
    with alone_in_training(out):
        return {ref.name: stages.train(out, ref, resume) for ref in chosen}


def evaluate(out: AnyPath, data: AnyPath) -> Summary:
    """Score every trained network on the test patients and compare the arms.

    Returns:
        What is also written to `comparison.json`.
    """
    out, data = Path(out), Path(data)
    stages.open_prepared(out)
    with alone_in_run(out):
        return scoring.compare(out, data)


def evaluate_masks(
    prediction: AnyPath, truth: AnyPath, *, tolerance_mm: float = 2.0, save: Path | None = None
) -> ModelScores:
    """Score a folder of masks against a folder of true ones of the same names.

    Args:
        prediction: Folder of predicted masks, or one file.
        truth: The true ones.
        tolerance_mm: Tolerance of the normalised surface distance.
        save: Where to write the scores as JSON.

    Raises:
        ConfigError: The tolerance is no length.
        DataError: Masks are missing, damaged or of another geometry, or `save` is one of them.
    """
    prediction, truth = Path(prediction), Path(truth)
    return evaluation.score_folders(prediction, truth, tolerance_mm=tolerance_mm, save=save)


def export(
    out: AnyPath,
    file: AnyPath,
    *,
    student: str | None = None,
    options: ExportOptions | None = None,
    scratch: Path | None = None,
) -> ExportReport:
    """Write one network of a run as an ONNX file that needs no PyTorch, or in another format.

    Args:
        out: Run folder.
        file: The `.onnx` file to write, or the folder of another format.
        student: `teacher`, or one of the study's students: of its distilled networks the seed
            with the best validation score. None takes the study's first student.
        options: Format, precision, tuning and verification; see `medstill.ExportOptions`.
        scratch: Where a tuning keeps its checkpoints; None takes a temporary folder.

    Raises:
        ConfigError: The name does not fit the format, or there is nothing to tune.
        StorageError: Nothing can be written there.
        ModelFileError: The exported network does not agree with the trained one.
    """
    out, file = Path(out), Path(file)
    options = options or deploy.ExportOptions()
    deploy.check_target(file, options)
    opened = stages.open_prepared(out)
    return handover.export(opened, file, handover.chosen(opened, student), options, scratch)


def predict(
    model: AnyPath,
    source: AnyPath,
    target: AnyPath,
    *,
    student: str | None = None,
    options: PredictOptions | None = None,
    on_case: Callable[[CaseResult], None] | None = None,
) -> tuple[CaseResult, ...]:
    """Segment a file, a DICOM folder or a folder of files.

    Args:
        model: An exported file, which needs no PyTorch, or a run folder.
        source: What to segment.
        target: The file or folder to write; labels in the geometry of the input.
        student: Which network of a run folder, as in `export`.
        options: How, and with what; see `medstill.PredictOptions`.
        on_case: Called with each result as it comes.

    Returns:
        One result a case; look at `error` of each.

    Raises:
        MedstillError: The model or a single input is wrong.
    """
    loaded = handover.open_model(Path(model), student, options)
    return deploy.predict_path(loaded, Path(source), Path(target), options, on_case=on_case)


def report(out: AnyPath) -> Path:
    """Write the report page of a run, with its students' cards, or of a study of many runs."""
    out = Path(out)
    if pages.is_grid(out):
        return pages.write_grid_report(out, out / REPORT_FILE)
    pages.write_cards(out)
    return pages.write_report(out, out / REPORT_FILE)
