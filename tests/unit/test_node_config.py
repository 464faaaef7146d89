"""The configuration of a node: every mistake is named, and the default is a closed door."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from medstill.errors import ConfigError
from medstill.node.config import NodeConfig, load_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "serve.md"
GOOD = {
    "folder": "node",
    "peers": [
        {"aet": "CT1", "host": "127.0.0.1"},
        {"aet": "ARCHIVE", "host": "127.0.0.1", "port": 104, "allow": False, "receives": True},
    ],
}


def load(tmp_path, content, **replaced):
    path = tmp_path / "serve.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load_config(path, **replaced)


def test_the_defaults_can_be_reached_from_this_machine_alone(tmp_path):
    config = load(tmp_path, GOOD)
    assert (config.aet, config.host, config.port) == ("MEDSTILL", "127.0.0.1", 11112)
    assert [peer.aet for peer in config.receivers] == ["ARCHIVE"]
    assert config.waits.keep_done_h == 0
    assert config.limits.reserve_mb > 0


def test_flags_replace_keys_and_what_is_not_given_does_not(tmp_path):
    config = load(tmp_path, {**GOOD, "port": 4242}, aet="OTHER", port=None)
    assert (config.aet, config.port) == ("OTHER", 4242)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prot": 104}, r"Did you mean 'port'"),
        ({"aet": "A" * 17}, r"aet: an AE title has 1 to 16"),
        ({"aet": "A\\B"}, r"aet: an AE title has 1 to 16"),
        ({"port": 70000}, r"port: .*65535"),
        ({"peers": []}, r"peers: .*at least 1"),
        ({"peers": [{"aet": "A", "host": "h", "receives": True}]}, r"'A' receives, so it needs a"),
        ({"peers": [{"aet": "A", "host": "h"}]}, r"nobody gets the results"),
        ({"peers": [{**GOOD["peers"][1]}]}, r"no peer may connect"),
        ({"peers": [{**GOOD["peers"][1], "allow": True}] * 2}, r"the same AE title"),
        ({"peers": [GOOD["peers"][0], {**GOOD["peers"][1], "tls": True}]}, r"has no tls"),
        ({"waits": {"quiet_s": -1}}, r"waits.quiet_s"),
        ({"limits": {"pdu_kb": 1}}, r"limits.pdu_kb"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, {**GOOD, **change})


def test_certificates_that_are_not_there_are_named(tmp_path):
    tls = {"cert": "no-such.pem", "key": "no-such.key", "ca": "no-such-ca.pem"}
    with pytest.raises(ConfigError, match=r"tls\.cert: expected a PEM file at 'no-such\.pem'"):
        load(tmp_path, {**GOOD, "tls": tls})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b\n", r"configuration '.*serve\.yaml' must hold keys and values.*serve\.md"),
        ("a: [", r"configuration '.*' is not valid YAML"),
    ],
)
def test_what_is_no_configuration_is_told(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, content)


def test_the_examples_in_the_documentation_are_valid():
    blocks = re.findall(r"^```yml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        NodeConfig.model_validate({**GOOD, **yaml.safe_load(block)})
