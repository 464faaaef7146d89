"""A node in a process of its own under load, with dcmtk's senders and receiver around it.

Whatever happens on the way, each series that was sent gives exactly one segmentation.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from dicom_node import (
    PERSON,
    answers,
    archive,
    free_port,
    made_of,
    needs_dcmtk,
    node_config,
    send,
    storescu,
    until,
    write_series,
)

pytest.importorskip("pynetdicom", reason="pip install 'medstill[dicom]'")

pytestmark = [pytest.mark.slow, needs_dcmtk]

SERIES, SLICES = 12, 10
SERVE = """
import logging, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from dicom_node import fake_handle
from medstill.node import load_config, serve

def slowly(folder, result):
    time.sleep(float(sys.argv[2]))
    return fake_handle(folder, result)

logging.basicConfig(level=logging.DEBUG)
serve(load_config(Path(sys.argv[1])), slowly)
"""


class Service:
    """`medstill.node.serve` in a process that can be killed; its log goes to one file."""

    def __init__(self, folder, config, model_s):
        self.config = config
        self.log = folder / "log.txt"
        self.file = folder / "serve.yaml"
        self.file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        self.model_s = model_s

    def start(self):
        here = str(Path(__file__).resolve().parents[1])
        command = [sys.executable, "-c", SERVE, str(self.file), str(self.model_s), here]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until(lambda: answers(self.config.port), "the node does not listen")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60.0)


@pytest.fixture
def place(tmp_path):
    """Folder, configuration and all series of a test."""
    port = free_port()
    config = node_config(tmp_path / "node", port, attempts=50)
    series = [
        write_series(tmp_path / f"series {n}", number=n, slices=SLICES)
        for n in range(1, SERIES + 1)
    ]
    return tmp_path, config, series, port


def told(log):
    """Values of a header that stand in a log."""
    text = log.read_text()
    uids = [f"1.2.826.0.1.3680043.99.7.{n}" for n in range(1, SERIES + 1)]
    return [value for value in (*PERSON.values(), *uids, "Geheim", "Erika") if value in text]


def shuffled(series, seed):
    files = [file for one in series for file in one.files]
    random.Random(seed).shuffle(files)
    return files


def expected(series):
    return sorted((one.uid, SLICES) for one in series)


def test_many_associations_and_interleaved_series(place, record_property):
    folder, config, series, port = place
    service = Service(folder, config, model_s=0.05)
    with archive(folder / "archive", port) as receiver:
        service.start()
        # Six senders at a time: each two series, shuffled; and each series from two senders.
        parts = [
            shuffled([series[n], series[(n + 1) % SERIES]], n)[: SLICES * 2] for n in range(SERIES)
        ]
        begun = time.monotonic()
        for round_ in (parts[:6], parts[6:]):
            senders = [
                subprocess.Popen(storescu(config, part), stdout=subprocess.DEVNULL)
                for part in round_
            ]
            assert [sender.wait(120.0) for sender in senders] == [0] * len(senders)
        rate = sum(map(len, parts)) / (time.monotonic() - begun)
        record_property("instances_per_s", round(rate))
        until(lambda: len(list((config.folder / "done").iterdir())) == SERIES, "not all are done")
        assert service.end() == 0
        assert made_of(receiver.received()) == expected(series)
    assert told(service.log) == []


def test_nothing_is_lost_and_nothing_doubled_over_kills_and_a_dead_receiver(place, record_property):
    """Senders repeat what was not acknowledged, as archives do; the node is killed at random."""
    folder, config, series, port = place
    service = Service(folder, config, model_s=0.3)
    service.start()
    failures = Counter()

    def deliver(one):
        while send(config, shuffled([one], failures[one.uid])).returncode != 0:
            failures[one.uid] += 1
            assert failures[one.uid] < 200
            time.sleep(0.1)

    senders = [threading.Thread(target=deliver, args=(one,)) for one in series]
    for sender in senders:
        sender.start()
    chance = random.Random(3)
    kills = 0

    def kill_and_start():
        service.kill()
        service.start()

    while any(sender.is_alive() for sender in senders) and kills < 8:
        time.sleep(chance.uniform(0.2, 1.0))
        kill_and_start()
        kills += 1
    for sender in senders:
        sender.join(120.0)
        assert not sender.is_alive()
    with archive(folder / "archive", port) as receiver:
        for _ in range(4):  # while the model runs and results go out
            time.sleep(chance.uniform(0.5, 1.5))
            kill_and_start()
            kills += 1
        receiver.stop()
        time.sleep(0.5)
        receiver.start()
        until(lambda: len(list((config.folder / "done").iterdir())) == SERIES, "not all are done")
        assert service.end() == 0
        assert made_of(receiver.received()) == expected(series)
    record_property("kills and repeats", (kills, sum(failures.values())))
    assert kills >= 5
    assert sum(failures.values()) > 0, "no kill met a sender: the test shows too little"
    assert list(config.folder.glob("failed/*")) == []
    assert told(service.log) == []


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="only root can mount a small disk",
)
def test_a_disk_that_is_really_full(place):
    folder, config, series, port = place
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    try:
        config = config.model_copy(update={"folder": disk / "node"})
        service = Service(folder, config, model_s=0.0)
        service.start()
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(590_000 - 4096 * 40))
        refused = [send(config, one.files).stdout for one in series[:6]]
        assert any("OutOfResources" in text for text in refused)
        with archive(folder / "archive", port) as receiver:
            ballast.unlink()
            for one in series:
                until(lambda one=one: send(config, one.files).returncode == 0, "still no room")
            done = config.folder / "done"
            until(lambda: len(list(done.iterdir())) == SERIES, "not all are done")
            assert service.end() == 0
            assert made_of(receiver.received()) == expected(series)
        assert told(service.log) == []
    finally:
        subprocess.run(["umount", str(disk)], check=False)
