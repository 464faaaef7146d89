"""Every pair of the thesis's teachers with every student takes a step of distillation."""

import pytest
import torch

from medstill.refs import ModelRef
from medstill.training.assembly import build_teacher, student_task
from medstill.training.tasks import Place

TEACHERS = {
    "unet-t1": {"name": "unet-t1", "width": 1 / 16},
    "transunet-t2": {"name": "transunet-t2", "width": 1 / 16, "depth": 1 / 6},
}
STUDENTS = ("unet-s1", "unet-s2", "compact")


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_step_of_distillation_reaches_every_weight(tiny, tiny_with, teacher, student, dims):
    study = tiny_with(
        teacher={"network": TEACHERS[teacher]},
        students=[{"name": student}],
        distillation={"features": {scale: {"weight": 0.1} for scale in "EBD"}},
    )
    preparation = tiny.material().preparation.model_copy(
        update={"spatial_dims": dims, "patch_zyx": (1 if dims == 2 else 32, 32, 64)}
    )
    guide = build_teacher(study, preparation)
    task = student_task(study, preparation, ModelRef("distilled", student, 0), guide)
    generator = torch.Generator().manual_seed(1)
    image = torch.rand((2, 1, *preparation.patch_zyx[3 - dims :]), generator=generator)
    label = (image[:, 0] * 3).long()
    task.before_training(Place(torch.device("cpu"), dims), [image])
    result = task.compute(image, label, 0)
    result.total.backward()
    assert {"E/supcon", "B/supcon", "D/supcon", "maps/kl"} <= set(result.terms)
    assert all(value.isfinite() for value in result.terms.values())
    assert all(parameter.grad is not None for parameter in task.parameters())
    assert all(parameter.grad is None for parameter in guide.parameters())
