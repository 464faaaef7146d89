"""How patients are divided: by shares or counts, by folds, or as nnU-Net's file says.

Each divider takes prepared cases and returns the patients of each part, whatever the order of the
cases. What is kept whole is a group: a patient, or all patients of a site.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medstill.config import SplitConfig
from medstill.errors import SplitError
from medstill.runs import read_json
from medstill.volumes.records import CaseInfo

PARTS_STREAM, VALIDATION_STREAM, STUDENT_STREAM, TEACHER_STREAM = 0, 1, 2, 3
"""Separate streams of one seed, so that one draw does not move another."""

Groups = Mapping[str, tuple[str, ...]]
"""Name of a group -> its patients."""
Parts = dict[str, set[str]]
"""Name of a part -> its patients."""


def _by_fractions(infos: Sequence[CaseInfo], config: SplitConfig, _: Path | None) -> Parts:
    groups = _groups(infos, config, parts=3)
    total = sum(len(members) for members in groups.values())
    order = shuffled(groups, config.seed, PARTS_STREAM)
    test, order = _take("test", order, groups, _number(config.test, total), leave=2)
    validation, order = _take(
        "validation", order, groups, _number(config.validation, total), leave=1
    )
    train = order
    if isinstance(config.train, int):
        train, _rest = _take("train", order, groups, config.train, leave=0)
    return {
        "train": _members(train, groups),
        "validation": _members(validation, groups),
        "test": _members(test, groups),
    }


def _by_folds(infos: Sequence[CaseInfo], config: SplitConfig, _: Path | None) -> Parts:
    groups = _groups(infos, config, parts=max(3, config.folds))
    total = sum(len(members) for members in groups.values())
    order = shuffled(groups, config.seed, PARTS_STREAM)
    folds: list[list[str]] = [[] for _ in range(config.folds)]
    # The largest group goes first, always to the fold with the fewest patients so far.
    for name in sorted(order, key=lambda name: -len(groups[name])):
        min(folds, key=lambda fold: len(_members(fold, groups))).append(name)
    rest = {name: groups[name] for name in order if name not in folds[config.fold]}
    left = shuffled(rest, config.seed, VALIDATION_STREAM)
    validation, train = _take(
        "validation", left, groups, _number(config.validation, total), leave=1
    )
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
    order = shuffled(groups, config.seed, VALIDATION_STREAM)
    number = _number(config.validation, len(trained | test))
    validation, train = _take("validation", order, groups, number, leave=1)
    return {"train": set(train), "validation": set(validation), "test": test}


DIVIDERS: dict[str, Callable[[Sequence[CaseInfo], SplitConfig, Path | None], Parts]] = {
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


def named_cases(splits_file: Path | None, config: SplitConfig) -> set[str]:
    """All cases that a fold of nnU-Net's file names."""
    fold = _nnunet_fold(splits_file, config)
    return {*fold["train"], *fold["val"]}


def _groups(infos: Sequence[CaseInfo], config: SplitConfig, *, parts: int) -> Groups:
    """What is kept whole: the patients, or the sites."""
    labelled = [info for info in infos if info.labelled]
    if config.group_by == "patient":
        groups: Groups = {info.patient: (info.patient,) for info in labelled}
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
        site = demand_site(info)
        if site_of.setdefault(info.patient, site) != site:
            raise SplitError(
                f"Expected one site for patient '{info.patient}', found "
                f"'{site_of[info.patient]}' and '{site}'. Correct the table, or set "
                "split.group_by=patient."
            )
    sites: defaultdict[str, list[str]] = defaultdict(list)
    for patient in sorted(site_of):
        sites[site_of[patient]].append(patient)
    return {site: tuple(members) for site, members in sites.items()}


def demand_site(info: CaseInfo) -> str:
    """The site of a case.

    Raises:
        SplitError: It has none.
    """
    if info.site is None:
        raise SplitError(
            f"split.group_by is 'site', but case '{info.id}' has none: expected a site for "
            "every patient. Add a column 'site' to the table, or set split.group_by=patient."
        )
    return info.site


def _take(
    part: str, order: Sequence[str], groups: Groups, number: int, *, leave: int
) -> tuple[list[str], list[str]]:
    """Groups that come nearest to so many patients, and the others, of which some must be left."""
    available = sum(len(groups[name]) for name in order)
    if number > available - leave:
        rest = f" and the parts after it need at least {leave}" if leave else ""
        raise SplitError(
            f"split.{part} asks for {number} patients{rest}, but {available} are left to divide. "
            "Ask for fewer in split.train, split.validation or split.test, or add cases."
        )
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


def shuffled(names: Iterable[str], seed: int, stream: int) -> list[str]:
    """The names in an order that depends on the seed and the stream alone."""
    order = sorted(names)
    generator = np.random.default_rng([seed, stream])
    return [order[index] for index in generator.permutation(len(order))]


def _members(names: Sequence[str], groups: Groups) -> set[str]:
    return {patient for name in names for patient in groups[name]}
