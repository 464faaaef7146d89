"""The exceptions: which one, and what they say."""

import pickle

import pytest

from medstill import errors
from medstill.errors import ConfigError, MedstillError, UnknownNameError, require, unknown_name

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, MedstillError)
]


def test_the_nearest_name_is_offered_and_all_are_listed():
    error = unknown_name("network", "unet-t2", ["compact", "unet-t1", "unet-s1"])
    assert str(error) == (
        "No network is called 'unet-t2'. Did you mean 'unet-t1'? "
        "There are: compact, unet-s1, unet-t1."
    )


def test_nothing_is_offered_where_nothing_is_near():
    error = unknown_name("layout", "zzz", ["pairs", "csv"])
    assert str(error) == "No layout is called 'zzz'. There are: csv, pairs."


def test_a_wrong_name_is_a_configuration_error():
    assert isinstance(unknown_name("loss", "a", ["b"]), UnknownNameError)
    assert issubclass(UnknownNameError, ConfigError)


def test_a_shape_error_is_a_value_error():
    assert issubclass(errors.ShapeError, ValueError)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_travels_between_processes(kind):
    error = pickle.loads(pickle.dumps(kind("expected this, found that")))
    assert type(error) is kind
    assert str(error) == "expected this, found that"


def test_a_missing_package_is_answered_with_the_pip_command():
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'medstill\[report\]'"):
        require("no_such_package_at_all.below", "report")


def test_a_present_package_is_imported():
    assert require("json", "report").loads("1") == 1


def test_what_a_present_package_lacks_is_not_blamed_on_the_package(tmp_path, monkeypatch):
    (tmp_path / "present_package.py").write_text("import no_such_package_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all"):
        require("present_package", "report")
