"""A node in this process, with Debian dcmtk's tools as its peers."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from dicom_node import (
    PERSON,
    answers,
    archive,
    associate,
    fake_handle,
    free_port,
    made_of,
    needs_dcmtk,
    node_config,
    replace_in,
    running,
    send,
    until,
    write_series,
)

pynetdicom = pytest.importorskip("pynetdicom", reason="pip install 'medstill[dicom]'")

from medstill.errors import ConfigError  # noqa: E402
from medstill.node import echo as echo_receivers  # noqa: E402
from medstill.node import files  # noqa: E402
from medstill.node.states import State  # noqa: E402

pytestmark = needs_dcmtk


@pytest.fixture
def series(tmp_path):
    return write_series(tmp_path / "series")


@pytest.fixture
def receiver(tmp_path):
    with archive(tmp_path / "archive") as found:
        yield found


@pytest.fixture
def config(tmp_path, receiver):
    return node_config(tmp_path / "node", receiver.port)


def in_state(config, state):
    return [path for path in (config.folder / state).iterdir() if path.is_dir()]


def test_a_series_goes_in_and_one_segmentation_comes_out(config, receiver, series, caplog):
    with caplog.at_level(logging.DEBUG, logger="medstill"), running(config):
        sent = send(config, series.files)
        assert sent.returncode == 0, sent.stdout
        until(lambda: in_state(config, State.DONE), "the series is not done")
        assert send(config, series.files).returncode == 0
        time.sleep(1.5)
    assert made_of(receiver.received()) == [(series.uid, 4)]
    assert list(config.folder.rglob("*.dcm")) == []
    assert "4 stored, 0 refused" in caplog.text
    told = [value for value in (*PERSON.values(), series.uid) if value in caplog.text]
    assert told == []


def test_a_series_of_which_the_number_is_known_is_not_waited_for(tmp_path, config, receiver):
    config = replace_in(config, "waits", quiet_s=3600.0)
    known = write_series(tmp_path / "known", number=2, count=True)
    with running(config):
        assert send(config, known.files).returncode == 0
        until(receiver.received, "the segmentation does not come")
        until(lambda: in_state(config, State.DONE), "the series is not done")
    assert made_of(receiver.received()) == [(known.uid, 4)]


def test_malformed_objects_are_refused_and_the_association_goes_on(config, receiver, series):
    import pydicom

    with running(config):
        association = associate(config)
        bad = pydicom.dcmread(series.files[0])
        bad.SOPInstanceUID = bad.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
        bad.SeriesInstanceUID, bad.StudyInstanceUID = "1.2.3.5", ""
        assert association.send_c_store(bad).Status == 0xC000
        for file in series.files:
            assert association.send_c_store(pydicom.dcmread(file)).Status == 0x0000
        association.release()
        until(receiver.received, "the segmentation does not come")
    assert made_of(receiver.received()) == [(series.uid, 4)]


@pytest.mark.parametrize("fault", ["no series", "too large"])
def test_a_series_of_which_an_instance_is_refused_is_not_segmented(config, receiver, series, fault):
    import pydicom

    config = replace_in(config, "limits", object_mb=1)
    with running(config):
        association = associate(config)
        for file in series.files[:-1]:
            assert association.send_c_store(pydicom.dcmread(file)).Status == 0x0000
        bad = pydicom.dcmread(series.files[-1])
        if fault == "no series":
            del bad.SeriesInstanceUID
        else:
            bad.Rows = bad.Columns = 800
            bad.PixelData = bytes(2 * 800 * 800)
        status = association.send_c_store(bad).Status
        assert status == (0xC000 if fault == "no series" else 0xA700)
        association.release()
        time.sleep(2.0)
        assert in_state(config, State.INCOMING), "the last slice is missing"
        assert send(config, series.files).returncode == 0
        until(receiver.received, "the segmentation does not come")
    assert made_of(receiver.received()) == [(series.uid, 4)]


def test_what_the_model_cannot_read_is_put_aside_and_the_service_goes_on(
    tmp_path, config, receiver, series
):
    def handle(folder, result):
        if len(list(folder.iterdir())) == 4:
            raise ValueError("PixelData is too short")
        return fake_handle(folder, result)

    other = write_series(tmp_path / "other", number=2, slices=3)
    with running(config, handle):
        assert send(config, [*series.files, *other.files]).returncode == 0
        until(receiver.received, "the segmentation does not come")
        until(lambda: in_state(config, State.FAILED), "the other is not put aside")
    assert made_of(receiver.received()) == [(other.uid, 3)]
    (failed,) = in_state(config, State.FAILED)
    assert len(list((failed / "images").iterdir())) == 4


def test_a_too_large_object_is_out_of_resources_and_the_association_goes_on(tmp_path, config):
    import pydicom

    config = replace_in(config, "limits", object_mb=1)
    large = write_series(tmp_path / "large", number=3, slices=1, size=900)
    small = write_series(tmp_path / "small", number=4, slices=1)
    with running(config):
        association = associate(config)
        assert association.send_c_store(pydicom.dcmread(large.files[0])).Status == 0xA700
        assert association.send_c_store(pydicom.dcmread(small.files[0])).Status == 0x0000
        association.release()


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(config, receiver, series, monkeypatch):
    free = {"bytes": 0}
    monkeypatch.setattr(files, "free_bytes", lambda _: free["bytes"])
    with running(config):
        refused = send(config, series.files)
        assert refused.returncode != 0
        assert "OutOfResources" in refused.stdout
        assert list(config.folder.rglob("*.dcm")) == []
        free["bytes"] = 10**9
        assert send(config, series.files).returncode == 0
        until(receiver.received, "the segmentation does not come")
    assert made_of(receiver.received()) == [(series.uid, 4)]


def test_a_disk_that_fills_in_the_middle_of_a_series_loses_nothing(
    config, receiver, series, monkeypatch
):
    plain, written = files.write, []

    def filling(path, parts):
        if path.parent.name == "drafts":
            written.append(path)
            if len(written) == 3:
                raise OSError(files.FULL[0], "No space left on device")
        plain(path, parts)

    monkeypatch.setattr(files, "write", filling)
    with running(config):
        refused = send(config, series.files, "-nh").stdout
        assert refused.count("(Success)") == 3
        assert refused.count("OutOfResources") == 1
        time.sleep(1.5)
        assert receiver.received() == [], "three of four instances are not the series"
        assert send(config, series.files).returncode == 0
        until(receiver.received, "the segmentation does not come")
    assert made_of(receiver.received()) == [(series.uid, 4)]


# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_dead_receiver_gets_everything_once_it_lives(tmp_path, series):
    port = free_port()
    config = node_config(tmp_path / "node", port)
    other = write_series(tmp_path / "other", number=2, slices=2)
    with running(config):
        assert send(config, [*series.files, *other.files]).returncode == 0
        until(lambda: len(in_state(config, State.OUTGOING)) == 2, "the series are not segmented")
        assert echo_receivers(config) == {"ARCHIVE": "no association"}
        with archive(tmp_path / "archive", port) as late:
            until(lambda: len(in_state(config, State.DONE)) == 2, "the receiver gets nothing")
            assert echo_receivers(config) == {"ARCHIVE": None}
            assert made_of(late.received()) == sorted([(series.uid, 4), (other.uid, 2)])


def test_a_sender_that_breaks_off_is_waited_for(config, receiver, series):
    import pydicom

    with running(config):
        association = associate(config)
        for file in series.files[:2]:
            assert association.send_c_store(pydicom.dcmread(file)).Status == 0x0000
        association.abort()
        time.sleep(1.5)
        assert receiver.received() == []
        assert len(in_state(config, State.INCOMING)) == 1
        assert send(config, series.files).returncode == 0
        until(receiver.received, "the segmentation does not come")
    assert made_of(receiver.received()) == [(series.uid, 4)]


def test_a_port_that_is_taken_is_told(config):
    with running(config):
        other = config.model_copy(update={"folder": config.folder.with_name("other")})
        with pytest.raises(
            ConfigError, match=rf"Cannot listen at 127\.0\.0\.1, port {config.port}"
        ):
            running(other).__enter__()


def test_a_node_that_is_told_to_stop_lets_the_sender_finish(config, receiver, series):
    import pydicom

    with running(config) as node:
        association = associate(config)
        assert association.send_c_store(pydicom.dcmread(series.files[0])).Status == 0x0000
        stopping = threading.Thread(target=node.stop)
        stopping.start()
        until(lambda: not answers(config.port), "the node still listens")
        for file in series.files[1:]:
            assert association.send_c_store(pydicom.dcmread(file)).Status == 0x0000
        association.release()
        stopping.join(20.0)
        assert not stopping.is_alive()
    with running(config):
        until(receiver.received, "the segmentation does not come")
    assert made_of(receiver.received()) == [(series.uid, 4)]
