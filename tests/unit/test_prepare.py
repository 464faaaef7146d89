import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from medstill.config import DataConfig
from medstill.errors import (
    DataError,
    GeometryError,
    LabelError,
    LayoutError,
    RunError,
    UnreadableFileError,
)
from medstill.volumes.prepare import prepare
from medstill.volumes.records import Case, Dataset
from medstill.volumes.store import open_set

CONFIG = DataConfig(patch_size=(16, 16))


def write(path, array, spacing_xyz=(1.0, 2.0, 3.0)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_xyz)
    sitk.WriteImage(image, str(path))
    return path


def add_case(root, name, *, value=1, x_mm=1.0):
    generator = np.random.default_rng(len(name))
    image = generator.integers(-200, 300, size=(7, 11, 13)).astype(np.int16)
    label = np.zeros((7, 11, 13), np.uint8)
    label[2:5, 3:8, 4:9] = value
    spacing = (x_mm, 2.0, 3.0)
    return Case(
        name,
        name,
        (write(root / f"{name}.nii.gz", image, spacing),),
        write(root / f"{name}-label.nii.gz", label, spacing),
    )


def dataset_of(root, *cases):
    return Dataset(root, "pairs", ("ct",), {"background": 0, "organ": 1}, None, cases)


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    steps = {"a": 1.0, "bb": 2.0, "ccc": 2.0}
    return dataset_of(root, *(add_case(root, name, x_mm=mm) for name, mm in steps.items()))


def break_case(dataset, index=1):
    path = dataset.cases[index].images[0]
    path.write_bytes(path.read_bytes()[:100])
    return path


def leftovers(folder):
    return [path for path in folder.rglob("*") if path.name.startswith(".partial-")]


def test_a_data_set_is_prepared(data, tmp_path):
    done = []
    made = prepare(data, CONFIG, tmp_path / "out", workers=1, on_case=done.append)
    assert done == ["a", "bb", "ccc"]
    assert made == open_set(tmp_path / "out")
    assert made.preparation.spacing_zyx_mm == (None, 2.0, 2.0)
    assert made.preparation.seen.spacing_zyx_mm == ((3.0, 3.0), (2.0, 2.0), (1.0, 2.0))
    info = made.infos["a"]
    assert info.original_spacing_zyx_mm == (3.0, 2.0, 1.0)
    assert (info.image_file, info.label_file) == (("a.nii.gz",), "a-label.nii.gz")
    case = made.open("a")
    assert case.image_CZYX.shape == (1, 7, 11, 7)
    assert np.bincount(case.label_ZYX.ravel()).tolist() == list(info.voxels_by_class)
    assert leftovers(tmp_path) == []


def test_worker_processes_give_the_same_as_one(data, tmp_path):
    one = prepare(data, CONFIG, tmp_path / "one", workers=1)
    two = prepare(data, CONFIG, tmp_path / "two", workers=2)
    assert one.data_hash == two.data_hash
    for name in one.infos:
        np.testing.assert_array_equal(one.open(name).image_CZYX, two.open(name).image_CZYX)
        np.testing.assert_array_equal(one.open(name).places[1], two.open(name).places[1])


def test_a_case_whose_spacing_is_in_micrometres_is_named(data, tmp_path):
    image = sitk.ReadImage(str(data.cases[1].images[0]))
    image.SetSpacing((1000.0, 2e5, 3e6))
    for path in (data.cases[1].images[0], data.cases[1].label):
        sitk.WriteImage(sitk.Cast(image > 0, sitk.sitkUInt8), str(path))
    with pytest.raises(GeometryError, match=r"'.*bb\.nii\.gz': .*true voxel size into the image's"):
        prepare(data, CONFIG, tmp_path / "out", workers=1)


def test_raw_intensities_are_kept_as_they_are(data, tmp_path):
    image = sitk.Image((13, 11, 7), sitk.sitkFloat32) + 3001.0
    image.SetSpacing((1.0, 2.0, 3.0))
    image[4, 5, 6] = 70_000.0
    sitk.WriteImage(image, str(data.cases[0].images[0]))
    raw = DataConfig(patch_size=(16, 16), spacing_mm=(2.0, 1.0), intensity={"kind": "none"})
    kept_CZYX = prepare(data, raw, tmp_path / "raw", workers=1).open("a").image_CZYX
    assert kept_CZYX.dtype == np.float32
    np.testing.assert_array_equal(kept_CZYX[0], sitk.GetArrayFromImage(image))
    scaled = prepare(data, CONFIG, tmp_path / "scaled", workers=1)
    assert scaled.open("a").image_CZYX.dtype == np.float16
    stages = [
        json.loads((tmp_path / name / "stage.json").read_text()) for name in ("raw", "scaled")
    ]
    assert [stage["key"]["format"] for stage in stages] == [2, 1]


def test_a_repeat_skips_what_is_finished_and_repeats_what_changed(data, tmp_path):
    out = tmp_path / "out"
    prepare(data, CONFIG, out, workers=1)
    before = {path.parent.name: path.stat().st_mtime_ns for path in out.rglob("image.npy")}
    add_case(data.root, "bb", value=0, x_mm=2.0)
    (out / "cases" / "ccc" / "label.npy").unlink()
    (out / "cases" / ".partial-of-a-killed-run").mkdir()
    prepare(data, CONFIG, out, workers=1)
    after = {path.parent.name: path.stat().st_mtime_ns for path in out.rglob("image.npy")}
    assert [name for name in before if before[name] != after[name]] == ["bb", "ccc"]
    assert leftovers(out) == []


def test_another_preparation_is_refused(data, tmp_path):
    prepare(data, CONFIG, tmp_path / "out", workers=1)
    other = DataConfig(patch_size=(16, 16), spacing_mm=(1.0, 1.0))
    with pytest.raises(RunError, match=r"belongs to another study: preparation.spacing_zyx_mm"):
        prepare(data, other, tmp_path / "out", workers=1)


def test_a_folder_of_other_files_is_refused(data, tmp_path):
    with pytest.raises(RunError, match="found other files"):
        prepare(data, CONFIG, data.root, workers=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_bad_case_stops_and_leaves_no_index(data, tmp_path, workers):
    path = break_case(data)
    config = DataConfig(patch_size=(16, 16), spacing_mm=(2.0, 2.0))
    with pytest.raises(UnreadableFileError, match=path.name):
        prepare(data, config, tmp_path / "out", workers=workers)
    assert not (tmp_path / "out" / "index.json").exists()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("spacing", [None, (2.0, 2.0)])
def test_bad_cases_can_be_left_out_and_are_listed(data, tmp_path, spacing):
    path = break_case(data)
    config = DataConfig(patch_size=(16, 16), spacing_mm=spacing)
    made = prepare(data, config, tmp_path / "out", workers=1, skip_bad=True)
    assert sorted(made.infos) == ["a", "ccc"]
    (entry,) = json.loads((tmp_path / "out" / "skipped.json").read_text())
    assert entry["id"] == "bb"
    assert path.name in entry["reason"]


def test_nothing_left_is_an_error(data, tmp_path):
    for index in range(3):
        break_case(data, index)
    config = DataConfig(patch_size=(16, 16), spacing_mm=(2.0, 2.0))
    with pytest.raises(DataError, match="at least one good case, found none: all 3 were left out"):
        prepare(data, config, tmp_path / "out", workers=1, skip_bad=True)


def test_labels_without_foreground_are_refused(data, tmp_path):
    for case in data.cases:
        add_case(data.root, case.id, value=0, x_mm=2.0)
    with pytest.raises(LabelError, match="voxels of organ in the labels, found only background"):
        prepare(data, CONFIG, tmp_path / "out", workers=1)


def test_an_undeclared_value_names_its_file(data, tmp_path):
    add_case(data.root, "bb", value=5, x_mm=2.0)
    with pytest.raises(LabelError, match=r"bb-label.nii.gz'.*found 5 \(75 voxels\)"):
        prepare(data, CONFIG, tmp_path / "out", workers=1)


def test_cases_of_one_name_are_refused(data, tmp_path):
    twins = replace(data, cases=(*data.cases, replace(data.cases[0], id="A")))
    with pytest.raises(LayoutError, match="several called a"):
        prepare(twins, CONFIG, tmp_path / "out", workers=1)


def test_a_full_disk_leaves_nothing_half_written(data, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(Exception, match="No space left while writing"):
        prepare(data, CONFIG, tmp_path / "out", workers=1)
    assert leftovers(tmp_path) == []
    assert not list((tmp_path / "out").rglob("case.json"))
