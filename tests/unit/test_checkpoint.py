import ast
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import medstill
from medstill.config import NetworkConfig
from medstill.errors import ConfigError, RunError
from medstill.networks import build, foreign
from medstill.runs import write_json
from medstill.training import checkpoint
from medstill.training.boundary import result_of
from medstill.training.checkpoint import Best, weights_hash


class Malicious:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_tensors_and_numbers_come_back(tmp_path):
    content = {"step": 7, "dice": 0.25, "task": {"w": torch.arange(6.0).view(2, 3)}, "none": None}
    checkpoint.save(tmp_path / "folder" / "a.ckpt", content)
    found = checkpoint.load(tmp_path / "folder" / "a.ckpt")
    assert torch.equal(found.pop("task")["w"], content.pop("task")["w"])
    assert found == content
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a.ckpt"]


def test_pickled_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"network": Malicious()}, tmp_path / "a.ckpt")
    with pytest.raises(RunError, match=r"a\.ckpt' is damaged or holds more than plain tensors"):
        checkpoint.load(tmp_path / "a.ckpt")
    assert not (tmp_path / "pwned").exists()


class LoadsAnything(nn.Module):
    """A network of others whose constructor loads what it is given, code included."""

    def __init__(self, in_channels, out_channels, weights):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)
        self.weights = torch.load(weights, weights_only=False)


def test_code_pickled_with_weights_for_a_foreign_network_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(foreign, "_classes", lambda: {"LoadsAnything": LoadsAnything})
    torch.save({"network": Malicious()}, tmp_path / "bad.pt")
    torch.save({"w": torch.ones(2)}, tmp_path / "good.pt")

    def built(name):
        config = NetworkConfig(name="LoadsAnything", options={"weights": str(tmp_path / name)})
        return build(config, spatial_dims=2, in_channels=1, out_channels=2)

    with pytest.raises(ConfigError, match=r"'LoadsAnything' refuses its options \(.*UnpicklingErr"):
        built("bad.pt")
    assert not (tmp_path / "pwned").exists()
    assert torch.equal(built("good.pt").weights["w"], torch.ones(2))
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def calls_in(source):
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_nothing_in_the_package_loads_pickled_code():
    found = []
    for source in sorted(Path(medstill.__file__).parent.rglob("*.py")):
        assert "import pickle" not in source.read_text(encoding="utf-8")
        for call in calls_in(source):
            name = ast.unparse(call.func)
            options = {word.arg: ast.unparse(word.value) for word in call.keywords}
            if name in ("torch.load", "torch.hub.load_state_dict_from_url"):
                found.append(name)
                assert options.get("weights_only") == "True", source
            if name == "np.load":
                found.append(name)
                assert options.get("allow_pickle") == "False", source
    assert {"torch.load", "np.load"} <= set(found)


def test_a_whole_module_is_refused(tmp_path):
    torch.save({"network": nn.Linear(2, 2)}, tmp_path / "a.ckpt")
    with pytest.raises(RunError, match="more than plain tensors"):
        checkpoint.load(tmp_path / "a.ckpt")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "a.ckpt"
    checkpoint.save(path, {"w": torch.rand(100)})
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(RunError, match=r"a\.ckpt' is damaged.*Delete its folder and train again"):
        checkpoint.load(path)


def test_other_bytes_and_plain_numbers_are_refused(tmp_path):
    (tmp_path / "text.ckpt").write_text("this is no checkpoint")
    with pytest.raises(RunError, match="is damaged"):
        checkpoint.load(tmp_path / "text.ckpt")
    torch.save(torch.zeros(3), tmp_path / "tensor.ckpt")
    with pytest.raises(RunError, match="is damaged"):
        checkpoint.load(tmp_path / "tensor.ckpt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunError, match=r"no checkpoint '.*gone\.ckpt'. Train this network first"):
        checkpoint.load(tmp_path / "gone.ckpt")


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "a.ckpt"
    checkpoint.save(path, {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(path, {"step": 2, "code": lambda: None})
    assert checkpoint.load(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_history_of_another_training_is_refused(tmp_path):
    write_json(tmp_path / "history.json", [{"step": 2, "dice_by_class": {"liver": 0.01}}])
    assert result_of(tmp_path, Best(2, 0.01)).collapsed == ("liver",)
    with pytest.raises(RunError, match=r"history\.json' should hold the validation of step 4"):
        result_of(tmp_path, Best(4, 0.5))


def test_the_hash_is_of_names_and_values():
    torch.manual_seed(0)
    one, two = nn.Linear(3, 2), nn.Linear(3, 2)
    assert weights_hash(one) != weights_hash(two)
    two.load_state_dict(one.state_dict())
    assert weights_hash(one) == weights_hash(two)
    with torch.no_grad():
        two.bias[0] += 1e-6
    assert weights_hash(one) != weights_hash(two)
    assert weights_hash(nn.Sequential(one)) != weights_hash(one)
    channels_last = nn.Conv2d(3, 4, 3)
    before = weights_hash(channels_last)
    assert weights_hash(channels_last.to(memory_format=torch.channels_last)) == before
