# long: every layout with every refusal
"""Data sets are recognised, paired by name, and refused with the reason."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medstill.errors import LabelError, LayoutError, UnknownNameError, UnreadableFileError
from medstill.volumes.layouts import LAYOUTS, examine, find_dataset
from medstill.volumes.layouts.matching import match
from medstill.volumes.layouts.modality import modalities_of_names
from medstill.volumes.layouts.values import names_of_values
from medstill.volumes.records import pseudonym_of

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def scan(path: Path, *, least: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(least, least + 60, dtype=np.int16).reshape(3, 4, 5)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    return path


def mask(path: Path, *values: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.zeros((3, 4, 5), dtype=np.uint8)
    voxels.ravel()[: len(values)] = values
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    return path


def describe(root: Path, **content: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def decathlon(root: Path, names: tuple[str, ...] = ("b_2", "a_1"), **changes: Any) -> Path:
    for name in names:
        scan(root / "imagesTr" / f"{name}.nii.gz")
        mask(root / "labelsTr" / f"{name}.nii.gz", 1, 2)
    content: dict[str, Any] = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "tumour"},
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in names
        ],
        "test": [],
    }
    return describe(root, **{**content, **changes})


def nnunet(root: Path, channels: int = 2, **changes: Any) -> Path:
    for name in ("k_001", "k_002"):
        for channel in range(channels):
            scan(root / "imagesTr" / f"{name}_{channel:04d}.nii.gz")
        mask(root / "labelsTr" / f"{name}.nii.gz", 1, 2)
    names = {str(index): name for index, name in enumerate(("T1", "FLAIR", "T2")[:channels])}
    content = {
        "channel_names": names,
        "labels": {"background": 0, "edema": 1, "ignore": 2},
        "file_ending": ".nii.gz",
    }
    return describe(root, **{**content, **changes})


def pairs(root: Path, images: tuple[str, ...], labels: tuple[str, ...]) -> Path:
    for name in images:
        scan(root / "images" / f"{name}.nii.gz")
    for name in labels:
        mask(root / "labels" / f"{name}.nii.gz", 1)
    return root


def ids(root: Path, **options: Any) -> list[str]:
    return [case.id for case in find_dataset(root, **options).cases]


def test_decathlon(tmp_path: Path) -> None:
    scan(tmp_path / "imagesTs" / "c_3.nii.gz")
    dataset = find_dataset(decathlon(tmp_path, test=["./imagesTs/c_3.nii.gz"]))
    assert (dataset.layout, dataset.modalities) == ("decathlon", ("ct",))
    assert dataset.labels == {"background": 0, "liver": 1, "tumour": 2}
    assert dataset.ignore_value is None
    assert [case.id for case in dataset.cases] == ["a_1", "b_2", "c_3"]
    assert [case.id for case in dataset.labelled] == ["a_1", "b_2"]
    assert [case.patient for case in dataset.cases] == ["a_1", "b_2", "c_3"]
    for case in dataset.labelled:
        assert case.label is not None
        assert case.label.name == case.images[0].name


def test_a_missing_label_is_an_error_unless_bad_cases_are_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (decathlon(tmp_path) / "labelsTr" / "a_1.nii.gz").unlink()
    with pytest.raises(LabelError, match=r"label of case 'a_1' is missing: expected '.*a_1\.nii"):
        find_dataset(tmp_path)
    with caplog.at_level(logging.WARNING, "medstill"):
        assert ids(tmp_path, skip_bad=True) == ["b_2"]
    assert "case 'a_1' is missing" in caplog.text


def test_a_missing_image_is_an_error(tmp_path: Path) -> None:
    (decathlon(tmp_path) / "imagesTr" / "a_1.nii.gz").unlink()
    with pytest.raises(UnreadableFileError, match=r"image of case 'a_1' is missing"):
        find_dataset(tmp_path)


def test_every_problem_is_counted(tmp_path: Path) -> None:
    root = decathlon(tmp_path, ("a", "b", "c"))
    for name in ("a", "b"):
        (root / "labelsTr" / f"{name}.nii.gz").unlink()
    with pytest.raises(LabelError, match=r"1 more problems are listed by `medstill inspect`"):
        find_dataset(root)
    assert len(examine(root).problems) == 2


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    root = decathlon(tmp_path, ("a",))
    (root / "labelsTr" / "a.nii.gz").unlink()
    with pytest.raises(LayoutError, match="holds no usable case"):
        find_dataset(root, skip_bad=True)


def test_two_cases_of_one_name(tmp_path: Path) -> None:
    scan(tmp_path / "more" / "a_1.nii.gz")
    entry = {"image": "more/a_1.nii.gz", "label": "labelsTr/a_1.nii.gz"}
    root = decathlon(tmp_path)
    content = json.loads((root / "dataset.json").read_text())
    describe(root, **{**content, "training": [*content["training"], entry]})
    with pytest.raises(LayoutError, match=r"2 cases named 'a_1'.*imagesTr.*and.*more"):
        find_dataset(root)
    assert ids(root, skip_bad=True) == ["b_2"]


def test_channels_in_a_fourth_dimension_are_refused(tmp_path: Path) -> None:
    root = decathlon(tmp_path, modality={"0": "FLAIR", "1": "T1w"})
    with pytest.raises(LayoutError, match=r"2 channels \(FLAIR, T1w\).*Split each image into ID_"):
        find_dataset(root)


def test_the_old_layout_of_nnunet_has_a_file_per_channel(tmp_path: Path) -> None:
    root = decathlon(tmp_path, ("a",), modality={"0": "FLAIR", "1": "T1w"})
    (root / "imagesTr" / "a.nii.gz").unlink()
    for channel in range(2):
        scan(root / "imagesTr" / f"a_000{channel}.nii.gz")
    dataset = find_dataset(root)
    assert dataset.modalities == ("mr", "mr")
    assert [path.name for path in dataset.cases[0].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]


def test_an_entry_that_is_no_case(tmp_path: Path) -> None:
    root = decathlon(tmp_path, training=[{"scan": "x"}])
    with pytest.raises(LayoutError, match=r"lists \{'scan': 'x'\}: expected an image and a label"):
        find_dataset(root)


def test_nnunet(tmp_path: Path) -> None:
    for channel in range(2):
        scan(tmp_path / "imagesTs" / f"k_003_{channel:04d}.nii.gz")
    (tmp_path / "splits_final.json").write_text("[]")
    dataset = find_dataset(nnunet(tmp_path))
    assert (dataset.layout, dataset.modalities) == ("nnunet", ("mr", "mr"))
    assert dataset.labels == {"background": 0, "edema": 1}
    assert dataset.ignore_value == 2
    assert dataset.splits_file == tmp_path / "splits_final.json"
    assert [case.id for case in dataset.cases] == ["k_001", "k_002", "k_003"]
    assert dataset.cases[2].label is None
    assert [path.name for path in dataset.cases[0].images] == [
        "k_001_0000.nii.gz",
        "k_001_0001.nii.gz",
    ]


def test_nnunet_with_a_channel_too_few(tmp_path: Path) -> None:
    (nnunet(tmp_path) / "imagesTr" / "k_002_0001.nii.gz").unlink()
    with pytest.raises(LayoutError, match=r"'k_002'.*has 1 channel files: expected 2"):
        find_dataset(tmp_path)


def test_nnunet_colour_pictures_are_one_channel_file(tmp_path: Path) -> None:
    root = describe(
        tmp_path,
        channel_names={"0": "R", "1": "G", "2": "B"},
        labels={"background": 0, "vessel": 1},
        file_ending=".png",
    )
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(picture).save(root / "imagesTr" / "a_0000.png")
    Image.fromarray(picture[..., 0] % 2).save(root / "labelsTr" / "a.png")
    assert find_dataset(root).modalities == ("colour",)


def test_nnunet_with_an_explicit_list(tmp_path: Path) -> None:
    root = nnunet(tmp_path, 1)
    content = json.loads((root / "dataset.json").read_text())
    content["dataset"] = {
        "only": {"images": ["imagesTr/k_002_0000.nii.gz"], "label": "labelsTr/k_002.nii.gz"}
    }
    describe(root, **content)
    assert ids(root) == ["only"]


def test_overlapping_regions_are_refused(tmp_path: Path) -> None:
    root = nnunet(tmp_path, labels={"background": 0, "whole": [1, 2], "core": [2]})
    with pytest.raises(LabelError, match=r"overlapping regions \(whole, core\).*data\.labels"):
        find_dataset(root)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ({}, LayoutError, "declares no labels: expected `labels`"),
        ({"liver": "one"}, LabelError, "no whole numbers"),
        ({"0": "background", "1": "a", "2": "a"}, LabelError, "one name to several label values"),
    ],
)
def test_labels_that_cannot_be_used(
    tmp_path: Path, labels: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        find_dataset(decathlon(tmp_path, labels=labels))


def test_background_need_not_be_declared(tmp_path: Path) -> None:
    dataset = find_dataset(decathlon(tmp_path, labels={"1": "liver", "2": "tumour"}))
    assert dataset.labels == {"background": 0, "liver": 1, "tumour": 2}


def test_a_description_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(LayoutError, match=r"dataset\.json' cannot be read: expected JSON"):
        find_dataset(tmp_path)


def test_pairs_of_equal_names(tmp_path: Path) -> None:
    dataset = find_dataset(pairs(tmp_path, ("b", "a"), ("a", "b")))
    assert (dataset.layout, dataset.modalities) == ("pairs", ("mr",))
    assert [(case.id, case.label and case.label.name) for case in dataset.cases] == [
        ("a", "a.nii.gz"),
        ("b", "b.nii.gz"),
    ]
    assert dataset.labels == {"background": 0, "foreground": 1}


def test_masks_of_255_are_foreground_not_ignore(tmp_path: Path) -> None:
    scan(tmp_path / "images" / "a.nii.gz", least=-900)
    mask(tmp_path / "masks" / "a.nii.gz", 255, 255)
    finding = examine(tmp_path)
    assert finding.dataset.labels == {"background": 0, "foreground": 255}
    assert finding.dataset.ignore_value is None
    assert finding.dataset.modalities == ("ct",)
    assert "'ct' guessed: the least intensity of 'a.nii.gz' is -900 < -500" in finding.notes[0]


def test_pairs_without_partner_are_reported_and_can_be_skipped(tmp_path: Path) -> None:
    root = pairs(tmp_path, ("1_scan", "2_scan", "3_scan"), ("1_seg", "2_seg", "4_seg"))
    messages = sorted(str(problem) for problem in examine(root).problems)
    assert len(messages) == 2
    assert "3_scan.nii.gz' has no label" in messages[0]
    assert "4_seg.nii.gz' belongs to no image" in messages[1]
    with pytest.raises(LabelError, match=r"3_scan\.nii\.gz' has no label.*same number"):
        find_dataset(root)
    assert ids(root, skip_bad=True) == ["1_scan", "2_scan"]


def test_a_pair_with_two_labels_is_ambiguous(tmp_path: Path) -> None:
    root = pairs(tmp_path, ("21_t", "22_t"), ("21_manual1", "21_manual2", "22_manual1"))
    with pytest.raises(LayoutError, match=r"21_t\.nii\.gz' has several labels.*manual1.*manual2"):
        find_dataset(root)


def test_two_images_of_one_stem(tmp_path: Path) -> None:
    root = pairs(tmp_path, ("a", "b"), ("a", "b"))
    scan(root / "images" / "a.mha")
    with pytest.raises(LayoutError, match=r"2 cases named 'a'.*a\.mha and .*a\.nii\.gz"):
        find_dataset(root)


def test_pairs_with_channels(tmp_path: Path) -> None:
    root = pairs(tmp_path, ("a_0000", "a_0001", "b_0000", "b_0001"), ("a", "b"))
    dataset = find_dataset(root)
    assert [(case.id, len(case.images)) for case in dataset.cases] == [("a", 2), ("b", 2)]
    assert len(dataset.modalities) == 2


def test_four_digits_can_number_cases(tmp_path: Path) -> None:
    root = pairs(tmp_path, ("case_0000", "case_0001"), ("case_0000", "case_0001"))
    assert ids(root) == ["case_0000", "case_0001"]


def test_several_image_folders(tmp_path: Path) -> None:
    root = pairs(tmp_path, ("a",), ("a",))
    scan(root / "scans" / "a.nii.gz")
    with pytest.raises(LayoutError, match=r"several folders.*found images, scans"):
        find_dataset(root)


def test_a_label_that_is_an_image(tmp_path: Path) -> None:
    root = pairs(tmp_path, ("a",), ())
    (root / "labels").mkdir()
    values = np.arange(60 * 9, dtype=np.int16).reshape(9, 6, 10)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(root / "labels" / "a.nii.gz"))
    with pytest.raises(LabelError, match=r"540 different values.*Is this an image"):
        find_dataset(root)


def table(root: Path, text: str) -> Path:
    for patient in ("p1", "p2"):
        scan(root / patient / "scan.nii.gz")
        mask(root / patient / "seg.nii.gz", 3, 5)
    (root / "cases.csv").write_text(text)
    return root


TABLE = "Patient,image,label,site\np1,p1/scan.nii.gz,p1/seg.nii.gz,north\np2,p2/scan.nii.gz,,\n"


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize("separator", [",", ";"])
def test_csv(tmp_path: Path, as_file: bool, separator: str) -> None:
    root = table(tmp_path, TABLE.replace(",", separator))
    dataset = find_dataset(root / "cases.csv" if as_file else root)
    assert (dataset.layout, dataset.root) == ("csv", tmp_path)
    assert dataset.labels == {"background": 0, "label-3": 3, "label-5": 5}
    cases = {case.patient: case for case in dataset.cases}
    first, second = cases["p1"], cases["p2"]
    assert (first.id, first.site) == (pseudonym_of("p1"), "north")
    assert (second.id, second.label, second.site) == (pseudonym_of("p2"), None, None)
    assert first.images == (tmp_path / "p1" / "scan.nii.gz",)


def test_csv_with_several_channels_and_cases_of_one_patient(tmp_path: Path) -> None:
    text = "case,patient,image_1,image_0\nx,p1,p2/scan.nii.gz,p1/scan.nii.gz\n"
    dataset = find_dataset(table(tmp_path, text + "y,p1,p1/scan.nii.gz,p2/scan.nii.gz\n"))
    assert [(case.id, case.patient) for case in dataset.cases] == [("x", "p1"), ("y", "p1")]
    assert [path.parent.name for path in dataset.cases[0].images] == ["p1", "p2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p1,p1/scan.nii.gz\n", r"no column patient: expected a header.*found p1, p1/scan"),
        ("patient,file\np1,x\n", r"no column image: expected.*found patient, file"),
        ("patient,image\np1,\n", r"line 2: expected a patient and image, found an empty cell"),
        ("case,patient,image\na/b,p1,p1/scan.nii.gz\n", r"names a case 'a/b'"),
        (
            "patient,image\np1,p1/scan.nii.gz\np1,p2/scan.nii.gz\n",
            r"2 cases named 'scan': expected one of each name",
        ),
    ],
)
def test_a_csv_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        find_dataset(table(tmp_path, text))


def test_patients_of_the_other_layouts(tmp_path: Path) -> None:
    root = decathlon(tmp_path)
    (root / "patients.csv").write_text("case,patient,site\na_1,p7,north\nb_2,p7,\n")
    dataset = find_dataset(root)
    assert [(case.patient, case.site) for case in dataset.cases] == [("p7", "north"), ("p7", None)]
    (root / "patients.csv").write_text("case,patient\na_1,p7\n")
    with pytest.raises(LayoutError, match=r"patients\.csv' names no patient for case 'b_2'"):
        find_dataset(root)


def test_no_layout(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii.gz")
    with pytest.raises(LayoutError, match=r"no known layout(.|\n)*decathlon(.|\n)*a\.nii\.gz"):
        find_dataset(tmp_path)
    with pytest.raises(LayoutError, match="does not exist"):
        find_dataset(tmp_path / "gone")


def test_a_layout_by_name(tmp_path: Path) -> None:
    root = decathlon(tmp_path)
    assert set(find_dataset(root).labels) == {"background", "liver", "tumour"}
    assert set(find_dataset(root, layout="pairs").labels) == {"background", "label-1", "label-2"}
    with pytest.raises(UnknownNameError, match=r"No layout is called 'decatlon'.*'decathlon'"):
        find_dataset(root, layout="decatlon")
    with pytest.raises(LayoutError, match=r"expected one of\n  csv"):
        find_dataset(root, layout="csv")


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_says_what_it_expects_and_refuses_an_empty_folder(
    name: str, tmp_path: Path
) -> None:
    assert LAYOUTS[name].summary
    assert not LAYOUTS[name].matches(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (["21_training", "22_training"], ["22_manual1", "21_manual1"], {"21": "21", "22": "22"}),
        (["img21", "img22"], ["mask22", "mask21"], {"img21": "mask21", "img22": "mask22"}),
        (["img_07"], ["mask_7"], {"img": "mask"}),
        (["p1_s2_i", "p2_s1_i"], ["p2_s1_m", "p1_s2_m"], {"p1_s2": "p1_s2", "p2_s1": "p2_s1"}),
        (["left_a", "right_a"], ["right_b", "left_b"], {"left": "left", "right": "right"}),
        (["p1_s2"], ["p1_s1_m"], {}),
        (["a1"], ["b2"], {}),
    ],
)
def test_names_are_matched(images: list[str], labels: list[str], expected: dict[str, str]) -> None:
    found = match(images, labels)
    assert len(found) == len(expected)
    for image, partners in found.items():
        assert len(partners) == 1
        start = next(key for key in expected if image.startswith(key))
        assert partners[0].startswith(expected[start])


@given(
    numbers=st.lists(st.integers(0, 10**6), min_size=1, max_size=12, unique=True), data=st.data()
)
def test_matching_follows_the_number_in_any_order(numbers: list[int], data: st.DataObject) -> None:
    images = [f"case_{number}_scan" for number in numbers]
    labels = data.draw(st.permutations([f"{number}_truth" for number in numbers]))
    assert match(images, labels) == {
        f"case_{number}_scan": (f"{number}_truth",) for number in numbers
    }


def test_names_of_values() -> None:
    assert names_of_values({0, 255}) == {"background": 0, "foreground": 255}
    assert names_of_values({0, 7}) == {"background": 0, "foreground": 7}
    assert names_of_values({2, 1}) == {"background": 0, "label-1": 1, "label-2": 2}
    assert names_of_values({0}) == {"background": 0}


def test_modalities_by_name() -> None:
    assert modalities_of_names(["CT"]) == ("ct",)
    assert modalities_of_names(["MRI", "T1-weighted", "FLAIR"]) == ("mr", "mr", "mr")
    assert modalities_of_names(["CT", "something"]) is None


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data sets are not here")
@pytest.mark.parametrize(
    ("name", "layout", "modality", "cases", "labels"),
    [
        ("abdomen-ct", "decathlon", "ct", 22, 14),
        ("hippocampus-mr", "decathlon", "mr", 160, 3),
        ("retina-rgb", "pairs", "colour", 20, 2),
    ],
)
def test_real_data(name: str, layout: str, modality: str, cases: int, labels: int) -> None:
    dataset = find_dataset(DATA / name)
    assert (dataset.layout, dataset.modalities) == (layout, (modality,))
    assert (len(dataset.labelled), len(dataset.labels)) == (cases, labels)
    for case in dataset.cases:
        assert case.label is not None
        digits = "".join(filter(str.isdigit, case.images[0].name.split(".")[0]))
        assert digits[:3] in case.label.name
