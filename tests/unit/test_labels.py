from pathlib import Path

import numpy as np
import pytest

from medstill.config import IGNORE, DataConfig
from medstill.errors import ConfigError, LabelError, UnknownNameError
from medstill.volumes.geometry import image_of
from medstill.volumes.labels import apply_mapping, resolve_labels
from medstill.volumes.records import Dataset, Geometry

GRID = Geometry((31, 23, 17), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
ORGANS = {"background": 0, "spleen": 1, "right kidney": 3, "left kidney": 2, "ignore": 9}


def dataset(labels=ORGANS, ignore=9):
    return Dataset(Path("data"), "decathlon", ("ct",), labels, ignore, ())


def mapping_of(selection=None, **kwargs):
    return resolve_labels(dataset(**kwargs), DataConfig(labels=selection))


def volume(values, dtype=np.int16):
    array = np.zeros((17, 23, 31), dtype)
    array.ravel()[: len(values)] = values
    return image_of(array, GRID)


def test_all_labels_stand_in_the_order_of_their_values():
    mapping = mapping_of()
    assert mapping.classes == ("background", "spleen", "left kidney", "right kidney")
    assert mapping.values == {0: 0, 1: 1, 2: 2, 3: 3, 9: IGNORE}


def test_labels_are_selected_and_merged_by_name():
    mapping = mapping_of({"kidneys": ("left kidney", "right kidney")})
    assert mapping.classes == ("background", "kidneys")
    assert mapping.values == {0: 0, 1: 0, 2: 1, 3: 1, 9: IGNORE}


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64])
def test_every_voxel_gets_its_class(dtype):
    mapping = mapping_of({"kidneys": ("left kidney", "right kidney")})
    found = apply_mapping(volume([0, 1, 2, 3, 9, 3], dtype), mapping, source="case_1")
    assert found.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    assert [found[x, 0, 0] for x in range(6)] == [0, 0, 1, 1, IGNORE, 1]
    assert found.GetSpacing() == (1.0, 2.0, 3.0)


def test_undeclared_values_are_named_with_their_voxels():
    with pytest.raises(LabelError, match=r"'case_1'.*0, 1, 2, 3, 9; found -2 \(1 v.*7 \(2 voxels"):
        apply_mapping(volume([1, 7, 7, -2]), mapping_of(), source="case_1")


def test_an_absurd_value_is_named_without_a_table_of_its_size():
    with pytest.raises(LabelError, match=r"found 2000000000 \(2 voxels\)"):
        apply_mapping(volume([1, 2 * 10**9, 2 * 10**9], np.int32), mapping_of(), source="case_1")


def test_a_wrong_name_is_answered_with_the_right_one():
    with pytest.raises(
        UnknownNameError, match=r"No label is called 'splen'. Did you mean 'spleen'"
    ):
        mapping_of({"a": ("splen",)})


def test_overlapping_classes_are_refused():
    with pytest.raises(ConfigError, match="'spleen' is part of two classes, 'a' and 'b'"):
        mapping_of({"a": ("spleen", "left kidney"), "b": ("spleen",)})
    with pytest.raises(LabelError, match="'x' and 'y' with the same value 1"):
        mapping_of(labels={"background": 0, "x": 1, "y": 1})


def test_odd_classes_are_refused():
    with pytest.raises(ConfigError, match="names a class 'background'"):
        mapping_of({"background": ("spleen",)})
    with pytest.raises(ConfigError, match=r"data.labels.a is empty"):
        mapping_of({"a": ()})


def test_the_number_of_classes_has_limits():
    with pytest.raises(LabelError, match="1 to 254 foreground classes, found 0"):
        mapping_of(labels={"background": 0})
    many = {f"l{value}": value for value in range(1, 256)}
    with pytest.raises(LabelError, match="found 255"):
        mapping_of(labels=many, ignore=None)
