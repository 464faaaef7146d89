"""The class that users hold: equal results from any input, any thread and any number of threads."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

import medstill
from medstill import cli, handover
from medstill.deploy.cases import PredictOptions
from medstill.deploy.devices import check_running
from medstill.deploy.runtime import load_model
from medstill.deploy.segmenter import Segmenter
from medstill.errors import ConfigError, GeometryError, ShapeError
from tiny_onnx import CLASSES, write


def values(seed=0, channels=1):
    coarse = np.random.default_rng(seed).normal(0, 150, (4, 5, 5)).astype(np.float32)
    grown = sitk.Expand(sitk.GetImageFromArray(coarse), (6, 5, 5), sitk.sitkBSpline)
    array = sitk.GetArrayFromImage(grown)[:20, :23, :24].astype(np.int16)
    return array if channels == 1 else np.stack([array] * channels)


def image(seed=0):
    made = sitk.GetImageFromArray(values(seed))
    made.SetSpacing((1.0, 2.0, 3.0))
    return made


def label(found):
    return sitk.GetArrayFromImage(found.label)


@pytest.fixture(params=[2, 3])
def path(tmp_path, request):
    return write(tmp_path / "model.onnx", dims=request.param)


def test_paths_images_and_arrays_give_the_same(path, tmp_path):
    segmenter = medstill.Segmenter(path, threads=1)
    sitk.WriteImage(image(), tmp_path / "scan.nii.gz")
    expected = segmenter(image())
    assert set(np.unique(label(expected))) == {0, 1, 2}
    assert expected.label.GetPixelID() == sitk.sitkUInt8
    for given in (tmp_path / "scan.nii.gz", str(tmp_path / "scan.nii.gz")):
        np.testing.assert_array_equal(label(segmenter(given)), label(expected))
    found = segmenter(values(), spacing_zyx_mm=(3.0, 2.0, 1.0))
    np.testing.assert_array_equal(label(found), label(expected))
    assert found.volumes_ml == expected.volumes_ml


def test_any_number_of_threads_gives_the_same(path):
    one, three = Segmenter(path, threads=1), Segmenter(path, threads=3)
    for batch_size in (1, 4):
        many = Segmenter(path, threads=2, batch_size=batch_size)
        np.testing.assert_array_equal(label(many(image())), label(one(image())))
    np.testing.assert_array_equal(label(three(image())), label(one(image())))


def test_several_threads_may_share_one(path):
    segmenter = Segmenter(path, threads=2)
    expected = [label(segmenter(image(seed))) for seed in range(3)]
    assert (expected[0] != expected[1]).any()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: label(segmenter(image(seed % 3))), range(12)))
    for seed, got in enumerate(found):
        np.testing.assert_array_equal(got, expected[seed % 3])


def test_arrays_of_several_channels(tmp_path):
    segmenter = Segmenter(write(tmp_path / "model.onnx", channels=2))
    found = segmenter(values(channels=2), spacing_zyx_mm=(3.0, 2.0, 1.0))
    assert label(found).shape == (20, 23, 24)
    with pytest.raises(ShapeError, match=r"axes \(C, Z, Y, X\) with C = 2, got .*\(20, 23, 24\)"):
        segmenter(values(), spacing_zyx_mm=(3.0, 2.0, 1.0))


def test_spacing_belongs_to_arrays_and_only_to_them(path):
    segmenter = Segmenter(path)
    with pytest.raises(GeometryError, match=r"spacing_zyx_mm \(in mm\) with an array.*ndarray"):
        segmenter(values())
    with pytest.raises(GeometryError, match=r"Got Image and spacing_zyx_mm=\(1, 1, 1\)"):
        segmenter(image(), spacing_zyx_mm=(1, 1, 1))
    with pytest.raises(GeometryError, match=r"positive spacing.*\(0, 1, 1\)"):
        segmenter(values(), spacing_zyx_mm=(0, 1, 1))
    with pytest.raises(ShapeError, match=r"axes \(Z, Y, X\), got one of shape \(23, 24\)"):
        segmenter(values()[0], spacing_zyx_mm=(3, 2, 1))


def test_a_loaded_model_keeps_its_threads(path):
    model = load_model(path, threads=2)
    np.testing.assert_array_equal(
        label(Segmenter(model)(image())), label(Segmenter(path, threads=1)(image()))
    )
    with pytest.raises(ConfigError, match="a model file where threads or device are chosen"):
        Segmenter(model, threads=2)


def test_an_unavailable_device_is_answered_with_those_there_are(path):
    with pytest.raises(ConfigError, match=r"'tpu9' is not available .* built for .*cpu"):
        Segmenter(path, device="tpu9")
    with pytest.raises(ConfigError, match=r"'azure' is not available"):
        Segmenter(path, device="azure")


def test_a_device_that_onnxruntime_leaves_in_silence_is_told(monkeypatch):
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: names)
    check_running("cuda", names)
    with pytest.raises(ConfigError, match=r"'cuda' is not .*driver or libraries.*cuda, cpu"):
        check_running("cuda", names[1:])


def test_mirrored_inputs_are_averaged(path):
    """Law: averaged over all mirror images, the labels of a mirrored scan are mirrored."""
    dims = load_model(path).contract.preparation.spatial_dims
    plain, mirrored = Segmenter(path, overlap=0.5), Segmenter(path, overlap=0.5, mirror=True)
    array, spacing = values()[:16, :22, :22], (2.5, 2.7, 1.4)
    axes = tuple(range(-dims, 0))
    turned = np.ascontiguousarray(np.flip(array, axes))

    def of(segmenter, given):
        return label(segmenter(given, spacing_zyx_mm=spacing))

    np.testing.assert_array_equal(of(mirrored, turned), np.flip(of(mirrored, array), axes))
    assert (of(plain, turned) != np.flip(of(plain, array), axes)).any()


def test_only_the_largest_component_stays(path):
    whole, largest = Segmenter(path), Segmenter(path, largest_component=True)
    found, kept = whole(image()), largest(image())
    assert (label(kept) != label(found)).any()
    assert set(np.unique(label(kept)[label(kept) != label(found)])) == {0}
    for value, name in enumerate(CLASSES[1:], start=1):
        parts = sitk.ConnectedComponent(kept.label == value, True)
        assert sitk.GetArrayFromImage(parts).max() == 1
        assert kept.volumes_ml[name] == pytest.approx((label(kept) == value).sum() * 6 / 1000)


def test_air_is_computed_once_and_labels_stay(path, monkeypatch):
    """Oracle: the same scan with no patch left out."""
    body = np.full((20, 60, 70), -1000, dtype=np.int16)
    body[8:, :20, :22] = values()[8:, :20, :22]
    seen = []

    class Counting:
        contract = load_model(path).contract
        model = load_model(path)

        def __call__(self, array, /):
            seen.append(len(array))
            return self.model(array)

    found = Segmenter(Counting())(body, spacing_zyx_mm=(3.0, 2.0, 1.0))
    skipped = sum(seen)
    seen.clear()
    monkeypatch.setattr("medstill.deploy.segmentation.EmptyOnce", lambda network, _: network)
    expected = Segmenter(Counting())(body, spacing_zyx_mm=(3.0, 2.0, 1.0))
    assert skipped < sum(seen) / 2
    np.testing.assert_array_equal(label(found), label(expected))


def test_an_error_in_a_network_comes_through_the_threads(tmp_path):
    segmenter = Segmenter(write(tmp_path / "model.onnx"), threads=2)

    class Broken:
        contract = segmenter.contract
        calls = 2

        def __call__(self, array, /):
            raise MemoryError(f"none left for {array.shape}")

    with pytest.raises(MemoryError, match="none left"):
        Segmenter(Broken())(image())


def test_memory_does_not_grow_with_the_slices_beyond_the_labels(path):
    """Labels count twice: NumPy and SimpleITK hold a copy each for a moment."""
    segmenter = Segmenter(path, threads=2)

    def beyond_labels(slices):
        array = np.resize(values(), (slices, 96, 96))
        given = sitk.GetImageFromArray(array)
        given.SetSpacing((0.23, 0.45, 3.0))  # one patch a slice
        tracemalloc.start()
        try:
            segmenter(given)
            return tracemalloc.get_traced_memory()[1] - 2 * array.size
        finally:
            tracemalloc.stop()

    beyond_labels(40)  # what is only imported or set up once
    assert beyond_labels(160) < 1.3 * beyond_labels(40)


def test_the_command_takes_every_option(path, tmp_path):
    sitk.WriteImage(image(), tmp_path / "scan.nii.gz")
    out = tmp_path / "out.nii.gz"
    arguments = ["predict", str(path), str(tmp_path / "scan.nii.gz"), str(out)]
    options = ["--threads", "1", "--overlap", "0.25", "--batch-size", "3", "--device", "cpu"]
    more = ["--mirror", "--largest-component", "--probabilities"]
    result = CliRunner().invoke(cli.app, [*arguments, *options, *more])
    assert result.exit_code == 0, result.output
    expected = Segmenter(
        path, threads=1, overlap=0.25, batch_size=3, mirror=True, largest_component=True
    )(image())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(out)), label(expected))
    shares = sitk.ReadImage(tmp_path / "out_probabilities.nii.gz")
    assert shares.GetNumberOfComponentsPerPixel() == 3
    plain = Segmenter(path, threads=1, overlap=0.25)(image())
    assert (label(plain) != label(expected)).any()


def test_a_run_folder_has_no_device(tmp_path):
    with pytest.raises(ConfigError, match=r"'cuda' is for exported files, but .* is a run folder"):
        handover.open_model(tmp_path, None, PredictOptions(device="cuda"))
