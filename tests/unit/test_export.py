"""Export to ONNX: what stands in the file, that it agrees with PyTorch, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from medstill.config import NetworkConfig
from medstill.deploy import export as export_module
from medstill.deploy.contract import METADATA_KEY, Contract, NetworkSummary, Origin
from medstill.deploy.digest import GRAPH_KEY
from medstill.deploy.export import Evidence, export_onnx
from medstill.deploy.runtime import load_model
from medstill.deploy.segmentation import segment
from medstill.deploy.translate import compare
from medstill.errors import ModelFileError, ShapeError
from medstill.networks import build, run
from medstill.volumes.records import ChannelIntensity, Preparation
from medstill.volumes.terms import terms_of

CLASSES = ("background", "liver", "spleen", "aorta")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that wait for each other are slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def contract(dims=2, channels=1, classes=2, patch=(1, 32, 48)):
    return Contract(
        network=NetworkSummary(name="tested", parameters=1, macs=1),
        preparation=Preparation(
            spatial_dims=dims,
            spacing_zyx_mm=(None if dims == 2 else 3.0, 2.0, 1.0),
            intensity=(ChannelIntensity(kind="none"),) * channels,
            classes=CLASSES[:classes],
            patch_zyx=patch,
        ),
        terms=terms_of(CLASSES[:classes], {}),
        training=Origin(study="feedbeef", weights="0123456789abcdef"),
    )


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def trained(network, *shape):
    """Fill the running statistics, so that folding them is put to the test."""
    torch.manual_seed(0)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(3.0 * torch.rand(*shape) + 1.0)
    return network


SMALL_T2 = NetworkConfig(name="transunet-t2", width=1 / 16, depth=1 / 4)
CASES = {
    "s1-2d": (NetworkConfig(name="unet-s1"), contract(channels=2, classes=4)),
    "compact-3d": (NetworkConfig(name="compact"), contract(dims=3, patch=(16, 32, 48))),
    "compact-fine-2d": (NetworkConfig(name="compact-fine"), contract(classes=3, patch=(1, 32, 64))),
    "compact-fine-2d-many": (
        NetworkConfig(name="compact-fine"),
        contract(classes=10, patch=(1, 32, 64)),
    ),
    "compact-dw-2d": (NetworkConfig(name="compact-dw"), contract(classes=4, patch=(1, 32, 48))),
    "t2-2d": (SMALL_T2, contract()),
    "t2-3d": (SMALL_T2, contract(dims=3, patch=(32, 48, 64))),
}


@pytest.fixture(scope="module", params=CASES)
def exported(request, tmp_path_factory):
    config, agreed = CASES[request.param]
    preparation = agreed.preparation
    torch.manual_seed(1)
    network = build(
        config,
        spatial_dims=preparation.spatial_dims,
        in_channels=preparation.channels,
        out_channels=agreed.output_channels,
    )
    space = preparation.patch_zyx[-preparation.spatial_dims :]
    network = trained(network, 2, preparation.channels, *space)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    verify_on = [images(3, preparation.channels, *space)]
    report = export_onnx(network, agreed, path, Evidence(verify_on))
    assert network.training
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    return network.eval(), agreed, path, report


def logits(network, array):
    with torch.inference_mode():
        return run(network, torch.from_numpy(array)).logits.numpy()


def test_the_report_says_what_was_compared(exported):
    _, agreed, path, report = exported
    assert report.path == path
    assert report.size_bytes == path.stat().st_size
    assert (report.precision, report.verification) == ("fp32", None)
    assert report.comparison.label_agreement >= 0.9999
    assert 0 <= report.comparison.largest_logit_difference < 1e-3
    assert report.comparison.voxels == 3 * np.prod(agreed.preparation.patch_zyx)
    assert report.fixed_axes == ()
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]


def test_no_flat_convolution_sees_a_concatenation(exported):
    """onnxruntime would turn maps out of its blocks of channels and back for it."""
    _, agreed, path, _ = exported
    nodes = onnx.load(path).graph.node
    joined = {name for node in nodes if node.op_type == "Concat" for name in node.output}
    seen = {node.input[0] for node in nodes if node.op_type == "Conv"}
    assert seen
    assert agreed.preparation.spatial_dims == 3 or not joined & seen


def test_batch_and_size_are_free(exported):
    network, agreed, path, _ = exported
    model = load_model(path, threads=1)
    assert model.contract == agreed
    space = (32, 64, 96)[-agreed.preparation.spatial_dims :]
    for batch in (1, 5):
        array = images(batch, agreed.preparation.channels, *space, seed=batch)
        np.testing.assert_allclose(model(array), logits(network, array), atol=1e-4)


def test_the_file_is_folded_and_speaks_of_no_machine(exported):
    _, agreed, path, _ = exported
    model = onnx.load(path)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.key for entry in model.metadata_props] == [METADATA_KEY, GRAPH_KEY]
    content = path.read_bytes()
    for word in (b".py", b"site-packages", b"stack_trace", b"/home", b"/work"):
        assert word not in content
    axes = [size.dim_param for size in model.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", "", *"zyx"[-agreed.preparation.spatial_dims :]]


def test_the_file_segments_as_the_network_does(exported):
    network, agreed, path, _ = exported
    components = [
        sitk.GetImageFromArray(images(7, 41, 53, seed=channel))
        for channel in range(agreed.preparation.channels)
    ]
    image = sitk.Compose(components) if len(components) > 1 else components[0]
    image.SetSpacing((1.0, 1.7, 2.9))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    labels = [
        sitk.GetArrayFromImage(segment(image, callable_, agreed.preparation).label)
        for callable_ in (lambda array: logits(network, array), load_model(path, threads=1))
    ]
    assert len(np.unique(labels[0])) > 1
    assert (labels[0] == labels[1]).mean() >= 0.9999


def test_the_reconstruction_stays_behind(tmp_path):
    torch.manual_seed(1)
    network = build(
        NetworkConfig(name="unet-s1"),
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        reconstruction=True,
    )
    path = tmp_path / "teacher.onnx"
    export_onnx(network, contract(), path, Evidence([images(2, 1, 32, 48)]))
    plain = build(NetworkConfig(name="unet-s1"), spatial_dims=2, in_channels=1, out_channels=1)
    stored = sum(np.prod(entry.dims) for entry in onnx.load(path).graph.initializer)
    weights = sum(value.numel() for value in plain.parameters())
    assert stored <= 1.01 * weights
    assert sum(value.numel() for value in network.parameters()) > 1.2 * weights


class Fixed(nn.Module):
    """A network that knows one image size only, as position embeddings do."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.linspace(-1, 1, 32 * 48).reshape(1, 1, 32, 48))

    def forward(self, x):
        return x - 0.5 + self.positions


def test_a_network_of_one_size_keeps_it_and_the_report_says_so(tmp_path):
    path = tmp_path / "model.onnx"
    report = export_onnx(Fixed(), contract(), path, Evidence([images(2, 1, 32, 48)]))
    assert report.fixed_axes == ("y", "x")
    image = sitk.GetImageFromArray(images(3, 41, 53))
    assert segment(image, load_model(path), contract().preparation).label.GetSize() == (53, 41, 3)


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.reshape(2, 1, x.shape[2], x.shape[3])


def test_a_network_of_one_batch_size_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match=r"'tested' cannot be exported.*batch"):
        export_onnx(FixedBatch(), contract(), tmp_path / "m.onnx", Evidence([images(2, 1, 32, 48)]))
    assert list(tmp_path.iterdir()) == []


class Untranslatable(nn.Module):
    def forward(self, x):
        return x if float(x.sum()) > 0 else torch.zeros_like(x)


def test_a_network_that_torch_cannot_translate_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match=r"'tested' cannot be exported to ONNX: .*Choose a"):
        export_onnx(
            Untranslatable(), contract(), tmp_path / "m.onnx", Evidence([images(1, 1, 32, 48)])
        )
    assert list(tmp_path.iterdir()) == []


def test_a_failed_verification_writes_nothing_and_says_by_how_much(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"what was here before")
    load = export_module.load_model

    def slightly_wrong(file):
        model = load(file)

        def call(array):
            answer = model(array)
            answer[:, :, 0, :8] = -answer[:, :, 0, :8] - 1e-3
            return answer

        return call

    monkeypatch.setattr(export_module, "load_model", slightly_wrong)
    network = nn.Conv2d(1, 1, 1)
    message = r"was not written: .* at 0\.5208% of 3072 voxels .*0\.01% are allowed"
    with pytest.raises(ModelFileError, match=message):
        export_onnx(network, contract(), path, Evidence([images(2, 1, 32, 48)]))
    assert path.read_bytes() == b"what was here before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_agreement_is_counted_by_hand():
    reference = nn.Identity()
    image = np.array([[[[-1.0, 2.0], [3.0, -4.0]]]], dtype=np.float32)
    answers = np.array([[[[-0.5, 2.0], [-3.0, np.nan]]]], dtype=np.float32)
    found = compare(reference, lambda _: answers, [image])
    assert found.label_agreement == 0.5
    assert found.largest_logit_difference == float("inf")
    assert found.voxels == 4


@pytest.mark.parametrize(
    ("verify_on", "found"),
    [
        ([], "none were given"),
        ([np.zeros((1, 2, 32, 48))], r"\(1, 2, 32, 48\)"),
        ([np.zeros((1, 1, 2, 32, 48))], r"\(1, 1, 2, 32, 48\)"),
        ([np.zeros((0, 1, 32, 48))], r"\(0, 1, 32, 48\)"),
    ],
)
def test_verification_needs_images_of_the_contract(tmp_path, verify_on, found):
    with pytest.raises(ShapeError, match=rf"export needs prepared images .*{found}"):
        export_onnx(nn.Conv2d(1, 1, 1), contract(), tmp_path / "m.onnx", Evidence(verify_on))
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_other_classes_than_its_contract_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match=r"does not fit its medstill contract"):
        export_onnx(
            nn.Conv2d(1, 3, 1),
            contract(classes=4),
            tmp_path / "m.onnx",
            Evidence([images(1, 1, 32, 48)]),
        )
    assert list(tmp_path.iterdir()) == []


def test_the_same_network_gives_the_same_bytes(tmp_path):
    network = nn.Conv2d(1, 1, 3, padding=1)
    for name in ("a.onnx", "b.onnx"):
        export_onnx(network, contract(), tmp_path / name, Evidence([images(1, 1, 32, 48)]))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
