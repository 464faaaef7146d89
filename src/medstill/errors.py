"""The exceptions of medstill.

    MedstillError                 all that a user can put right; the command exits with code 2
    ├── ConfigError               a study file or an option is wrong
    │   └── UnknownNameError      no network, layer, loss, layout or label of that name
    ├── DataError                 the images or labels on disk are wrong
    │   ├── UnreadableFileError   truncated, damaged or of an unknown format
    │   ├── GeometryError         size, spacing, orientation or position do not fit
    │   ├── IntensityError        NaN, Inf or a constant image
    │   ├── LabelError            missing labels, undeclared values, no foreground
    │   ├── LayoutError           the folder is of no known layout, or contradicts itself
    │   ├── NothingToSegmentError a scout view, where slices were expected
    │   └── SplitError            patients cannot be split as asked
    ├── ShapeError                arrays or tensors of shapes that do not fit together
    ├── RunError                  a run folder is of another study, unfinished or damaged
    ├── ModelFileError            a model file is not ours or damaged
    ├── TrainingError             training cannot go on (a loss that is not finite)
    ├── StorageError              the disk is full or not writable
    └── MissingExtraError         an optional dependency is not installed

Every message says what was expected, what was found, and what to do.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class MedstillError(Exception):
    """Anything a user can put right."""


class ConfigError(MedstillError):
    """A study file or an option is wrong."""


class UnknownNameError(ConfigError):
    """A name that is in none of our tables."""


class DataError(MedstillError):
    """The images or labels on disk are wrong."""


class UnreadableFileError(DataError):
    """A file that is truncated, damaged or of an unknown format."""


class GeometryError(DataError):
    """Size, spacing, orientation or position do not fit."""


class IntensityError(DataError):
    """NaN, Inf or a constant image."""


class LabelError(DataError):
    """Missing labels, undeclared values or no foreground."""


class LayoutError(DataError):
    """A folder of no known layout, or one that contradicts itself."""


class NothingToSegmentError(DataError):
    """A scout view, where the slices of a volume were expected."""


class SplitError(DataError):
    """Patients cannot be split as asked."""


class ShapeError(MedstillError, ValueError):
    """Arrays or tensors of shapes that do not fit together."""


class RunError(MedstillError):
    """A run folder of another study, unfinished or damaged."""


class ModelFileError(MedstillError):
    """A model file that is not ours or is damaged."""


class TrainingError(MedstillError):
    """Training cannot go on."""


class StorageError(MedstillError):
    """The disk is full or not writable."""


class MissingExtraError(MedstillError):
    """An optional dependency is not installed."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a wrong name, with the nearest right one and all there are.

    Args:
        kind: What was looked up, for example ``"network"``.
        name: The name that was not found.
        known: Every name there is.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UnknownNameError(f"No {kind} is called '{name}'.{hint} There are: {', '.join(names)}.")


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency or say which pip command installs it.

    Raises:
        MissingExtraError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name.split(".")[0]):
            raise
        raise MissingExtraError(
            f"This needs the package '{module}', which is not installed. "
            f"Install it with: pip install 'medstill[{extra}]'"
        ) from error
