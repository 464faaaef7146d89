"""The CT phantom: the same bytes for the same seed, a valid layout, anatomy in physical space."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medstill.errors import ConfigError, RunError
from medstill.volumes.phantom import write_phantom
from medstill.volumes.phantom_scan import DIRECTION, draw_patient
from medstill.volumes.phantom_shapes import Body, ellipsoid, smooth_field, tube
from medstill.volumes.phantom_tissues import LABELS

SIZE = (12, 64, 64)
COHORT = 24


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def in_lps(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))


def centre_mm(label: sitk.Image, name: str) -> np.ndarray:
    indices = np.argwhere(sitk.GetArrayFromImage(label) == LABELS.index(name))
    z, y, x = indices.mean(axis=0)
    return np.array(label.TransformContinuousIndexToPhysicalPoint((x, y, z)))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "data"
    write_phantom(out, patients=4, seed=3, size_zyx=SIZE)
    return out


@pytest.fixture(scope="module")
def cohort() -> list[tuple[sitk.Image, sitk.Image]]:
    return [draw_patient(0, index, SIZE) for index in range(COHORT)]


def test_same_seed_gives_the_same_bytes_in_one_process_and_in_two(
    phantom: Path, tmp_path: Path
) -> None:
    # A date in the gzip header would show only when the clock has moved on.
    time.sleep(1.1)
    write_phantom(tmp_path / "again", patients=4, seed=3, size_zyx=SIZE, workers=2)
    assert files_of(tmp_path / "again") == files_of(phantom)


def test_no_file_name_or_date_is_in_the_gzip_header(phantom: Path) -> None:
    header = (phantom / "imagesTr" / "phantom_000.nii.gz").read_bytes()[:10]
    assert header[:4] == b"\x1f\x8b\x08\x00"
    assert header[4:8] == b"\0\0\0\0"


def test_a_patient_depends_on_seed_and_index_only(phantom: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path / "more", patients=6, seed=3, size_zyx=SIZE, workers=1)
    less, more = files_of(phantom), files_of(tmp_path / "more")
    shared = [name for name in less if name.endswith(".nii.gz")]
    assert len(shared) == 8
    assert all(less[name] == more[name] for name in shared)


def test_another_seed_gives_other_patients() -> None:
    first, second = (sitk.GetArrayFromImage(draw_patient(seed, 0, SIZE)[1]) for seed in (3, 4))
    assert (first != second).mean() > 0.01


def test_the_layout_is_a_decathlon_data_set(phantom: Path) -> None:
    content = json.loads((phantom / "dataset.json").read_text())
    assert content["modality"] == {"0": "CT"}
    assert content["labels"] == {
        "0": "background",
        "1": "spleen",
        "2": "right kidney",
        "3": "left kidney",
        "4": "liver",
        "5": "stomach",
        "6": "aorta",
    }
    assert content["numTraining"] == len(content["training"]) == 4
    assert content["training"][2] == {
        "image": "./imagesTr/phantom_002.nii.gz",
        "label": "./labelsTr/phantom_002.nii.gz",
    }
    assert len(files_of(phantom)) == 1 + 2 * 4
    for entry in content["training"]:
        image = sitk.ReadImage(str(phantom / entry["image"]))
        label = sitk.ReadImage(str(phantom / entry["label"]))
        assert image.GetPixelID() == sitk.sitkInt16
        assert label.GetPixelID() == sitk.sitkUInt8
        assert image.GetSize() == label.GetSize() == SIZE[::-1]
        assert image.GetDirection() == pytest.approx(DIRECTION)
        assert image.GetSpacing() == label.GetSpacing()
        assert image.GetOrigin() == label.GetOrigin()


def test_files_keep_the_place_in_space(phantom: Path) -> None:
    drawn, _ = draw_patient(3, 1, SIZE)
    read = sitk.ReadImage(str(phantom / "imagesTr" / "phantom_001.nii.gz"))
    assert read.GetOrigin() == pytest.approx(drawn.GetOrigin(), abs=1e-3)
    assert read.GetSpacing() == pytest.approx(drawn.GetSpacing(), abs=1e-5)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(drawn))


@pytest.mark.parametrize("size", [(8, 48, 48), (13, 66, 50), (12, 64, 64)])
def test_every_organ_is_in_every_patient(size: tuple[int, int, int]) -> None:
    for index in range(COHORT):
        label = sitk.GetArrayFromImage(draw_patient(7, index, size)[1])
        counts = np.bincount(label.ravel(), minlength=len(LABELS))
        assert label.shape == size
        assert len(counts) == len(LABELS)
        assert counts.min() >= 5, (index, counts)


def test_organs_lie_on_their_sides(cohort: list[tuple[sitk.Image, sitk.Image]]) -> None:
    for _, label in cohort:
        place = {name: centre_mm(label, name) for name in LABELS[1:]}
        midline = place["aorta"][0]
        # x grows to the patient's left, y to the back, z to the head.
        assert place["liver"][0] < midline - 20
        assert place["right kidney"][0] < midline - 20
        assert place["left kidney"][0] > midline + 20
        assert place["spleen"][0] > midline + 40
        assert place["stomach"][0] > midline
        assert place["stomach"][1] < place["aorta"][1]
        assert place["left kidney"][1] > place["stomach"][1]
        assert place["spleen"][2] > place["left kidney"][2]


def test_organ_volumes_are_those_of_people(
    cohort: list[tuple[sitk.Image, sitk.Image]],
) -> None:
    ranges_ml = {"liver": (400, 2500), "spleen": (20, 500), "right kidney": (30, 350)}
    for _, label in cohort:
        voxel_ml = np.prod(label.GetSpacing()) / 1000
        array = sitk.GetArrayFromImage(label)
        for name, (low, high) in ranges_ml.items():
            assert low < (array == LABELS.index(name)).sum() * voxel_ml < high


def test_intensities_are_hounsfield_units(cohort: list[tuple[sitk.Image, sitk.Image]]) -> None:
    for image, label in cohort:
        hu, values = in_lps(image), in_lps(label)
        assert hu.min() >= -1024
        assert hu.max() < 2000
        assert -1024 <= np.median(hu[:, :3]) < -980
        assert 30 < np.median(hu[values == LABELS.index("liver")]) < 120
        # Bone, fat and lung are there too.
        assert (hu > 250).mean() > 0.002
        assert ((hu > -140) & (hu < -60)).mean() > 0.05


def test_hu_does_not_tell_the_organs_apart(
    cohort: list[tuple[sitk.Image, sitk.Image]],
) -> None:
    for index in range(3):
        image, label = draw_patient(0, index, (20, 128, 128))
        hu, values = in_lps(image).astype(float), in_lps(label)
        liver, spleen, stomach = (
            hu[values == LABELS.index(name)] for name in ("liver", "spleen", "stomach")
        )
        stomach = stomach[stomach > -50]
        sd = np.percentile(liver, [16, 84]) @ [-0.5, 0.5]
        assert sd > 8
        assert abs(np.median(liver) - np.median(spleen)) < sd
        assert abs(np.median(liver) - np.median(stomach)) < 1.5 * sd


def test_patients_differ(cohort: list[tuple[sitk.Image, sitk.Image]]) -> None:
    spacings = {image.GetSpacing() for image, _ in cohort}
    assert len(spacings) == COHORT
    noise = [float(in_lps(image)[in_lps(label) == 4].std()) for image, label in cohort]
    aorta = [float(np.median(in_lps(image)[in_lps(label) == 6])) for image, label in cohort]
    liver = [float(np.median(in_lps(image)[in_lps(label) == 4])) for image, label in cohort]
    assert max(noise) > 1.2 * min(noise)
    assert max(aorta) - min(aorta) > 50
    # One contrast phase moves them together.
    assert np.corrcoef(aorta, liver)[0, 1] > 0.7
    assert len({in_lps(label).tobytes() for _, label in cohort}) == COHORT


def test_a_finished_phantom_is_left_as_it_is(phantom: Path) -> None:
    path = phantom / "imagesTr" / "phantom_000.nii.gz"
    before = path.stat().st_mtime_ns
    write_phantom(phantom, patients=4, seed=3, size_zyx=SIZE, workers=1)
    assert path.stat().st_mtime_ns == before


def test_a_phantom_of_other_parameters_is_refused(phantom: Path) -> None:
    with pytest.raises(RunError, match=r"another phantom: expected .*'seed': 5.*found .*'seed': 3"):
        write_phantom(phantom, patients=4, seed=5, size_zyx=SIZE)


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("chapter 1")
    with pytest.raises(RunError, match="is not empty and holds no phantom"):
        write_phantom(tmp_path, patients=1, size_zyx=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_another_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background"}}')
    with pytest.raises(RunError, match="is not empty and holds no phantom"):
        write_phantom(tmp_path, patients=1, size_zyx=SIZE)


def test_lost_files_are_noticed(tmp_path: Path) -> None:
    write_phantom(tmp_path / "p", patients=1, size_zyx=SIZE)
    (tmp_path / "p" / "labelsTr" / "phantom_000.nii.gz").unlink()
    with pytest.raises(RunError, match="has lost 1 of its 2 files"):
        write_phantom(tmp_path / "p", patients=1, size_zyx=SIZE)


def test_nothing_is_left_of_a_phantom_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_at_second(seed: int, index: int, size_zyx: object) -> tuple[sitk.Image, sitk.Image]:
        if index == 1:
            raise KeyboardInterrupt
        return draw_patient(seed, index, SIZE)

    monkeypatch.setattr("medstill.volumes.phantom.draw_patient", fail_at_second)
    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "p", patients=2, size_zyx=SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [{"patients": 0}, {"seed": -1}, {"workers": 0}, {"size_zyx": (12, 47, 64)}],
)
def test_numbers_too_small_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    arguments = {"patients": 2, "size_zyx": SIZE, **wrong}
    with pytest.raises(ConfigError, match=r"needs patients >= 1.*at least \(8, 48, 48\)"):
        write_phantom(tmp_path / "p", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "p").exists()


def coordinates() -> Body:
    w, v, u = np.meshgrid(
        np.arange(-20, 21, 1.0), np.arange(-30, 31, 1.0), np.arange(-40, 41, 1.0), indexing="ij"
    )
    return Body(u.astype(np.float32), v.astype(np.float32), w.astype(np.float32), ())


def test_shapes_have_the_volume_of_their_formula() -> None:
    body = coordinates()
    inside = ellipsoid(body, (3.0, -2.0, 1.0), (12.0, 20.0, 15.0), turn=0.7) < 0
    assert inside.sum() == pytest.approx(4 / 3 * np.pi * 12 * 20 * 15, rel=0.01)
    pill = tube(body, [(-10.3, 0.4, 0.7), (14.7, 0.4, 0.7)], [8.3, 8.3]) < 0
    volume = np.pi * 8.3**2 * 25 + 4 / 3 * np.pi * 8.3**3
    assert pill.sum() == pytest.approx(volume, rel=0.01)


def test_smooth_fields_have_unit_size_and_are_smooth() -> None:
    rng = np.random.default_rng(0)
    fields = np.stack([smooth_field(rng, (17, 23, 31), (3, 4, 5)) for _ in range(200)])
    assert abs(fields.mean()) < 0.05
    assert fields.std() == pytest.approx(1, abs=0.05)
    assert np.abs(np.diff(fields, axis=3)).std() < 0.35
