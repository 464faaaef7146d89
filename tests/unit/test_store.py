import numpy as np
import pytest

from medstill.errors import LabelError, RunError
from medstill.volumes.records import CaseInfo, ChannelIntensity, Preparation, Seen
from medstill.volumes.store import (
    PreparedSet,
    Skipped,
    StoredCase,
    case_folder,
    data_hash_of,
    demand_foreground,
    open_case,
    open_set,
    places_of,
    write_case,
    write_set,
)

SHAPE = (17, 23, 31)


def stored(case="a", labelled=True, step=1.0, high=100.0, **change):
    info = CaseInfo(
        id=case,
        patient=case,
        labelled=labelled,
        spacing_zyx_mm=(3.0, 2.0, 1.0),
        original_spacing_zyx_mm=(3.0, 2.0, step),
        voxels_by_class=(90, 10, 0) if labelled else (),
        image_file=(f"{case}.nii",),
        content_hash="1",
    ).model_copy(update=change)
    return StoredCase(info=info, raw_range=((0.0, high),), key="k")


def label():
    array = np.zeros(SHAPE, np.uint8)
    array[2:16, 3:20, 4:29] = 1
    array[9, 5, 6:9] = 2
    array[16] = 255
    return array


def write(root, case="a", **change):
    image = np.random.default_rng(0).random((2, *SHAPE), np.float32)
    kept = stored(case, **change)
    write_case(case_folder(root, case), kept, image, label() if kept.info.labelled else None)
    return kept.info, image


def preparation():
    return Preparation(
        spatial_dims=2,
        spacing_zyx_mm=(None, 2.0, 1.0),
        intensity=(ChannelIntensity(kind="none"),) * 2,
        classes=("background", "organ", "duct"),
        patch_zyx=(1, 32, 32),
    )


def test_a_case_comes_back_as_it_was_written(tmp_path):
    info, image = write(tmp_path)
    case = open_case(case_folder(tmp_path, "a"))
    assert case.info == info
    assert isinstance(case.image_CZYX, np.memmap)
    np.testing.assert_allclose(case.image_CZYX, image, atol=2.5e-4)
    np.testing.assert_array_equal(case.label_ZYX, label())
    assert sorted(case.places) == [1, 2]
    np.testing.assert_array_equal(case.places[2], [(9, 5, 6), (9, 5, 7), (9, 5, 8)])


def test_a_case_without_label_has_no_places(tmp_path):
    write(tmp_path, labelled=False)
    case = open_case(case_folder(tmp_path, "a"))
    assert case.label_ZYX is None
    assert case.places == {}


def test_places_are_even_over_slices_and_seeded():
    thick = np.zeros((5, 40, 50), np.uint8)
    thick[0, 0, :7] = 1
    thick[2:, 5:30] = 1
    places = places_of(thick, seed=3, most=307)
    assert np.bincount(places[1][:, 0]).tolist() == [7, 0, 100, 100, 100]
    assert len(np.unique(places[1], axis=0)) == 307
    assert (thick[tuple(places[1].T)] == 1).all()
    np.testing.assert_array_equal(places[1], places_of(thick, seed=3, most=307)[1])
    assert not np.array_equal(places[1], places_of(thick, seed=4, most=307)[1])


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a" * 300, "x."])
def test_odd_ids_stay_inside_the_folder(tmp_path, name):
    folder = case_folder(tmp_path, name)
    assert folder.parent == tmp_path / "cases"
    assert folder.name.startswith("case-")


def test_a_set_is_opened_and_tells_what_training_saw(tmp_path):
    infos = {
        "a": write(tmp_path, "a", step=0.5)[0],
        "b": write(tmp_path, "b", high=300.0)[0],
    }
    skipped = (Skipped(id="c", reason="torn"),)
    made = PreparedSet(tmp_path, preparation(), infos, "hash", skipped)
    write_set(made)
    assert open_set(tmp_path) == made
    assert made.open("b").info.id == "b"
    both = Seen(spacing_zyx_mm=((3.0, 3.0), (2.0, 2.0), (0.5, 1.0)), intensity=((0.0, 300.0),))
    assert made.seen(["a", "b"]) == both
    assert made.seen(["a"]).intensity == ((0.0, 100.0),)
    with pytest.raises(RunError, match=r"2 prepared cases .* found no 'z'"):
        made.open("z")


def test_damaged_files_are_named(tmp_path):
    write(tmp_path)
    folder = case_folder(tmp_path, "a")
    (folder / "label.npy").write_bytes((folder / "label.npy").read_bytes()[:200])
    with pytest.raises(RunError, match=r"found it damaged .* prepare the data again"):
        open_case(folder)
    (folder / "case.json").write_text("{}")
    with pytest.raises(RunError, match=r"wrong entries in case.json"):
        open_case(folder)
    with pytest.raises(RunError, match="cannot be read"):
        open_set(tmp_path)


def test_the_data_hash_depends_on_sources_patients_and_classes_not_on_order():
    infos = [stored("a").info, stored("b").info]
    first = data_hash_of(infos, ("background", "x"))
    assert first == data_hash_of(infos[::-1], ("background", "x"))
    assert first != data_hash_of(infos, ("background", "y"))
    assert first != data_hash_of([stored("a", patient="p").info, infos[1]], ("background", "x"))
    assert first != data_hash_of(
        [stored("a", content_hash="2").info, infos[1]], ("background", "x")
    )


def test_labels_without_foreground_are_refused():
    classes = ("background", "organ", "duct")
    assert demand_foreground([stored().info], classes, where="training") == ("duct",)
    empty = stored(voxels_by_class=(100, 0, 0)).info
    with pytest.raises(LabelError, match="voxels of organ, duct in training, found only backgr"):
        demand_foreground([empty, empty], classes, where="training")
