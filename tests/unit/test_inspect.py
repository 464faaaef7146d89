"""What a data set holds is counted, and every problem of it is listed."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from medstill.errors import LayoutError
from medstill.volumes.inspect import Inspection, inspect

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SHAPE_ZYX = (3, 4, 5)


def image(spacing: tuple[float, float, float] = (1.0, 2.0, 3.0), scale: int = 1) -> sitk.Image:
    values = np.arange(60, dtype=np.int16).reshape(SHAPE_ZYX) * scale - 7
    found = sitk.GetImageFromArray(values)
    found.SetSpacing(spacing)
    return found


def label(like: sitk.Image, **voxels: int) -> sitk.Image:
    """`v1=6` marks six voxels with the value 1."""
    values = np.repeat([int(name[1:]) for name in voxels], list(voxels.values())).astype(np.uint8)
    flat = np.zeros(60, dtype=np.uint8)
    flat[: len(values)] = values
    found = sitk.GetImageFromArray(flat.reshape(SHAPE_ZYX))
    found.CopyInformation(like)
    return found


def dataset(root: Path, count: int = 4) -> Path:
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir()
    for index in range(count):
        scan = image((1.0, 2.0, 3.0 + index), scale=index + 1)
        put(root, f"c{index}", scan, label(scan, v1=6, v2=index))
    names = [f"c{index}" for index in range(count)]
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "liver", "2": "tumour"},
        "training": [
            {"image": f"imagesTr/{name}.nii", "label": f"labelsTr/{name}.nii"} for name in names
        ],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def put(root: Path, name: str, scan: sitk.Image | None, truth: sitk.Image | None) -> None:
    if scan is not None:
        sitk.WriteImage(scan, str(root / "imagesTr" / f"{name}.nii"))
    if truth is not None:
        sitk.WriteImage(truth, str(root / "labelsTr" / f"{name}.nii"))


def look(root: Path) -> Inspection:
    return inspect(root, workers=1)


def test_everything_is_counted(tmp_path: Path) -> None:
    found = look(dataset(tmp_path))
    assert (found.layout, found.modalities, found.patients) == ("decathlon", ("mr",), 4)
    assert found.problems == ()
    assert [row.id for row in found.usable] == ["c0", "c1", "c2", "c3"]
    assert found.cases[1].size_zyx == SHAPE_ZYX
    assert found.cases[1].spacing_zyx_mm == (4.0, 2.0, 1.0)
    assert found.cases[1].intensity == ((-7.0, 111.0),)
    assert found.cases[2].voxels == {0: 52, 1: 6, 2: 2}
    z_mm = found.spacing_zyx_mm[0]
    assert (z_mm.least, z_mm.median, z_mm.greatest) == (3.0, 4.5, 6.0)
    assert found.intensity == ((-7.0, 229.0),)
    background, liver, tumour = found.labels
    assert (background.voxels, liver.voxels, tumour.voxels) == (240 - 24 - 6, 24, 6)
    assert (liver.cases, tumour.cases) == (4, 3)
    # Six voxels of 1 x 2 x z mm: 36, 48, 60 and 72 cubic millimetres.
    assert liver.ml == pytest.approx(0.054)
    # 1 x 8, 2 x 10 and 3 x 12 cubic millimetres.
    assert tumour.ml == pytest.approx(0.064 / 3)
    assert sum(row.share for row in found.labels) == pytest.approx(1.0)


def test_processes_find_the_same(tmp_path: Path) -> None:
    root = dataset(tmp_path, 3)
    seen: list[str] = []
    found = inspect(root, workers=2, on_case=seen.append)
    assert sorted(seen) == ["c0", "c1", "c2"]
    assert found == look(root)


def spoil_size(root: Path) -> None:
    put(root, "c1", None, label(image(), v1=6)[:-1])


def spoil_place(root: Path) -> None:
    put(root, "c1", None, label(image((1.0, 2.0, 9.0)), v1=6))


def spoil_value(root: Path) -> None:
    put(root, "c1", None, label(image((1.0, 2.0, 4.0)), v7=4))


def spoil_nan(root: Path) -> None:
    values = sitk.GetArrayFromImage(image()).astype(np.float32)
    values[0, 0, 0] = np.nan
    put(root, "c1", sitk.GetImageFromArray(values), None)


def spoil_constant(root: Path) -> None:
    put(root, "c1", image() * 0, None)


def spoil_dimensions(root: Path) -> None:
    put(root, "c1", sitk.JoinSeries([image(), image()]), None)


def spoil_length(root: Path) -> None:
    path = root / "imagesTr" / "c1.nii"
    path.write_bytes(path.read_bytes()[:-9])


def spoil_spacing(root: Path) -> None:
    path = root / "imagesTr" / "c1.nii"
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 80, 0.0)
    path.write_bytes(content)


def spoil_channels(root: Path) -> None:
    put(root, "c1", sitk.Compose([image((1.0, 2.0, 4.0))] * 2), None)


def spoil_label_file(root: Path) -> None:
    (root / "labelsTr" / "c1.nii").unlink()


def spoil_image_file(root: Path) -> None:
    (root / "imagesTr" / "c1.nii").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_size, "expected a size of 5 x 4 x 3 voxels (x, y, z), found 4 x 4 x 3"),
        (spoil_place, "lies elsewhere than"),
        (spoil_value, "undeclared values: expected only 0, 1, 2, found 7 (4 voxels)"),
        (spoil_nan, "holds NaN or Inf"),
        (spoil_constant, "is constant"),
        (spoil_dimensions, "has 4 dimensions: expected 3"),
        (spoil_length, "is truncated or damaged"),
        (spoil_spacing, "has a spacing of 0 x 2 x 4 mm"),
        (spoil_channels, "has 2 channels: expected 1 (mr)"),
        (spoil_label_file, "label of case 'c1' is missing"),
        (spoil_image_file, "image of case 'c1' is missing"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_case_is_listed_and_the_others_are_counted(
    tmp_path: Path, spoil, message: str
) -> None:
    root = dataset(tmp_path)
    spoil(root)
    found = look(root)
    assert len(found.problems) == 1
    assert message in found.problems[0]
    assert "c1" in found.problems[0]
    assert [row.id for row in found.usable] == ["c0", "c2", "c3"]
    assert found.labels[1].voxels == 18


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    spoil_value(root)
    put(root, "c0", image() * 0, None)
    (root / "labelsTr" / "c3.nii").unlink()
    found = look(root)
    assert [
        any(part in problem for problem in found.problems)
        for part in ("undeclared", "constant", "missing", "1 patient(s)")
    ] == [True] * 4


def test_no_foreground_at_all(tmp_path: Path) -> None:
    root = dataset(tmp_path, 3)
    for index in range(3):
        put(root, f"c{index}", None, label(image((1.0, 2.0, 3.0 + index))))
    found = look(root)
    assert len(found.problems) == 1
    assert "marks anything: expected voxels of liver, tumour, found background" in found.problems[0]
    assert "3 labels without foreground: c0, c1, c2" in found.notes


def test_one_patient(tmp_path: Path) -> None:
    root = dataset(tmp_path, 3)
    (root / "patients.csv").write_text("case,patient\nc0,p\nc1,p\nc2,p\n")
    found = look(root)
    assert found.patients == 1
    assert len(found.problems) == 1
    assert "1 patient(s) with usable labels: expected at least 3" in found.problems[0]


def test_no_labels(tmp_path: Path) -> None:
    root = dataset(tmp_path, 3)
    content = json.loads((root / "dataset.json").read_text())
    content["test"] = [entry["image"] for entry in content["training"]]
    (root / "dataset.json").write_text(json.dumps({**content, "training": []}))
    found = look(root)
    assert "no usable case with a label" in found.problems[0]
    assert "3 cases without label: c0, c1, c2" in found.notes


def test_pictures_have_no_spacing_and_no_volumes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for index in range(3):
        picture = rng.integers(0, 255, (6, 9, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "images" / f"{index}_photo.tif")
        truth = np.where(picture[..., 0] > 99, 255, 0).astype(np.uint8)
        Image.fromarray(truth).save(tmp_path / "masks" / f"{index}_mask.gif")
    found = look(tmp_path)
    assert found.problems == ()
    assert found.modalities == ("colour",)
    assert found.spacing_zyx_mm == ()
    assert [axis.median for axis in found.size_zyx] == [1, 6, 9]
    assert len(found.intensity) == 3
    assert (found.labels[1].name, found.labels[1].value, found.labels[1].ml) == (
        "foreground",
        255,
        None,
    )
    assert any("'colour' guessed" in note for note in found.notes)


def test_no_data_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="no known layout"):
        look(tmp_path)


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data sets are not here")
def test_the_retina_photographs() -> None:
    found = inspect(DATA / "retina-rgb", workers=1)
    assert found.problems == ()
    assert (found.layout, len(found.usable), found.patients) == ("pairs", 20, 20)
    assert {row.size_zyx for row in found.cases} == {(1, 584, 565)}
    vessels = found.labels[1]
    assert (vessels.value, vessels.cases) == (255, 20)
    assert vessels.share == pytest.approx(0.0863, abs=1e-3)
