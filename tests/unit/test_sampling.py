"""Where samples are drawn and what is read."""

from collections import Counter

import numpy as np
import pytest

from medstill.config import IGNORE
from medstill.errors import DataError
from medstill.patches.sampling import PatchLocation, draw_location, extract
from medstill.volumes.records import CaseInfo, PreparedCase

SHAPE = (17, 23, 31)


def prepared(label: np.ndarray | None, shape=SHAPE, seed: int = 0) -> PreparedCase:
    image = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float16)
    values = () if label is None else tuple(int(v) for v in np.unique(label) if v not in (0, 255))
    info = CaseInfo(
        id=f"case-{seed}",
        patient=f"patient-{seed}",
        labelled=label is not None,
        spacing_zyx_mm=(3.0, 2.0, 1.0),
        original_spacing_zyx_mm=(3.0, 2.0, 1.0),
        voxels_by_class=(),
        image_file=("image.nii.gz",),
        content_hash="0",
    )
    places = {v: np.argwhere(label == v).astype(np.int32) for v in values}
    return PreparedCase(info, image, label, places)


def labelled(*voxels: tuple[int, tuple[int, int, int]], shape=SHAPE, seed: int = 0) -> PreparedCase:
    label = np.zeros(shape, np.uint8)
    for value, place in voxels:
        label[place] = value
    return prepared(label, shape, seed)


def locations(cases, count: int, *, patch, share: float, classes=(1, 2), seed: int = 0):
    generator = np.random.default_rng(seed)
    return [
        draw_location(cases, generator, patch_zyx=patch, foreground_share=share, classes=classes)
        for _ in range(count)
    ]


@pytest.mark.parametrize("patch", [(1, 8, 9), (5, 8, 9), (32, 32, 9)])
def test_a_foreground_sample_contains_a_place_and_stays_inside(patch) -> None:
    case = labelled((1, (0, 0, 30)), (2, (9, 22, 4)))
    for location in locations([case], 60, patch=patch, share=1.0):
        _, label = extract(case, location, patch, 0.0)
        assert label.max() > 0
        for start, length, size in zip(location.start_zyx, patch, SHAPE, strict=True):
            assert 0 <= start <= size - length or start == -((length - size) // 2)


def test_classes_come_equally_often_whatever_their_size_and_number_of_cases() -> None:
    big = np.ones(SHAPE, np.uint8)
    cases = [prepared(big, seed=0), prepared(big, seed=1), labelled((2, (3, 4, 5)), seed=2)]
    found = Counter(place.case_index for place in locations(cases, 900, patch=(1, 4, 4), share=1.0))
    assert found[2] == pytest.approx(450, abs=75)
    assert found[0] == pytest.approx(225, abs=65)


def test_the_slice_is_that_of_the_place_and_the_position_in_it_varies() -> None:
    case = labelled((1, (11, 12, 15)))
    starts = [p.start_zyx for p in locations([case], 400, patch=(1, 6, 7), share=1.0)]
    assert {z for z, _, _ in starts} == {11}
    assert {y for _, y, _ in starts} == set(range(7, 13))
    assert {x for _, _, x in starts} == set(range(9, 16))


def test_uniform_positions_reach_every_start() -> None:
    case = labelled((1, (11, 12, 15)))
    starts = [p.start_zyx for p in locations([case], 900, patch=(14, 20, 40), share=0.0)]
    assert {z for z, _, _ in starts} == set(range(4))
    assert {y for _, y, _ in starts} == set(range(4))
    assert {x for _, _, x in starts} == {-4}


def test_the_share_is_kept() -> None:
    case = labelled((1, (11, 12, 15)))
    drawn = locations([case], 1000, patch=(1, 23, 31), share=0.3)
    expected = 1000 * (0.3 + 0.7 / 17)
    assert sum(p.start_zyx[0] == 11 for p in drawn) == pytest.approx(expected, abs=60)


def test_unlabelled_cases_come_by_the_uniform_draw_only() -> None:
    cases = [prepared(None, seed=0), labelled((1, (11, 12, 15)), seed=1)]
    assert {p.case_index for p in locations(cases, 50, patch=(1, 4, 4), share=1.0)} == {1}
    assert {p.case_index for p in locations(cases, 50, patch=(1, 4, 4), share=0.0)} == {0, 1}
    only = locations(cases[:1], 50, patch=(1, 4, 4), share=1.0)
    assert {p.case_index for p in only} == {0}


def test_classes_that_are_not_asked_for_draw_nothing() -> None:
    case = labelled((3, (11, 12, 15)))
    drawn = locations([case], 200, patch=(1, 23, 31), share=1.0, classes=(1, 2))
    assert len({p.start_zyx[0] for p in drawn}) == 17


def test_a_draw_depends_on_the_generator_alone() -> None:
    cases = [labelled((1, (11, 12, 15)), seed=i) for i in range(3)]
    np.random.seed(1)  # noqa: NPY002
    first = locations(cases, 20, patch=(3, 8, 9), share=0.5, seed=7)
    np.random.seed(2)  # noqa: NPY002
    assert locations(cases, 20, patch=(3, 8, 9), share=0.5, seed=7) == first
    assert locations(cases, 20, patch=(3, 8, 9), share=0.5, seed=8) != first


def test_no_case_is_an_error() -> None:
    with pytest.raises(DataError, match="at least one case to draw training samples from"):
        locations([], 1, patch=(1, 4, 4), share=0.5)


def test_extract_reads_image_and_label_of_the_same_voxels() -> None:
    label = np.random.default_rng(1).integers(0, 4, SHAPE).astype(np.uint8)
    case = prepared(label)
    image, found = extract(case, PatchLocation(0, (2, 3, 5)), (4, 6, 7), 0.0)
    np.testing.assert_array_equal(found, label[2:6, 3:9, 5:12])
    np.testing.assert_array_equal(image, case.image_CZYX[:, 2:6, 3:9, 5:12].astype(np.float32))
    assert image.dtype == np.float32
    assert found.dtype == np.uint8


def test_padding_is_background_of_a_labelled_case() -> None:
    case = prepared(np.full(SHAPE, IGNORE, np.uint8))
    image, label = extract(case, PatchLocation(0, (-1, 20, 0)), (2, 6, 31), -3.0)
    assert (image[:, 0] == -3.0).all()
    assert (image[:, 1, 3:] == -3.0).all()
    assert (label[0] == 0).all()
    assert (label[1, :3] == IGNORE).all()
    assert (label[1, 3:] == 0).all()


def test_a_case_without_label_is_ignored_everywhere() -> None:
    _, label = extract(prepared(None), PatchLocation(0, (-1, 20, 0)), (2, 6, 31), 0.0)
    assert (label == IGNORE).all()


def test_extract_gives_its_own_arrays() -> None:
    case = prepared(np.ones(SHAPE, np.uint8))
    image, label = extract(case, PatchLocation(0, (0, 0, 0)), (2, 2, 2), 0.0)
    image[:], label[:] = 9, 9
    assert case.label_ZYX is not None
    assert case.label_ZYX.max() == 1
    assert case.image_CZYX.max() < 9
