"""Numbers and verdicts as a reader sees them."""

from __future__ import annotations

import re

from medstill.config import Study
from medstill.printed import p_text
from medstill.reporting.gridrecords import GridGain
from medstill.reporting.records import Facts, Gain, Interval

DIGITS = {"hd95_mm": 1, "assd_mm": 1}
METRIC_NAMES = {"dice": "Dice", "hd95_mm": "HD95 (mm)", "nsd": "NSD"}
ARM_NAMES = {
    "teacher": "teacher",
    "control": "control",
    "distilled": "distilled",
    "control+largest-component": "control (largest component)",
    "distilled+largest-component": "distilled (largest component)",
    "all-labels": "plain, all the teacher's labels",
    "pseudo-labels": "plain, the teacher's answers as labels",
}
CONTROLS = ("control", "control+largest-component")
"""Arms of the control's own labels; every other one is a reference that saw more."""
MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"
_QUOTED_PATH = re.compile(
    # An apostrophe within a name is followed by a letter, the one that closes a quotation is not.
    r"(?<!\w)'(?:[^'\n]|'(?=\w))*[\\/]((?:[^'\\/\n]|'(?=\w))+)[\\/]?'(?!\w)"
)
_BARE_PATH = re.compile(
    # A folder may have spaces in its name; one with a dot and a space is taken for two words.
    r"(?<![\w.])(?:[A-Za-z]:)?[\\/]"
    r"(?:(?:[^\s'\"\\/]+|[^\s'\"\\/.:;,]+(?: [^\s'\"\\/.:;,]+)+)[\\/])*([^\s'\"\\/]+)"
)


def arm_name(arm: str) -> str:
    """An arm as a reader sees it."""
    return ARM_NAMES.get(arm, arm)


def fixed(value: float | None, metric: str = "dice", *, signed: bool = False) -> str:
    """A number with the digits that suit its metric, with a true minus sign.

    >>> fixed(0.5), fixed(-12.34, "hd95_mm"), fixed(0.1, signed=True), fixed(-0.0001)
    ('0.500', '−12.3', '+0.100', '0.000')
    """
    if value is None:
        return NOTHING
    digits = DIGITS.get(metric, 3)
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return (MINUS if value < 0 else "+" if signed else "") + text


def spread(interval: Interval | None, metric: str = "dice", *, signed: bool = False) -> str:
    """The ends of an interval."""
    if interval is None:
        return ""
    low, high = (fixed(end, metric, signed=signed) for end in (interval.low, interval.high))
    return f"{low} to {high}"


def quantity(count: float) -> str:
    """A large count, short.

    >>> quantity(43_236_036), quantity(57_297), quantity(812)
    ('43.2 M', '57.3 k', '812')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.99995 * size:
            return f"{count / size:.1f} {letter}"
    return f"{count:.0f}"


def field_text(facts: Facts) -> str:
    """A receptive field."""
    field = facts.receptive_field
    if field is None:
        return NOTHING
    return ("≥ " if field.lower_bound else "") + " × ".join(map(str, field.size))


def percent(share: float) -> str:
    """A share in percent, without digits that say nothing.

    >>> percent(0.95), percent(0.975)
    ('95 %', '97.5 %')
    """
    return f"{100 * share:g} %"


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "seed"), plural(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def teachers(study: Study) -> str:
    """What the intervals do not cover, as words: the teacher, or the ensemble of teachers."""
    folds = study.teacher.folds
    return f"one ensemble of {folds} teachers" if folds else "one teacher"


def change_text(gain: Gain, seeds: int) -> str:
    """What a comparison found, in one sentence.

    Args:
        gain: Distilled minus control, or minus a reference.
        seeds: How many seeds each patient's value is the mean of.
    """
    found, metric = gain.comparison, gain.metric
    what = {"dice": "mean Dice", "hd95_mm": "mean HD95"}.get(metric, metric)
    unit = " mm" if metric.endswith("_mm") else ""
    interval = found.difference
    ours = "distilled" if gain.arm == "distilled" else "filtered distilled"
    who = "Distillation changed the" if gain.control == "control" else f"The {ours} student's"
    verb = "by" if gain.control == "control" else "differs by"
    return (
        f"{who} {what} {verb} {fixed(interval.mean, metric, signed=True)}{unit} "
        f"({percent(interval.confidence)} interval {spread(interval, metric)}{unit}; "
        f"{plural(found.n, 'patient')}, {plural(seeds, 'seed')})"
    )


def difference_text(gain: GridGain) -> str:
    """What a comparison found in one metric: the difference, its interval, n and the verdict."""
    found, metric = gain.comparison, gain.metric
    unit = " mm" if metric.endswith("_mm") else ""
    name = {"dice": "Mean Dice", "hd95_mm": "Mean HD95"}.get(metric, metric)
    interval = found.difference
    uncertain = gain.verdict not in ("better", "worse") and (interval.low > 0 or interval.high < 0)
    adjusted = p_text(gain.p_holm, interval.confidence)
    reason = f", since the adjusted p is {adjusted}" if uncertain else ""
    return (
        f"{name} {fixed(interval.mean, metric, signed=True)}{unit} "
        f"({percent(interval.confidence)} interval {spread(interval, metric, signed=True)}{unit}; "
        f"{plural(found.n, 'patient')}): {gain.verdict}{reason}"
    )


def interval_text(interval: Interval | None, metric: str) -> str:
    """A mean with its interval, such as `0.812 (0.790 to 0.835)`."""
    if interval is None:
        return NOTHING
    return f"{fixed(interval.mean, metric)} ({spread(interval, metric)})"


def without_paths(text: str) -> str:
    """A message with file names in place of paths, which name machines and people.

    >>> without_paths("'/home/ann/scans/a b.nii' is cut; see C:\\\\data\\\\x.nii and y/z.")
    "'a b.nii' is cut; see x.nii and y/z."
    >>> without_paths("'/home/o'brien/a.nii' and /data/Jane Doe/b.nii: cut.")
    "'a.nii' and b.nii: cut."
    """
    return _BARE_PATH.sub(r"\1", _QUOTED_PATH.sub(r"'\1'", text))
