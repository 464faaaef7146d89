"""All that decides a training: two with one key give the same weights."""

from __future__ import annotations

from medstill.config import Study, content_hash, deciding
from medstill.networks import design_key
from medstill.refs import GUIDED, ModelRef
from medstill.training.assembly import labelled_cases, student_config
from medstill.volumes.records import Split
from medstill.volumes.splits import teacher_splits


def teacher_key(study: Study, prepared_hash: str, split: Split) -> dict[str, object]:
    """All that decides the teacher."""
    key: dict[str, object] = {
        "stage": "teacher",
        "teacher": deciding(study.teacher),
        "seed": study.seeds[0],
        "prepared": prepared_hash,
        "cases": content_hash([split.train, split.validation]),
    }
    if study.teacher.folds:
        parts = teacher_splits(split, study.teacher.folds, study.split.seed)
        key["parts"] = content_hash([part.train for part in parts])
    if study.teacher.pretraining.steps:
        key |= _bare_cases(split)
    return key | design_key(study.teacher.network.name)


def student_key(study: Study, ref: ModelRef, prepared_hash: str, split: Split) -> dict[str, object]:
    """All that decides a student; of the distillation a control keeps the segmentation weight."""
    student, distillation = student_config(study, ref), study.distillation
    key: dict[str, object] = {
        "stage": "student",
        "arm": ref.arm,
        "student": deciding(student, {"alias": True}),
        "seed": ref.seed,
        "training": deciding(study.training),
        "prepared": prepared_hash,
        "cases": content_hash([labelled_cases(split, ref), split.validation]),
    }
    if ref.arm == "distilled":
        key["distillation"] = deciding(distillation)
    else:
        key["segmentation_weight"] = distillation.segmentation_weight
    if ref.arm == "pseudo-labels":
        key["unlabelled_batch"] = distillation.unlabelled_batch
    if study.training.head_prior is not False:
        key["prior"] = content_hash(split.student)
    if ref.arm in GUIDED:
        key["teacher"] = teacher_key(study, prepared_hash, split)
        if distillation.unlabelled_batch:
            key |= _bare_cases(split)
    return key | design_key(student.name)


def _bare_cases(split: Split) -> dict[str, object]:
    """Which cases without labels a training sees: all that are prepared but these."""
    # Most data sets have none of them, and folders of earlier editions are still known.
    return {"left_out": content_hash(split.left_out)} if split.left_out else {}
