"""Grids of patches and their stitching, by hand and by size of what is held."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from medstill.errors import ShapeError
from medstill.patches.grid import (
    Stitcher,
    covering,
    extract_padded,
    iterate_batches,
)
from medstill.patches.sweep import Tiling, sweep


def test_starts_worked_out_by_hand() -> None:
    assert covering((1, 1, 10), (1, 1, 4), 0.5) == ((0, 0, 0), (0, 0, 2), (0, 0, 4), (0, 0, 6))
    assert covering((1, 1, 9), (1, 1, 4), 0.0) == ((0, 0, 0), (0, 0, 2), (0, 0, 5))
    assert covering((1, 7, 4), (1, 4, 4), 0.25) == ((0, 0, 0), (0, 3, 0))


def test_an_axis_shorter_than_the_patch_gets_one_centred_patch() -> None:
    assert covering((3, 5, 9), (1, 8, 9), 0.5) == ((0, -1, 0), (1, -1, 0), (2, -1, 0))
    assert covering((3, 5, 9), (1, 9, 9), 0.5)[0] == (0, -2, 0)


def test_slices_are_covered_one_after_the_other() -> None:
    starts = covering((17, 23, 31), (1, 16, 16), 0.5)
    assert [z for z, _ in itertools.groupby(starts, key=lambda start: start[0])] == list(range(17))


@pytest.mark.parametrize(
    ("shape", "patch", "overlap", "message"),
    [
        ((0, 4, 4), (1, 4, 4), 0.5, "at least 1 voxel on each axis"),
        ((4, 4, 4), (1, 0, 4), 0.5, "Check data.patch_size"),
        ((4, 4, 4), (1, 4, 4), 1.0, "overlap from 0 to below 1, but got 1.0"),
    ],
)
def test_senseless_sizes_are_refused(shape, patch, overlap, message) -> None:
    with pytest.raises(ShapeError, match=message):
        covering(shape, patch, overlap)


def test_extract_pads_outside_only() -> None:
    array = np.arange(2 * 2 * 3 * 4, dtype=np.float32).reshape(2, 2, 3, 4)
    patch = extract_padded(array, (-1, 1, 2), (2, 3, 4), -7.0)
    assert patch.shape == (2, 2, 3, 4)
    np.testing.assert_array_equal(patch[:, 1, :2, :2], array[:, 0, 1:, 2:])
    assert (patch == -7.0).sum() == patch.size - 2 * 4


def test_extract_far_outside_is_padding() -> None:
    patch = extract_padded(np.ones((1, 2, 3, 4), np.float32), (0, 9, -20), (1, 2, 2), 0.5)
    np.testing.assert_array_equal(patch, np.full((1, 1, 2, 2), 0.5, np.float32))


def test_batches_hold_every_patch_once_and_the_rest_last() -> None:
    array = np.random.default_rng(0).normal(size=(2, 3, 7, 9)).astype(np.float16)
    batches = list(iterate_batches(array, (1, 4, 4), 0.5, 5, 0.0))
    starts = [start for _, chosen in batches for start in chosen]
    assert starts == list(covering((3, 7, 9), (1, 4, 4), 0.5))
    assert [len(batch) for batch, _ in batches] == [5, 5, 5, 5, 5, 5, 5, 1]
    assert batches[0][0].dtype == np.float32


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ShapeError, match="at least 1 patch, but batch_size is 0"):
        next(iterate_batches(np.zeros((1, 1, 4, 4)), (1, 4, 4), 0.5, 0, 0.0))


def test_an_array_without_channels_is_refused() -> None:
    with pytest.raises(ShapeError, match="axes C Z Y X"):
        next(iterate_batches(np.zeros((1, 4, 4)), (1, 4, 4), 0.5, 1, 0.0))


def test_blending_weighs_the_middle_of_a_patch_more() -> None:
    stitcher = Stitcher((1, 1, 6), 1, (1, 1, 4))
    assert covering((1, 1, 6), (1, 1, 4)) == ((0, 0, 0), (0, 0, 2))
    stitcher.add(np.zeros((1, 1, 1, 1, 4), np.float32), [(0, 0, 0)])
    stitcher.add(np.ones((1, 1, 1, 1, 4), np.float32), [(0, 0, 2)])
    near, far = np.exp(-0.5 * (0.5 / 0.5) ** 2), np.exp(-0.5 * (1.5 / 0.5) ** 2)
    expected = [0, 0, far / (near + far), near / (near + far), 1, 1]
    np.testing.assert_allclose(stitcher.result()[0, 0, 0], expected, rtol=1e-6)


def test_a_single_patch_keeps_its_values_bit_for_bit() -> None:
    patch = np.random.default_rng(0).normal(size=(1, 3, 5, 8, 8)).astype(np.float32)
    stitcher = Stitcher((5, 6, 7), 3, (5, 8, 8))
    stitcher.add(patch, [(0, -1, 0)])
    np.testing.assert_array_equal(stitcher.result(), patch[0, :, :, 1:7, :7])


def test_the_stitcher_says_what_is_wrong() -> None:
    stitcher = Stitcher((1, 6, 6), 2, (1, 4, 4))
    with pytest.raises(ShapeError, match=r"Expected patches of shape \(1, 2, 1, 4, 4\)"):
        stitcher.add(np.zeros((1, 2, 1, 4, 5), np.float32), [(0, 0, 0)])
    patch = np.zeros((1, 2, 1, 4, 4), np.float32)
    with pytest.raises(ShapeError, match=r"\(0, 1, 0\) is not one of it"):
        stitcher.add(patch, [(0, 1, 0)])
    stitcher.add(patch, [(0, 0, 0)])
    with pytest.raises(ShapeError, match="came twice"):
        stitcher.add(patch, [(0, 0, 0)])
    with pytest.raises(ShapeError, match="3 have not come"):
        stitcher.result()


@pytest.mark.parametrize(("patch", "most"), [((1, 8, 8), 1), ((6, 8, 8), 9)])
def test_sweep_holds_few_planes(patch, most, monkeypatch) -> None:
    held = []
    add = Stitcher.add

    def counting(self, *arguments):
        add(self, *arguments)
        held.append(len(self._begun))

    monkeypatch.setattr(Stitcher, "add", counting)
    array = np.random.default_rng(0).normal(size=(1, 30, 11, 13)).astype(np.float32)
    planes = list(sweep(array, lambda batch: batch, Tiling(patch, 0.5, 1)))
    assert [z for z, _ in planes] == list(range(30))
    np.testing.assert_allclose(np.stack([p for _, p in planes], axis=1), array, atol=1e-5)
    assert max(held) <= most


def test_sweep_refuses_a_network_that_changes_the_size() -> None:
    with pytest.raises(ShapeError, match="must keep the spatial size"):
        list(sweep(np.zeros((1, 1, 8, 8)), lambda x: x[..., ::2], Tiling((1, 8, 8))))


def test_grid_and_sampling_need_no_torch() -> None:
    code = (
        "import sys, medstill.patches, medstill.patches.grid, medstill.patches.sampling; "
        "sys.exit('torch' in sys.modules or 'medstill.patches.augment' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
