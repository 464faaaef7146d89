"""Where features are compared: common grids, classes of places, balanced and hard draws."""

import pytest
import torch

from medstill.errors import ShapeError
from medstill.losses.places import (
    UNSEEN,
    Scene,
    area_pool,
    class_shares,
    draw_balanced,
    draw_places,
    meet,
    pure_classes,
    rows,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def scene(labels, student, teacher, bare=None):
    return Scene(labels, student, teacher, generator(), bare)


@pytest.mark.parametrize("space", [(17, 24), (9, 16, 24)])
def test_two_maps_meet_on_the_coarser_grid_at_stride_four(space):
    halved = tuple(size // 2 for size in space)
    coarse = tuple(size // 8 for size in space)
    student, teacher = torch.rand(2, 3, *space), torch.rand(2, 5, *halved, requires_grad=True)
    one, two = meet(student, teacher, space)
    assert one.shape[2:] == two.shape[2:] == tuple(-(-size // 4) for size in space)
    assert not two.requires_grad
    one, two = meet(student, torch.rand(2, 5, *coarse), space)
    assert one.shape[2:] == two.shape[2:] == coarse


def test_area_pooling_is_the_mean_over_each_area():
    x = torch.rand(1, 2, 8, 12)
    pooled = area_pool(x, (2, 3))
    assert pooled[0, 1, 1, 2].item() == pytest.approx(x[0, 1, 4:8, 8:12].mean().item())
    assert area_pool(x, (8, 12)) is x


def test_maps_of_other_images_are_refused():
    with pytest.raises(ShapeError, match=r"\(2, 3, 8, 8\).*\(1, 3, 8, 8\)"):
        meet(torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 8), (8, 8))
    with pytest.raises(ShapeError, match=r"\(2, 3, 8, 8\).*\(2, 3, 8\)"):
        meet(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8), (8, 8))
    with pytest.raises(ShapeError, match=r"\(2, 3, 8, 8\).*\(4,\)"):
        area_pool(torch.zeros(2, 3, 8, 8), (4,))


def test_rows_of_numbered_places():
    x = torch.rand(2, 3, 4, 5)
    got = rows(x, torch.tensor([0, 19, 20 + 7]))
    torch.testing.assert_close(got, torch.stack((x[0, :, 0, 0], x[0, :, 3, 4], x[1, :, 1, 2])))


def test_class_of_a_place_is_its_majority_where_it_is_pure_enough():
    labels = torch.zeros(1, 4, 8, dtype=torch.uint8)
    labels[0, :, 4:] = 2
    labels[0, 0, 4:] = 1
    labels[0, 0, :2] = 255
    shares = class_shares(labels, 3, (1, 2))
    assert shares[0, :, 0, 0].tolist() == pytest.approx([14 / 16, 0, 0])
    assert shares[0, :, 0, 1].tolist() == pytest.approx([0, 4 / 16, 12 / 16])
    assert pure_classes(shares, 0.75).tolist() == [0, 2]
    assert pure_classes(shares, 0.8).tolist() == [0, UNSEEN]
    assert pure_classes(shares, 0.9).tolist() == [UNSEEN, UNSEEN]
    assert pure_classes(torch.zeros(1, 3, 1, 2), 0.0).tolist() == [UNSEEN, UNSEEN]


def test_a_wholly_pure_place_passes_the_strictest_purity():
    labels = torch.ones(1, 9, 9, 9, dtype=torch.uint8)
    assert set(pure_classes(class_shares(labels, 2, (3, 3, 3)), 1.0).tolist()) == {1}


def test_places_are_drawn_without_repetition_and_by_the_generator_alone():
    x = torch.zeros(2, 1, 8, 8)
    state = torch.get_rng_state()
    one, two, other = (draw_places(x, 50, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert len(set(one.tolist())) == 50
    assert len(draw_places(x, 1024, generator())) == 128


def test_classes_share_the_draw_and_hard_places_have_their_part():
    classes = torch.tensor([0] * 900 + [1] * 80 + [2] * 5 + [UNSEEN] * 15)
    hard = torch.zeros(1000, dtype=torch.bool)
    hard[:100] = True
    hard[900:910] = True
    drawn = draw_balanced(classes, hard, most=90, hard_share=0.5, generator=generator())
    assert len(set(drawn.tolist())) == len(drawn)
    of_class = classes[drawn]
    assert [(of_class == c).sum().item() for c in (0, 1, 2, UNSEEN)] == [30, 30, 5, 0]
    assert [(hard[drawn] & (of_class == c)).sum().item() for c in (0, 1, 2)] == [15, 10, 0]


def test_hard_places_fill_up_where_easy_ones_lack():
    classes = torch.zeros(40, dtype=torch.long)
    hard = torch.arange(40) < 35
    drawn = draw_balanced(classes, hard, most=30, hard_share=0.5, generator=generator())
    assert len(drawn) == 30
    assert (~hard[drawn]).sum() == 5


def test_nothing_is_drawn_where_no_class_is_known_and_never_more_than_asked():
    unseen = torch.full((9,), UNSEEN)
    none = torch.zeros(9, dtype=torch.bool)
    drawn = draw_balanced(unseen, none, most=4, hard_share=0.5, generator=generator())
    assert drawn.tolist() == []
    many = torch.arange(9)
    assert len(draw_balanced(many, none, most=4, hard_share=0.5, generator=generator())) == 4


def test_the_teacher_stands_in_on_images_without_labels_where_it_is_sure():
    labels = torch.full((3, 2, 2), 255, dtype=torch.uint8)
    labels[0, 0, 0] = 1
    teacher = torch.zeros(3, 3, 2, 2)
    teacher[:, 2, 0] = 9.0
    teacher[:, 2, 1] = 0.1
    # The last patch is ignored as a whole, but of a labelled image.
    bare = torch.tensor([False, True, False])
    seen = scene(labels, torch.zeros_like(teacher), teacher, bare)
    unknown = [[255, 255], [255, 255]]
    assert seen.trusted_B(0.9).tolist() == [[[1, 255], [255, 255]], [[2, 2], [255, 255]], unknown]
    assert scene(labels, teacher, teacher).trusted_B(0.9)[1:].tolist() == [unknown] * 2
    assert seen.regions_B.tolist() == [[[1, 2], [2, 2]], *[[[2, 2], [2, 2]]] * 2]
    assert seen.present_BC.tolist() == [[False, False, True]] * 3


def test_a_place_is_hard_where_the_student_misses_half_of_it():
    labels = torch.ones(1, 4, 8, dtype=torch.uint8)
    student = torch.zeros(1, 2, 4, 8)
    student[0, 1] = 1
    student[0, 1, :2, :4] = -1
    student[0, 1, 0, 4:] = -1
    seen = scene(labels, student, torch.zeros_like(student))
    assert seen.wrong_N(labels.long(), (1, 2)).tolist() == [True, False]
