"""What an instance says about itself: read from hostile bytes too."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_node import CT, PERSON, write_series

pydicom = pytest.importorskip("pydicom", reason="pip install 'medstill[dicom]'")

from medstill.node.files import name_of  # noqa: E402
from medstill.node.objects import Instance, MalformedError, identify  # noqa: E402


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return write_series(tmp_path_factory.mktemp("series"), number=5, slices=2, count=True)


@pytest.fixture
def dataset(series):
    return pydicom.dcmread(series.files[0])


def stream_of(dataset):
    from io import BytesIO

    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_an_instance_is_known_by_hashes_alone(series):
    uid = series.instance_uids[0]
    found = identify(series.files[0].read_bytes(), CT, uid)
    assert found == Instance(name_of(uid), name_of(series.uid), expected=2)
    assert not [value for value in (series.uid, uid, *PERSON.values()) if value in repr(found)]


@pytest.mark.parametrize("name", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_an_instance_without_a_uid_cannot_be_understood(series, dataset, name):
    delattr(dataset, name)
    with pytest.raises(MalformedError, match=f"no valid {name}") as caught:
        identify(stream_of(dataset), CT, series.instance_uids[0])
    assert caught.value.status == 0xC000
    known = None if name == "SeriesInstanceUID" else name_of(series.uid)
    assert caught.value.series == known


def test_an_instance_other_than_announced_is_refused(series):
    with pytest.raises(MalformedError, match="not the instance that was announced") as caught:
        identify(series.files[0].read_bytes(), CT, series.instance_uids[1])
    assert caught.value.status == 0xA900
    assert caught.value.series == name_of(series.uid)


@pytest.mark.parametrize("count", ["-3", "0", "999999999", ""])
def test_a_number_of_instances_that_cannot_be_is_not_believed(dataset, series, count):
    dataset.NumberOfSeriesRelatedInstances = count
    assert identify(stream_of(dataset), CT, series.instance_uids[0]).expected is None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_are_an_instance_or_refused_and_never_tell_a_value(series, data):
    stream = bytearray(series.files[0].read_bytes()[:1500])
    for _ in range(data.draw(st.integers(1, 8))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(stream)))
    told = outcome(bytes(stream[:cut]), series.instance_uids[0])
    assert not [value for value in (series.uid, *PERSON.values()) if value in told]


def outcome(stream, announced):
    try:
        return repr(identify(stream, CT, announced))
    except MalformedError as error:
        return str(error)
