"""Scores of grids that no network made: the Dice of every class is a function of its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from medstill.evaluation.comparison import Entry
from medstill.evaluation.grid import GridEntry
from medstill.evaluation.scores import METRICS, CaseScore, ClassScore, ModelScores

CLASSES = ("spleen", "left kidney")


def class_score(name: str, dice: float | None) -> ClassScore:
    """A score whose HD95 falls by 100 mm as Dice rises by 1; None is empty in both masks."""
    values = dict.fromkeys(METRICS, dice)
    if dice is not None:
        values |= {"hd95_mm": 100 * (1 - dice), "assd_mm": 50 * (1 - dice)}
    state = "empty" if dice is None else "missed" if dice == 0 else "scored"
    return ClassScore(class_name=name, state=state, truth_ml=1.0, predicted_ml=2.0, **values)


def entry(
    student: str,
    arm: str,
    seed: int,
    dice: Mapping[str, Sequence[float | None]],
    *,
    classes: Sequence[str] = CLASSES,
    collapsed: tuple[str, ...] = (),
) -> Entry:
    """A network; `dice` is patient -> Dice per class."""
    cases = tuple(
        CaseScore(
            case=patient,
            patient=patient,
            classes=tuple(class_score(*pair) for pair in zip(classes, values, strict=True)),
        )
        for patient, values in dice.items()
    )
    scores = ModelScores(model=f"{student} {arm}", cases=cases, nsd_tolerance_mm=2.0)
    return Entry(student=student, arm=arm, seed=seed, scores=scores, collapsed=collapsed)


Dice = Callable[[str, str, int, str, str], tuple[float, ...]]
"""Patient, fold, seed, arm, loss -> Dice per class."""


def grid(
    dice: Dice,
    *,
    folds: Mapping[str, Iterable[str]],
    seeds: Sequence[int] = (0,),
    losses: Sequence[str] = ("kl",),
    arms: Sequence[str] = ("control", "distilled"),
    students: Sequence[str] = ("compact",),
) -> list[GridEntry]:
    """All networks of a grid of folds and losses; `folds` is fold -> its test patients."""
    found = []
    for loss in losses:
        for fold, patients in folds.items():
            names = {("unet-t1", "teacher", 0): None}
            names |= {(s, a, seed): None for s in students for a in arms for seed in seeds}
            for student, arm, seed in names:
                scores = {p: dice(p, fold, seed, arm, loss) for p in patients}
                found.append(
                    GridEntry(
                        point=f"fold-{fold}_loss-{loss}",
                        values={"fold": fold, "loss": loss},
                        entry=entry(student, arm, seed, scores),
                    )
                )
    return found
