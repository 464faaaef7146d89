"""Scout views: taken for a volume only when they are asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dicom_factory import SCOUT, Plan, write_frames, write_series
from medstill.errors import NothingToSegmentError
from medstill.volumes.dicom import choose_series, read_series
from medstill.volumes.io import read_image


def test_a_scout_beside_a_series_needs_no_choice(tmp_path: Path) -> None:
    write_series(tmp_path / "scout", SCOUT)
    write_series(tmp_path / "venous", Plan())
    assert choose_series(tmp_path).uid == Plan().uid
    assert choose_series(tmp_path, "topogram").uid == SCOUT.uid
    assert choose_series(tmp_path, SCOUT.uid).uid == SCOUT.uid
    assert read_image(tmp_path).GetSize() == (23, 17, 5)


@pytest.mark.parametrize("write", [write_series, write_frames])
def test_scouts_alone_are_no_volume(tmp_path: Path, write) -> None:
    write(tmp_path / "scout.dcm" if write is write_frames else tmp_path, SCOUT)
    with pytest.raises(NothingToSegmentError, match=r"scout views alone .*\n.*'Topogram'  1 file"):
        choose_series(tmp_path)
    assert read_series(choose_series(tmp_path, "Topogram")).image.GetSize() == (30, 40, 1)


def test_a_scout_in_one_series_with_slices_is_left_out(tmp_path: Path) -> None:
    write_series(tmp_path / "scout", replace(SCOUT, uid=Plan().uid))
    slices = write_series(tmp_path / "venous", Plan())
    found = read_series(choose_series(tmp_path))
    assert found.image.GetSize() == (23, 17, 5)
    assert {path.parent for path in found.sources} == {slices}
