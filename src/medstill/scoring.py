"""One network of a run on the test patients: masks in the geometry of their scans, and scores."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medstill import deploy, evaluation, training
from medstill.config import Study, content_hash, deciding
from medstill.errors import RunError
from medstill.links import gallery_folder
from medstill.refs import TEACHER, ModelRef, student_arms, student_refs
from medstill.runs import Stage, atomic, read_json, read_stage, write_json
from medstill.stages import (
    Opened,
    load_network,
    open_prepared,
    training_key,
    training_result,
)
from medstill.volumes.components import largest_components
from medstill.volumes.geometry import array_CZYX, geometry_of, spacing_zyx_mm
from medstill.volumes.io import read_pair, write_image
from medstill.volumes.labels import apply_mapping, resolve_labels
from medstill.volumes.layouts import find_dataset
from medstill.volumes.pictures import picture_of
from medstill.volumes.preparecase import content_of
from medstill.volumes.records import Case, Split

log = logging.getLogger(__name__)

TEST = "test"
RECONSTRUCTION_FILE = "reconstruction.json"
COMPARISON_FILE = "comparison.json"
MOST_PSNR_DB = 200.0


def warn_of_few(split: Split, study: Study) -> None:
    """Say before hours of training where the test patients are too few to show anything."""
    patients = len({split.patients[case] for case in split.test})
    comparisons = evaluation.comparisons_of(len(study.students), student_arms(study))
    said = evaluation.beyond_reach(patients, comparisons, study.evaluation.confidence)
    if said:
        log.warning("%s", said)


def score(out: Path, ref: ModelRef, data: Path) -> None:
    """Segment the test patients in the geometry of their scans and score the masks, once.

    Control and distilled students are scored a second time with only the largest component of
    each class kept.

    Args:
        out: Run folder.
        ref: A finished network.
        data: The data set's folder, for the original scans and labels.
    """
    run = open_prepared(out)
    folder = ref.folder(out) / TEST
    stage = Stage(folder, scoring_key(run, ref))
    if stage.finished():
        return
    stage.begin()
    call = training.logits_function(load_network(run, ref))
    found: dict[str, list[evaluation.CaseScore]] = {evaluation.SCORES_FILE: []}
    for case, image, truth in test_cases(run, data):
        label = deploy.segment(image, call, run.prepared.preparation).label
        write_image(label, folder / "predictions" / f"{case.id}.nii.gz")
        label_ZYX = array_CZYX(label)[0]
        scores = _case_score(run, case, truth, label_ZYX)
        found[evaluation.SCORES_FILE].append(scores)
        if ref.arm in evaluation.FILTERED:
            filtered = largest_components(label_ZYX)
            if not np.array_equal(filtered, label_ZYX):
                scores = _case_score(run, case, truth, filtered)
            found.setdefault(evaluation.FILTERED_SCORES_FILE, []).append(scores)
    tolerance_mm = run.study.evaluation.nsd_tolerance_mm
    for name, cases in found.items():
        model = evaluation.ModelScores(
            model=ref.name, cases=tuple(cases), nsd_tolerance_mm=tolerance_mm
        )
        evaluation.save_scores(model, folder / name)
    if ref == TEACHER and run.study.teacher.reconstruction.weight:
        write_json(folder / RECONSTRUCTION_FILE, reconstruction_quality(run))
    stage.finish()


def _case_score(run: Opened, case: Case, truth: Any, label_ZYX: Any) -> evaluation.CaseScore:
    return evaluation.score_case(
        array_CZYX(truth)[0],
        label_ZYX,
        spacing_zyx_mm(geometry_of(truth)),
        run.prepared.preparation.classes[1:],
        case=case.id,
        patient=case.pseudonym,
        tolerance_mm=run.study.evaluation.nsd_tolerance_mm,
    )


def entries(run: Opened, ref: ModelRef) -> tuple[evaluation.Entry, ...]:
    """The scores of one network, filtered as well where that is an arm, for the comparison.

    Raises:
        RunError: Its training is not finished.
    """
    training_result(run, ref)
    return kept_entries(run.out, run.study, ref)


def kept_result(out: Path, ref: ModelRef) -> dict[str, Any]:
    """What the training of a network left, whatever decided it."""
    return dict(read_stage(ref.folder(out))["result"])


def kept_entries(out: Path, study: Study, ref: ModelRef) -> tuple[evaluation.Entry, ...]:
    """As `entries`, from files alone: the prepared cases need not be there any more."""
    folder = ref.folder(out)
    collapsed = tuple(kept_result(out, ref)["collapsed"])
    return tuple(
        evaluation.Entry(
            student=ref.student or study.teacher.network.name,
            arm=arm,
            seed=ref.seed,
            scores=evaluation.load_scores(file),
            collapsed=collapsed,
        )
        for arm, file in evaluation.score_files(ref.arm, folder / TEST).items()
    )


def test_cases(run: Opened, data: Path) -> Iterator[tuple[Case, Any, Any]]:
    """The test cases with image and truth (class values) as SimpleITK images.

    Raises:
        RunError: A case is missing, or its files are not those that the run was prepared from.
        DataError: See `read_pair`.
    """
    dataset = find_dataset(data, skip_bad=True)
    mapping = resolve_labels(dataset, run.study.data)
    if mapping.classes != run.prepared.preparation.classes:
        raise RunError(
            f"The labels of '{data}' give the classes {', '.join(mapping.classes)}, but this run "
            f"was prepared with {', '.join(run.prepared.preparation.classes)}. Give the folder "
            "that the run was prepared from."
        )
    by_id = {case.id: case for case in dataset.cases}
    for name in run.split.test:
        if name not in by_id:
            raise RunError(
                f"The test case '{name}' of this run is not in '{data}'. Give the folder that the "
                "run was prepared from."
            )
        _check_same_files(by_id[name], run, data)
        image, label = read_pair(by_id[name])
        assert label is not None
        yield by_id[name], image, apply_mapping(label, mapping, source=str(by_id[name].label))


def _check_same_files(case: Case, run: Opened, data: Path) -> None:
    """Networks of a run that are scored at different times are to meet the same truth."""
    # Reading the case just after takes its files from memory.
    if content_of(case) not in ("", run.prepared.infos[case.id].content_hash):
        raise RunError(
            f"The files of the test case '{case.id}' in '{data}' are not those that this run was "
            "prepared from: its image or its label was changed since. Give the folder that the run "
            "was prepared from, or begin a new run folder with the changed data."
        )


def reconstruction_quality(run: Opened) -> list[dict[str, Any]]:
    """PSNR and SSIM of the teacher's reconstruction of each prepared test case."""
    call = training.reconstruction_function(load_network(run, TEACHER))
    rows = []
    for name in run.split.test:
        case = run.prepared.open(name)
        image_CZYX = np.asarray(case.image_CZYX, dtype=np.float32)
        found_CZYX = deploy.map_prepared(image_CZYX, call, run.prepared.preparation)
        rows.append(
            {
                "case": name,
                # Equal images have no finite ratio, and JSON knows no infinity.
                "psnr_db": min(evaluation.psnr(image_CZYX, found_CZYX), MOST_PSNR_DB),
                "ssim": evaluation.ssim(image_CZYX, found_CZYX),
            }
        )
    return rows


def paint_gallery(run: Opened, data: Path) -> None:
    """Keep one slice of each test case for the report's overlays: the one with most foreground."""
    pages = {name: gallery_folder(run.out) / f"{name}.npz" for name in run.split.test}
    if all(path.exists() for path in pages.values()):
        return
    for case, image, truth in test_cases(run, data):
        picture = picture_of(image, truth, run.prepared.preparation)
        with atomic(pages[case.id]) as draft:
            np.savez_compressed(draft, allow_pickle=False, **picture)


def compare(out: Path, data: Path) -> evaluation.Summary:
    """Score every trained network of a run, compare the arms and keep what the report shows.

    It does not take the run's lock: whoever calls it does.

    Returns:
        What is also written to `comparison.json`.
    """
    opened = open_prepared(out)
    refs = (TEACHER, *student_refs(opened.study))
    for ref in refs:
        score(out, ref, data)
    found = [entry for ref in refs for entry in entries(opened, ref)]
    summary = evaluation.summarise(found, opened.study.evaluation)
    write_json(out / COMPARISON_FILE, summary.model_dump(mode="json"))
    paint_gallery(opened, data)
    return summary


def scoring_key(run: Opened, ref: ModelRef) -> dict[str, Any]:
    """All that decides the test scores of one network of a run."""
    return {
        "stage": "scores",
        "training": content_hash(training_key(run, ref)),
        "test": list(run.split.test),
        "evaluation": deciding(run.study.evaluation),
    }


def results(out: Path) -> tuple[evaluation.Summary, dict[str, Any]]:
    """The comparison of an evaluated run, and the facts of its networks.

    The facts stand under the student's name, the teacher's under `teacher`.
    """
    opened = open_prepared(out)
    summary = evaluation.Summary.model_validate(read_json(out / COMPARISON_FILE))
    refs = (TEACHER, *student_refs(opened.study))
    return summary, {ref.student or ref.arm: training_result(opened, ref)["facts"] for ref in refs}
