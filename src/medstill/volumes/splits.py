"""Which patients train, validate and test. The unit is always the patient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from medstill.config import SplitConfig
from medstill.errors import RunError, SplitError
from medstill.runs import read_json, write_json
from medstill.volumes.division import (
    DIVIDERS,
    STUDENT_STREAM,
    TEACHER_STREAM,
    Parts,
    demand_site,
    named_cases,
    shuffled,
)
from medstill.volumes.records import CaseInfo, Dataset, Split


def make_split(
    infos: Sequence[CaseInfo],
    config: SplitConfig,
    label_fraction: float,
    data_hash: str,
    splits_file: Path | None = None,
) -> Split:
    """Divide the labelled patients into training, validation and test patients.

    * `fractions`: a whole number is a count of patients, another number a share of all labelled
      patients, rounded, at least one. Test and validation patients are drawn first; the rest
      trains, all of it unless `train` is a count.
    * `folds`: the fold is tested; validation patients are drawn from the others, the rest trains.
    * `nnunet`: the `val` cases of that fold in `splits_final.json` are tested; validation patients
      are drawn from its `train` cases. Cases that it does not name take no part.

    With `group_by: site` sites are kept whole in `fractions` and `folds`: they are handed out one
    by one while that brings a part nearer to its number of patients, so the numbers are met only
    as nearly as whole sites allow. There must be a site for every patient and as many sites as
    parts; sites are never divided silently. nnU-Net's file is taken as it is.

    Students see the labels of a nested share of the training patients. Cases without labels are
    listed in `unlabelled` unless their patient, or with `group_by: site` their site, is validated
    or tested.

    Args:
        infos: Prepared cases in any order; the split does not depend on it.
        config: How to divide.
        label_fraction: Share of the training patients whose labels students see, rounded up.
        data_hash: Of the prepared data; kept in the split.
        splits_file: nnU-Net's `splits_final.json`.

    Raises:
        SplitError: Too few patients, an empty part, a patient in two places, or a case without a
            site where sites are kept whole.
    """
    labelled = {info.id: info.patient for info in infos if info.labelled}
    patients = sorted(set(labelled.values()))
    _demand_patients(patients)
    parts = DIVIDERS[config.kind](infos, config, splits_file)
    for name, members in parts.items():
        if not members:
            raise SplitError(
                f"Expected at least one patient in every part, found none left for {name} "
                f"({_sizes(parts)} of {len(patients)}). Ask for fewer in the others, or add cases."
            )
    seen = nested_fractions(sorted(parts["train"]), (label_fraction,), config.seed)[label_fraction]
    left_out = _left_out(infos, config, parts["validation"] | parts["test"])
    named = named_cases(splits_file, config) if config.kind == "nnunet" else set(labelled)
    split = Split(
        **{part: _cases(labelled, members, named) for part, members in parts.items()},
        student=_cases(labelled, set(seen), named),
        patients={info.id: info.patient for info in infos},
        data_hash=data_hash,
        unlabelled=tuple(sorted({i.id for i in infos if not i.labelled} - left_out)),
        left_out=tuple(sorted(left_out)),
    )
    check_split(split)
    return split


def check_division(
    dataset: Dataset, config: SplitConfig, label_fraction: float, folds: int = 0
) -> Split:
    """Divide the patients of a data set that is not prepared yet, to see whether it can be done.

    Raises:
        SplitError: As `make_split`, and as `teacher_splits` for so many folds.
    """
    infos = [
        CaseInfo(
            id=case.id,
            patient=case.pseudonym,
            site=case.site,
            labelled=case.label is not None,
            spacing_zyx_mm=(1.0, 1.0, 1.0),
            original_spacing_zyx_mm=(1.0, 1.0, 1.0),
            voxels_by_class=(),
            image_file=(),
            content_hash="",
        )
        for case in dataset.cases
    ]
    split = make_split(infos, config, label_fraction, "not prepared", dataset.splits_file)
    teacher_splits(split, folds, config.seed)
    return split


def nested_fractions(
    patients: Sequence[str], fractions: Sequence[float], seed: int
) -> dict[float, tuple[str, ...]]:
    """Shares of the patients, each inside every larger one.

    Args:
        patients: In any order.
        fractions: Shares in (0, 1], rounded up to whole patients.
        seed: Of the order in which patients are taken.

    Returns:
        Fraction -> its patients, sorted.
    """
    order = shuffled(patients, seed, STUDENT_STREAM)
    # 0.1 * 30 is a hair above 3 in binary; that hair is no patient.
    counts = {share: math.ceil(share * len(order) - 1e-9) for share in fractions}
    return {share: tuple(sorted(order[:count])) for share, count in counts.items()}


def check_split(split: Split) -> None:
    """Demand that no patient is in two places and that students see training cases only.

    Raises:
        SplitError: A patient or a case is where it must not be.
    """
    place: dict[str, str] = {}
    for part in ("train", "validation", "test"):
        for case in getattr(split, part):
            patient = split.patients.get(case, case)
            if place.setdefault(patient, part) != part:
                raise SplitError(
                    f"Expected each patient in one part, found '{patient}' in {place[patient]} and "
                    f"in {part} (case '{case}'). Move all cases of the patient to one part."
                )
    strangers = sorted(set(split.student) - set(split.train))
    if strangers:
        raise SplitError(
            f"Expected the student's cases among the training cases, found {strangers[:5]} "
            "outside. Correct the split, or delete it to draw a new one."
        )
    for case in split.unlabelled:
        part = place.get(split.patients.get(case, case), "train")
        if part != "train":
            raise SplitError(
                f"Expected unlabelled cases of no {part} patient, found '{case}'. "
                "Correct the split, or delete it to draw a new one."
            )


def without_labels(split: Split) -> tuple[str, ...]:
    """Cases that students see without labels: the teacher's others, and those that have none."""
    return tuple(sorted({*split.train, *split.unlabelled} - set(split.student)))


def teacher_splits(split: Split, folds: int, seed: int) -> tuple[Split, ...]:
    """What each of several teachers trains on: all but its own part of the training patients.

    The patients are dealt to as many parts as there are teachers. Cases without labels of a
    patient who is left out are left out too.

    Args:
        split: The division of the run.
        folds: Number of teachers.
        seed: Of the order in which patients are dealt.

    Raises:
        SplitError: There are fewer training patients than teachers.
    """
    patients = {_patient(split, case) for case in split.train}
    if folds > len(patients):
        raise SplitError(
            f"teacher.folds is {folds}: expected at least as many training patients, found "
            f"{len(patients)}. Ask for fewer folds, or for more patients in split.train."
        )
    order = shuffled(patients, seed, TEACHER_STREAM)
    return tuple(_without(split, set(order[part::folds])) for part in range(folds))


def out_of_fold(split: Split, folds: int, seed: int) -> dict[str, tuple[int, ...]]:
    """Case that can be taught -> numbers of the teachers that never saw its patient.

    For a training patient that is one teacher; for a patient without labels it is all of them.
    """
    parts = teacher_splits(split, folds, seed)
    seen = [{_patient(split, case) for case in part.train} for part in parts]
    return {
        case: tuple(n for n, patients in enumerate(seen) if _patient(split, case) not in patients)
        for case in sorted({*split.train, *split.unlabelled})
    }


def demand_unlabelled(split: Split, references: Sequence[str]) -> None:
    """Demand images for the teacher's answers where a study asks for pseudo-labels.

    Raises:
        SplitError: The students see the labels of every training case.
    """
    if "pseudo-labels" in references and not without_labels(split):
        raise SplitError(
            "Expected training cases whose labels the students do not see, since references has "
            "pseudo-labels; found none. Lower label_fraction, add cases without labels, or take "
            "pseudo-labels out of references."
        )


def save_split(split: Split, path: Path) -> None:
    """Write a split as JSON.

    Raises:
        StorageError: The disk is full or not writable.
    """
    write_json(path, split.model_dump(mode="json"))


def load_split(path: Path, data_hash: str) -> Split:
    """Read a split and refuse one of other data.

    Raises:
        RunError: The file is missing or damaged.
        SplitError: It was made for other data, or has a patient in two places.
    """
    content = read_json(path)
    try:
        split = Split.model_validate(content)
    except ValidationError as error:
        raise RunError(
            f"'{path}' is no split ({error.error_count()} wrong entries). Delete it and repeat."
        ) from error
    if split.data_hash != data_hash:
        raise SplitError(
            f"'{path}' divides other data: expected data of hash {data_hash}, found "
            f"{split.data_hash}. Delete it to draw a new split, or pass the data it was made for."
        )
    check_split(split)
    return split


def _patient(split: Split, case: str) -> str:
    return split.patients.get(case, case)


def _without(split: Split, patients: set[str]) -> Split:
    parts = ("train", "student", "unlabelled")
    left = {
        name: tuple(c for c in getattr(split, name) if _patient(split, c) not in patients)
        for name in parts
    }
    return split.model_copy(update=left)


def _left_out(infos: Sequence[CaseInfo], config: SplitConfig, held_out: set[str]) -> set[str]:
    """Cases without labels that belong to what is validated or tested."""
    bare = [info for info in infos if not info.labelled]
    found = {info.id for info in bare if info.patient in held_out}
    if config.group_by == "site" and config.kind != "nnunet":
        sites = {info.site for info in infos if info.labelled and info.patient in held_out}
        found |= {info.id for info in bare if demand_site(info) in sites}
    return found


def _demand_patients(patients: Sequence[str]) -> None:
    if len(patients) < 3:
        raise SplitError(
            f"Expected at least 3 patients with labels, one each for training, validation and "
            f"test; found {len(patients)} ({', '.join(patients) or 'none'}). Add cases; if each "
            "case is another patient, say so in the table or by the file names."
        )


def _cases(labelled: Mapping[str, str], patients: set[str], named: set[str]) -> tuple[str, ...]:
    return tuple(sorted(c for c, patient in labelled.items() if patient in patients and c in named))


def _sizes(parts: Parts) -> str:
    return ", ".join(f"{name} {len(members)}" for name, members in parts.items())
