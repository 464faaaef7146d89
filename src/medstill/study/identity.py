"""Which trainings of a grid are the same, told before anything is prepared."""

from __future__ import annotations

from medstill import training
from medstill.config import Study, content_hash
from medstill.refs import TEACHER, student_refs
from medstill.volumes.records import Split


def draft_keys(study: Study) -> dict[str, str]:
    """Network of a study -> hash of all that decides its training, in the order of trainings.

    What decides the division of the patients stands for the patients, which are not known yet.
    """
    prepared = content_hash(study.data)
    parts, seen = content_hash(study.split), content_hash([study.split, study.label_fraction])
    split = Split(
        # As many as there are teachers, which divide them.
        train=tuple(f"{parts}-{number}" for number in range(max(1, study.teacher.folds))),
        validation=(parts,),
        test=(parts,),
        student=(seen,),
        patients={},
        data_hash=prepared,
    )
    keys = {TEACHER.name: training.teacher_key(study, prepared, split)}
    for ref in student_refs(study):
        keys[ref.name] = training.student_key(study, ref, prepared, split)
    return {name: content_hash(key) for name, key in keys.items()}
