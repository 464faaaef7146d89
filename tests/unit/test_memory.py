"""Memory that is kept while a network trains, and goes back behind it."""

import os
import sys
from pathlib import Path

import pytest
import torch

from medstill.training import kept_memory, memory

MAP = 24 * 2**20
"""Numbers of a map of 96 MiB, which malloc gives back when it is freed, if not told otherwise."""


def resident_mb():
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(pages[1]) * os.sysconf("SC_PAGESIZE") / 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif(memory._glibc() is None, reason="the C library is not glibc")
def test_freed_memory_is_kept_inside_and_goes_back_behind():
    before = resident_mb()
    with kept_memory():
        numbers = torch.ones(MAP)
        del numbers
        assert resident_mb() - before > 80
    assert resident_mb() - before < 20
    numbers = torch.ones(MAP)
    del numbers
    assert resident_mb() - before < 20


@pytest.mark.skipif(memory._glibc() is None, reason="the C library is not glibc")
def test_it_goes_back_when_a_training_fails():
    before = resident_mb()

    @kept_memory()
    def fail():
        numbers = torch.ones(MAP)
        del numbers
        raise KeyError(resident_mb() - before)

    with pytest.raises(KeyError) as found:
        fail()
    assert found.value.args[0] > 80
    assert resident_mb() - before < 20


def test_without_glibc_it_does_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory._glibc() is None
    with kept_memory():
        assert torch.ones(3).sum() == 3
