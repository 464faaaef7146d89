"""Which patients train, validate and test. The unit is always the patient."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from medstill.config import SplitConfig
from medstill.errors import RunError, SplitError
from medstill.runs import read_json, write_json
from medstill.volumes.records import CaseInfo, Split

_PARTS_STREAM, _VALIDATION_STREAM, _STUDENT_STREAM = 0, 1, 2

Groups = Mapping[str, tuple[str, ...]]
"""Name of a group (a patient, or a site) -> its patients."""
Parts = dict[str, set[str]]
"""Name of a part -> its patients."""


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
    listed in `unlabelled` unless their patient is validated or tested.

    Args:
        infos: Prepared cases in any order; the split does not depend on it.
        config: How to divide.
        label_fraction: Share of the training patients whose labels students see, rounded up.
        data_hash: Of the prepared data; kept in the split.
        splits_file: nnU-Net's `splits_final.json`.

    Raises:
        SplitError: Too few patients, an empty part, or a patient in two places.
    """
    labelled = {info.id: info.patient for info in infos if info.labelled}
    patients = sorted(set(labelled.values()))
    _demand_patients(patients)
    parts = _DIVIDERS[config.kind](infos, config, splits_file)
    for name, members in parts.items():
        if not members:
            raise SplitError(
                f"Expected at least one patient in every part, found none left for {name} "
                f"({_sizes(parts)} of {len(patients)}). Ask for fewer in the others, or add cases."
            )
    seen = nested_fractions(sorted(parts["train"]), (label_fraction,), config.seed)[label_fraction]
    held_out = parts["validation"] | parts["test"]
    named = _named_cases(splits_file, config) if config.kind == "nnunet" else set(labelled)
    split = Split(
        **{part: _cases(labelled, members, named) for part, members in parts.items()},
        student=_cases(labelled, set(seen), named),
        patients={info.id: info.patient for info in infos},
        data_hash=data_hash,
        unlabelled=tuple(
            sorted(i.id for i in infos if not i.labelled and i.patient not in held_out)
        ),
    )
    check_split(split)
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
    order = _shuffled(patients, seed, _STUDENT_STREAM)
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


def _by_fractions(infos: Sequence[CaseInfo], config: SplitConfig, _: Path | None) -> Parts:
    groups = _groups(infos, config, parts=3)
    total = sum(len(members) for members in groups.values())
    order = _shuffled(groups, config.seed, _PARTS_STREAM)
    test, order = _take(order, groups, _number(config.test, total), leave=2)
    validation, order = _take(order, groups, _number(config.validation, total), leave=1)
    rest = sum(len(groups[name]) for name in order)
    train = order
    if isinstance(config.train, int):
        if config.group_by == "patient" and rest < config.train:
            raise SplitError(
                f"Expected {config.train} training, {len(validation)} validation and {len(test)} "
                f"test patients, found {total} labelled patients. Ask for fewer, or for shares."
            )
        train, _rest = _take(order, groups, config.train, leave=0)
    return {
        "train": _members(train, groups),
        "validation": _members(validation, groups),
        "test": _members(test, groups),
    }


def _by_folds(infos: Sequence[CaseInfo], config: SplitConfig, _: Path | None) -> Parts:
    groups = _groups(infos, config, parts=max(3, config.folds))
    total = sum(len(members) for members in groups.values())
    order = _shuffled(groups, config.seed, _PARTS_STREAM)
    folds: list[list[str]] = [[] for _ in range(config.folds)]
    # The largest group goes first, always to the fold with the fewest patients so far.
    for name in sorted(order, key=lambda name: -len(groups[name])):
        min(folds, key=lambda fold: len(_members(fold, groups))).append(name)
    rest = {name: groups[name] for name in order if name not in folds[config.fold]}
    left = _shuffled(rest, config.seed, _VALIDATION_STREAM)
    validation, train = _take(left, groups, _number(config.validation, total), leave=1)
    return {
        "train": _members(train, groups),
        "validation": _members(validation, groups),
        "test": _members(folds[config.fold], groups),
    }


def _by_nnunet(infos: Sequence[CaseInfo], config: SplitConfig, splits_file: Path | None) -> Parts:
    fold = _nnunet_fold(splits_file, config)
    labelled = {info.id: info.patient for info in infos if info.labelled}
    patient_of = {info.id: info.patient for info in infos}
    unknown = sorted({*fold["train"], *fold["val"]} - set(patient_of))
    if unknown:
        raise SplitError(
            f"Expected in '{splits_file}' the names of prepared cases, found "
            f"{len(unknown)} others ({', '.join(unknown[:5])}). Correct the file, or prepare them."
        )
    trained = {labelled[case] for case in fold["train"] if case in labelled}
    test = {labelled[case] for case in fold["val"] if case in labelled}
    both = sorted(trained & test)
    if both:
        raise SplitError(
            f"Expected each patient in one part, found '{both[0]}' in train and val of fold "
            f"{config.fold} of '{splits_file}'. Move all cases of the patient to one part."
        )
    groups = {patient: (patient,) for patient in trained}
    order = _shuffled(groups, config.seed, _VALIDATION_STREAM)
    number = _number(config.validation, len(trained | test))
    validation, train = _take(order, groups, number, leave=1)
    return {"train": set(train), "validation": set(validation), "test": test}


_DIVIDERS: dict[str, Callable[[Sequence[CaseInfo], SplitConfig, Path | None], Parts]] = {
    "fractions": _by_fractions,
    "folds": _by_folds,
    "nnunet": _by_nnunet,
}


def _nnunet_fold(splits_file: Path | None, config: SplitConfig) -> dict[str, list[str]]:
    if splits_file is None:
        raise SplitError(
            "split.kind is 'nnunet', but the data set has no splits_final.json. "
            "Put the file into the data folder, or choose 'folds' or 'fractions'."
        )
    content: Any = read_json(splits_file)
    try:
        folds = [
            {key: [str(case) for case in fold[key]] for key in ("train", "val")} for fold in content
        ]
    except (KeyError, TypeError) as error:
        raise SplitError(
            f"Expected in '{splits_file}' a list of folds with 'train' and 'val', found something "
            "else. Correct the file."
        ) from error
    if config.fold >= len(folds):
        raise SplitError(
            f"Expected fold {config.fold} in '{splits_file}', found {len(folds)} folds (counted "
            "from 0). Set split.fold."
        )
    return folds[config.fold]


def _named_cases(splits_file: Path | None, config: SplitConfig) -> set[str]:
    fold = _nnunet_fold(splits_file, config)
    return {*fold["train"], *fold["val"]}


def _groups(infos: Sequence[CaseInfo], config: SplitConfig, *, parts: int) -> Groups:
    """What is kept whole: the patients, or the sites."""
    labelled = [info for info in infos if info.labelled]
    if config.group_by == "patient":
        groups = {info.patient: (info.patient,) for info in labelled}
    else:
        groups = _sites(labelled)
    if len(groups) < parts:
        raise SplitError(
            f"Expected at least {parts} {config.group_by}s for {parts} parts, found "
            f"{len(groups)}. Ask for fewer folds, "
            + ("add cases." if config.group_by == "patient" else "or set split.group_by=patient.")
        )
    return groups


def _sites(labelled: Sequence[CaseInfo]) -> dict[str, tuple[str, ...]]:
    site_of: dict[str, str] = {}
    for info in labelled:
        if info.site is None:
            raise SplitError(
                f"split.group_by is 'site', but case '{info.id}' has none: expected a site for "
                "every patient. Add a column 'site' to the table, or set split.group_by=patient."
            )
        if site_of.setdefault(info.patient, info.site) != info.site:
            raise SplitError(
                f"Expected one site for patient '{info.patient}', found "
                f"'{site_of[info.patient]}' and '{info.site}'. Correct the table, or set "
                "split.group_by=patient."
            )
    sites: defaultdict[str, list[str]] = defaultdict(list)
    for patient in sorted(site_of):
        sites[site_of[patient]].append(patient)
    return {site: tuple(members) for site, members in sites.items()}


def _take(
    order: Sequence[str], groups: Groups, number: int, *, leave: int
) -> tuple[list[str], list[str]]:
    """Groups that come nearest to so many patients, and the others, of which some must be left."""
    taken: list[str] = []
    left: list[str] = []
    count = 0
    for name in order:
        nearer = abs(count + len(groups[name]) - number) < abs(count - number)
        first = not taken and number > 0
        if (nearer or first) and len(order) - len(taken) > leave:
            taken.append(name)
            count += len(groups[name])
        else:
            left.append(name)
    return taken, left


def _number(asked: float, total: int) -> int:
    """A count as it is; a share as a rounded count, at least one unless it is 0."""
    if isinstance(asked, int):
        return asked
    return max(1, math.floor(asked * total + 0.5)) if asked > 0 else 0


def _demand_patients(patients: Sequence[str]) -> None:
    if len(patients) < 3:
        raise SplitError(
            f"Expected at least 3 patients with labels, one each for training, validation and "
            f"test; found {len(patients)} ({', '.join(patients) or 'none'}). Add cases; if each "
            "case is another patient, say so in the table or by the file names."
        )


def _shuffled(names: Sequence[str] | Groups, seed: int, stream: int) -> list[str]:
    order = sorted(names)
    generator = np.random.default_rng([seed, stream])
    return [order[index] for index in generator.permutation(len(order))]


def _members(names: Sequence[str], groups: Groups) -> set[str]:
    return {patient for name in names for patient in groups[name]}


def _cases(labelled: Mapping[str, str], patients: set[str], named: set[str]) -> tuple[str, ...]:
    return tuple(sorted(c for c, patient in labelled.items() if patient in patients and c in named))


def _sizes(parts: Parts) -> str:
    return ", ".join(f"{name} {len(members)}" for name, members in parts.items())
