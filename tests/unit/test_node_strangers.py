"""Who may speak with a node and who may not: strangers, rubbish, certificates."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess

import pytest

from dicom_node import (
    archive,
    associate,
    echo,
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

from medstill.node import Peer, Tls  # noqa: E402

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


def test_known_peers_are_answered_and_others_are_not(config, series):
    with running(config):
        assert echo(config).returncode == 0
        stranger = echo(config, aet="STRANGER")
        assert stranger.returncode != 0
        assert "Calling AE Title Not Recognized" in stranger.stdout
        wrong = echo(config, called="OTHER")
        assert wrong.returncode != 0
        assert "Called AE Title Not Recognized" in wrong.stdout
        assert echo(config, aet="ARCHIVE").returncode != 0, "it may not connect, only receive"
        assert send(config, series.files, aet="STRANGER").returncode != 0
        assert send(config, series.files).returncode == 0


def test_a_known_title_from_another_address_is_refused(config, caplog):
    peers = (Peer(aet="SCU", host="127.0.0.2"), Peer(aet="NEAR", host="127.0.0.1"), config.peers[1])
    with running(config.model_copy(update={"peers": peers})):
        refused = echo(config)
        assert refused.returncode != 0
        assert "Calling AE Title Not Recognized" in refused.stdout
        assert echo(config, aet="NEAR").returncode == 0
    with running(config.model_copy(update={"peers": (peers[0], peers[2])})):
        assert echo(config).returncode != 0
    assert "no peer has this address" in caplog.text


def test_more_associations_than_allowed_are_refused_for_the_moment(config):
    config = replace_in(config, "limits", associations=2)
    with running(config):
        held = [associate(config) for _ in range(2)]
        assert all(one.is_established for one in held)
        refused = echo(config)
        assert refused.returncode != 0
        assert "Local Limit Exceeded" in refused.stdout
        for one in held:
            one.release()
        until(lambda: echo(config).returncode == 0, "there is room again")


@pytest.mark.parametrize(
    "rubbish",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(2000),
        struct.pack(">BBL", 1, 0, 2**32 - 1) + bytes(5000),
        struct.pack(">BBL", 4, 0, 12) + bytes(12),
        struct.pack(">BBL", 1, 0, 80) + bytes(80),
        b"",
    ],
    ids=["http", "random", "4 GB PDU", "data without association", "zeros", "nothing"],
)
def test_rubbish_on_the_port_does_no_harm(config, rubbish):
    with running(config):
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", config.port)) as connection:
                connection.sendall(rubbish)
        assert echo(config).returncode == 0


def test_a_connection_that_says_nothing_is_closed(config):
    config = replace_in(config, "waits", network_s=0.5)
    with running(config), socket.create_connection(("127.0.0.1", config.port)) as silent:
        silent.settimeout(20.0)
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(100) == b""


def certificate(folder, name, authority=None):
    """A key and a certificate for 127.0.0.1; its own authority unless one is given."""
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(cert)]
    if authority is not None:
        command += ["-CA", f"{authority}.pem", "-CAkey", f"{authority}.key"]
        command += ["-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / name


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_tls_demands_a_certificate_from_both_sides(tmp_path, series):
    authority = certificate(tmp_path, "authority")
    names = {name: certificate(tmp_path, name, authority) for name in ("node", "scu", "archive")}
    stranger = certificate(tmp_path, "stranger")
    port = free_port()
    config = node_config(tmp_path / "node", port)
    peers = (config.peers[0], config.peers[1].model_copy(update={"tls": True}))
    tls = Tls(cert=f"{names['node']}.pem", key=f"{names['node']}.key", ca=f"{authority}.pem")
    config = config.model_copy(update={"peers": peers, "tls": tls})

    def secure(path):
        return ("+tls", f"{path}.key", f"{path}.pem", "+cf", f"{authority}.pem")

    options = secure(names["archive"])
    with archive(tmp_path / "archive", port, *options) as receiver, running(config):
        assert send(config, series.files).returncode != 0, "it speaks no TLS"
        assert send(config, series.files, *secure(stranger)).returncode != 0
        with socket.create_connection(("127.0.0.1", config.port)):  # a handshake that never comes
            sent = send(config, series.files, *secure(names["scu"]))
        assert sent.returncode == 0, sent.stdout
        until(receiver.received, "the segmentation does not come")
    assert made_of(receiver.received()) == [(series.uid, 4)]
