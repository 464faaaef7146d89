"""Fixed views of the training cases: a view is a function of the case and its number alone.

A view is a location and an augmentation. It depends neither on the run's seed nor on the student,
the step or the label fraction, so that what a teacher says of it can be kept. A case has two
series of views: one whose locations follow its labels, and one that is drawn without them. A case
that one label fraction shows with labels and another without so never lets its labels be guessed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medstill.config import TrainingConfig
from medstill.patches import augment
from medstill.patches.grid import Index, covering
from medstill.patches.sampling import PatchLocation, draw_location, extract, require_cases
from medstill.training.seeds import array_generator
from medstill.volumes.records import Preparation, PreparedCase

ANYWHERE = 0
"""Kind of a view that is located anywhere in the image; other kinds are class values."""

Kinds = NDArray[np.uint8]
View = tuple[Tensor, Tensor]
"""Image `(C, ...)` float32 and label `(...)` uint8, 255 where nothing is known."""

REMEMBERED_BYTES = 2**29
"""What a training keeps of the views that it has made: 512 MB."""


def count_images(shape_zyx: Index, preparation: Preparation) -> int:
    """Slices of a case in 2-D, in 3-D the patches that cover it."""
    if preparation.spatial_dims == 2:
        return shape_zyx[0]
    return len(covering(shape_zyx, preparation.patch_zyx, overlap=0.0))


def view_kinds(case: PreparedCase, preparation: Preparation, recipe: TrainingConfig) -> Kinds:
    """What each view of a case is centred on: `ANYWHERE` or a foreground class, `(views,)`.

    There are `recipe.views` for each slice in 2-D, and for each of the patches that cover the
    case in 3-D. `foreground_share` of them, spread evenly, take the classes of the case in turn.
    More views leave the earlier ones as they are.

    Args:
        case: A prepared case; without labels all views are located anywhere.
        preparation: Gives patch and classes.
        recipe: Gives the number of views and the share of foreground.
    """
    z, y, x = case.image_CZYX.shape[1:]
    images = count_images((z, y, x), preparation)
    classes = range(1, len(preparation.classes))
    present = [value for value in classes if len(case.places.get(value, ()))]
    kinds = np.full(recipe.views * images, ANYWHERE, dtype=np.uint8)
    if present:
        before = np.floor(np.arange(len(kinds) + 1) * recipe.foreground_share).astype(int)
        chosen = np.flatnonzero(np.diff(before))
        kinds[chosen] = np.resize(present, len(chosen))
    return kinds


@dataclass(frozen=True)
class ViewDraw:
    """Draws views of several cases, given the kinds of each."""

    kinds: tuple[Kinds, ...]

    @cached_property
    def _holders(self) -> dict[int, list[tuple[int, NDArray[np.intp]]]]:
        """Kind -> the cases that have such views, with the views' numbers."""
        found: dict[int, list[tuple[int, NDArray[np.intp]]]] = {}
        for index, kinds in enumerate(self.kinds):
            for kind in np.unique(kinds).tolist():
                found.setdefault(kind, []).append((index, np.flatnonzero(kinds == kind)))
        return dict(sorted(found.items()))

    def __call__(self, generator: np.random.Generator, foreground_share: float) -> tuple[int, int]:
        """A case's position and a view's number, balanced as `draw_location` is.

        With probability `foreground_share` a class uniformly among those that any case has views
        of, a case uniformly among those, and one of the views. Otherwise, or where there is no
        such view, the same among the views that are located anywhere.
        """
        require_cases(self.kinds)
        wants_foreground = generator.random() < foreground_share
        wanted = [kind for kind in self._holders if (kind != ANYWHERE) == wants_foreground]
        wanted = wanted or list(self._holders)
        holders = self._holders[wanted[int(generator.integers(len(wanted)))]]
        index, numbers = holders[int(generator.integers(len(holders)))]
        return index, int(numbers[generator.integers(len(numbers))])


@dataclass
class ViewMemory:
    """Views that were made before. A view never changes, so it need not be made again.

    Attributes:
        limit_bytes: Beyond it nothing more is kept; views are drawn evenly, so that none deserves
            a place more than another.
    """

    limit_bytes: int = REMEMBERED_BYTES
    _kept: dict[Hashable, View] = field(default_factory=dict, repr=False)
    _bytes: int = 0

    def __call__(self, name: Hashable, make: Callable[[], View]) -> View:
        """The view of this name, made if it is not kept."""
        found = self._kept.get(name)
        if found is None:
            found = make()
            size = sum(part.nbytes for part in found)
            if self._bytes + size <= self.limit_bytes:
                self._kept[name] = found
                self._bytes += size
        return found


def make_view(
    case: PreparedCase, number: int, kind: int, preparation: Preparation, recipe: TrainingConfig
) -> View:
    """One view.

    Args:
        case: A prepared case; its label is not looked at when it is None.
        number: Number of the view.
        kind: Its entry of `view_kinds`.
        preparation: Gives patch and padding.
        recipe: Gives the augmentation.
    """
    bare = case.label_ZYX is None
    generator = array_generator("views", _number_of(case.info.id), number, int(bare))
    location = draw_location(
        (case,),
        generator,
        patch_zyx=preparation.patch_zyx,
        foreground_share=float(kind != ANYWHERE),
        classes=(kind,),
    )
    return augmented(case, location, generator, preparation, recipe)


def augmented(
    case: PreparedCase,
    location: PatchLocation,
    generator: np.random.Generator,
    preparation: Preparation,
    recipe: TrainingConfig,
) -> View:
    """Read a patch and change it at random: image `(C, ...)` float32 and label `(...)` uint8."""
    patch_zyx, pad_value = preparation.patch_zyx, preparation.pad_value
    image_CZYX, label_ZYX = extract(case, location, patch_zyx, pad_value)
    change = augment.draw(generator, recipe.augmentation, case.info.spacing_zyx_mm, patch_zyx)
    image, label = augment.apply(
        torch.from_numpy(image_CZYX), torch.from_numpy(label_ZYX), change, pad_value=pad_value
    )
    if preparation.spatial_dims == 2:
        return image[:, 0], label[0]
    return image, label


def _number_of(case_id: str) -> int:
    return int.from_bytes(hashlib.sha256(case_id.encode()).digest()[:8], "big")
