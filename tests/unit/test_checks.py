"""What a study asks of its networks is checked before any of them is trained."""

import pytest

from medstill.errors import ConfigError, ShapeError
from medstill.networks import check_size
from medstill.training.assembly import build_teacher
from medstill.training.checks import check_networks

UNET = {"name": "UNet", "width": 1.0, "options": {"channels": [4, 8], "strides": [2]}}
FLAT = {**UNET, "alias": "flat"}
DEEP = {
    "name": "UNet",
    "alias": "deep",
    "options": {"channels": [4, 8, 16, 32], "strides": [2, 2, 2]},
}
UNETR = {
    "network": {
        "name": "UNETR",
        "width": 1.0,
        "options": {
            "img_size": 32,
            "feature_size": 4,
            "hidden_size": 24,
            "mlp_dim": 24,
            "num_heads": 2,
        },
    },
    "reconstruction": {"weight": 0.0},
}
PLAIN = {"features": {"B": {"weight": 0.0}}}


@pytest.fixture
def check(tiny, tiny_with):
    """Check a study for patches of a size."""

    def perform(size, **changes):
        study = tiny_with(data={"patch_size": [size, size]}, **changes)
        preparation = tiny.material().preparation
        check_networks(study, preparation.model_copy(update={"patch_zyx": (1, size, size)}))

    return perform


@pytest.mark.parametrize("students", [[FLAT, DEEP], [DEEP, FLAT]])
def test_each_of_two_students_of_one_network_has_its_own_sizes(check, students):
    teacher = {"network": UNET, "reconstruction": {"weight": 0.0}}
    with pytest.raises(ConfigError, match=r"is \[36, 36\], but network 'deep' needs .* of 8"):
        check(36, students=students, teacher=teacher, distillation=PLAIN)
    check(40, students=students, teacher=teacher, distillation=PLAIN)


def test_a_network_of_one_size_takes_that_alone(check, tiny, tiny_with):
    message = r"is \[64, 64\], but network 'UNETR' is built for \[32, 32\] alone\. Set its options"
    with pytest.raises(ConfigError, match=message):
        check(64, teacher=UNETR, distillation=PLAIN)
    check(32, teacher=UNETR, distillation=PLAIN)
    network = build_teacher(tiny_with(teacher=UNETR), tiny.material().preparation)
    check_size(network, (32, 32))
    with pytest.raises(ShapeError, match=r"the size \(32, 32\) alone, but got \(64, 64\)\. Set"):
        check_size(network, (64, 64))


@pytest.mark.parametrize("side", ["student_layer", "teacher_layer"])
def test_a_layer_that_never_runs_is_refused(check, side):
    features = {"B": {"loss": "mse", side: "encoder.blocks"}}
    with pytest.raises(ConfigError, match=r"run in every forward pass, but 'encoder\.blocks' did"):
        check(32, distillation={"features": features})


def test_a_layer_that_gives_tokens_is_refused(check):
    features = {"B": {"loss": "mse", "teacher_layer": "vit.blocks.3"}}
    with pytest.raises(ConfigError, match=r"a map .*, but 'vit\.blocks\.3' gives \(1, 4, 24\)"):
        check(32, teacher=UNETR, distillation={"features": features})
    tokens = {"weight": 0.5, "layer": "vit.blocks.3"}
    with pytest.raises(ConfigError, match=r"'vit\.blocks\.3' gives"):
        check(32, teacher={**UNETR, "signed_distance": tokens}, distillation=PLAIN)


@pytest.mark.parametrize(
    ("size", "student", "samples"), [(32, {"name": "compact"}, 1), (8, DEEP, 4)]
)
def test_a_norm_that_would_see_one_value_is_refused(check, size, student, samples):
    rest = {
        "students": [student],
        "teacher": {"network": UNET, "reconstruction": {"weight": 0.0}},
        "training": {"batch_size": samples},
        "distillation": PLAIN,
    }
    message = rf"cannot be trained with data\.patch_size \[{size}, {size}\] .*batch_size {samples}:"
    with pytest.raises(ConfigError, match=message):
        check(size, **rest)
    check(2 * size, **rest)


def test_a_norm_over_two_samples_is_no_problem(check):
    check(32, students=[{"name": "compact"}], distillation=PLAIN)


def test_deep_supervision_that_leaves_layers_untrained_is_refused(check):
    options = {"features": [4, 4, 4, 4, 4, 4], "deep_supervision": True}
    student = {"name": "BasicUNetPlusPlus", "options": options}
    with pytest.raises(ConfigError, match=r"shallowest branch first.*deep_supervision to false"):
        check(32, students=[student], distillation=PLAIN)
