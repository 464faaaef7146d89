"""Folders that several runs share, behind small text files."""

import shutil

import pytest

from medstill.errors import RunError
from medstill.links import follow, link, link_file, prepared_folder
from medstill.refs import TEACHER, ModelRef

CONTROL = ModelRef("control", "compact", 0)


def test_without_a_link_a_folder_means_itself(tmp_path):
    assert follow(tmp_path / "teacher") == tmp_path / "teacher"
    assert TEACHER.folder(tmp_path) == tmp_path / "teacher"
    assert prepared_folder(tmp_path) == tmp_path / "prepared"


def test_a_link_leads_to_a_folder_that_need_not_exist(tmp_path):
    run, shared = tmp_path / "runs" / "one", tmp_path / "shared" / "control-ab"
    link(run / CONTROL.name, shared)
    assert CONTROL.folder(run) == shared
    text = (run / "students" / "compact" / "control" / "seed-0.link").read_text(encoding="utf-8")
    assert text == "../../../../../shared/control-ab\n"


def test_links_hold_when_the_whole_folder_moves(tmp_path):
    link(tmp_path / "a" / "runs" / "one" / "prepared", tmp_path / "a" / "shared" / "prepared-1")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert prepared_folder(tmp_path / "b" / "runs" / "one") == tmp_path / "b/shared/prepared-1"


def test_a_link_can_lead_elsewhere_later_and_is_not_written_without_need(tmp_path):
    path = tmp_path / "teacher"
    link(path, tmp_path / "one")
    before = link_file(path).stat().st_mtime_ns
    link(path, tmp_path / "one")
    assert link_file(path).stat().st_mtime_ns == before
    link(path, tmp_path / "two")
    assert follow(path) == tmp_path / "two"


def test_a_folder_is_never_hidden_by_a_link(tmp_path):
    (tmp_path / "teacher").mkdir()
    with pytest.raises(RunError, match=r"Expected no folder '.*teacher'.*shares 'teacher-1'"):
        link(tmp_path / "teacher", tmp_path / "shared" / "teacher-1")


def test_a_damaged_link_is_told(tmp_path):
    (tmp_path / "teacher.link").write_text("\n")
    with pytest.raises(RunError, match=r"'.*teacher\.link' is empty\. Delete it"):
        follow(tmp_path / "teacher")
    (tmp_path / "teacher.link").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match=r"'.*teacher\.link' cannot be read"):
        follow(tmp_path / "teacher")
