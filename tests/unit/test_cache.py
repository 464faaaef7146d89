import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from medstill.errors import RunError, StorageError
from medstill.training.cache import VIEWS_FILE, CaseName, ViewCache


class PowerCutError(Exception):
    """Ends a computation in the middle."""


def rows(count=3):
    found = np.zeros(count, dtype=[("image", "f4", (1, 2)), ("logits", "f4", (2,))])
    found["image"] = np.arange(2 * count).reshape(count, 1, 2)
    return found


def test_processes_share_the_work(tmp_path):
    """Each case is computed once, whoever does it, and both find all of them."""
    computed, start = [], threading.Barrier(2)
    wanted = {CaseName(f"case-{number}", bare=False): 3 for number in range(8)}

    def compute(name):
        computed.append(name)
        yield rows()

    def work():
        cache = ViewCache(tmp_path / "key")
        start.wait()
        cache.fill(wanted, compute)
        assert all((cache.folder(name) / VIEWS_FILE).exists() for name in wanted)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(computed) == Counter(list(wanted))


def test_a_case_that_another_process_computes_is_left_for_the_end(tmp_path):
    cache = ViewCache(tmp_path / "key")
    names = [CaseName(name, bare=False) for name in ("a", "b")]
    lock = FileLock(cache.folder(names[0]).with_name("a.lock"))
    cache.folder(names[0]).parent.mkdir(parents=True)
    lock.acquire()
    order = []

    def compute(name):
        order.append(name.case)
        lock.release()
        yield rows()

    cache.fill(dict.fromkeys(names, 3), compute)
    assert order == ["b", "a"]


DEVICE = Path("/dev/full")


@pytest.mark.skipif(not DEVICE.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("views", [3, 200_000])
def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path, monkeypatch, views):
    cache, name = ViewCache(tmp_path / "key"), CaseName("a", bare=False)
    really_open = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, *mode: really_open(DEVICE if self.name == VIEWS_FILE else self, *mode),
    )
    with pytest.raises(StorageError, match="No space left while writing"):
        cache.fill({name: views}, lambda _: iter([rows(views)]))
    assert not cache.folder(name).exists()
    assert [path.name for path in cache.folder(name).parent.iterdir()] == ["a.lock"]
    monkeypatch.undo()
    cache.fill({name: 3}, lambda _: iter([rows()]))
    assert (cache.folder(name) / VIEWS_FILE).exists()


def test_a_killed_computation_leaves_nothing_that_counts(tmp_path):
    cache, name = ViewCache(tmp_path / "key"), CaseName("a", bare=False)

    def die(_):
        yield rows(1)
        raise PowerCutError

    with pytest.raises(PowerCutError):
        cache.fill({name: 3}, die)
    assert not cache.folder(name).exists()
    cache.fill({name: 3}, lambda _: iter([rows()]))
    assert len(np.load(cache.folder(name) / VIEWS_FILE)) == 3


def test_a_case_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(RunError, match="Repeat the command"):
        ViewCache(tmp_path / "key").row(CaseName("a", bare=True), 0)
