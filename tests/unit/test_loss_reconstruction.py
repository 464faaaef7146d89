"""Reconstruction error and masked input."""

import pytest
import torch

from medstill.errors import ShapeError
from medstill.losses import mask_blocks, reconstruction_loss


def test_mean_squared_error_by_hand_and_no_gradient_to_the_image():
    image = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]], requires_grad=True)
    guess = torch.tensor([[[1.0, 1.0], [2.0, 1.0]]], requires_grad=True)
    loss = reconstruction_loss(guess, image)
    loss.backward()
    assert loss.item() == pytest.approx((1 + 0 + 0 + 4) / 4)
    assert image.grad is None
    assert guess.grad is not None


def test_error_names_both_shapes():
    with pytest.raises(ShapeError, match=r"\(1, 3, 4, 5\).*\(1, 1, 4, 5\)"):
        reconstruction_loss(torch.zeros(1, 1, 4, 5), torch.zeros(1, 3, 4, 5))


@pytest.mark.parametrize("size", [(17, 23), (9, 17, 23)])
def test_exactly_the_share_of_blocks_is_masked_in_every_sample(size):
    image = torch.rand(3, 2, *size) + 1
    masked = mask_blocks(image, 0.4, 4, torch.Generator().manual_seed(0))
    kept = masked != 0
    assert torch.equal(masked[kept], image[kept])
    assert torch.equal(kept[:, 0], kept[:, 1])
    corners = kept[(slice(None), 0, *(slice(None, None, 4) for _ in size))].flatten(1)
    expected = corners.shape[1] - round(0.4 * corners.shape[1])
    assert corners.sum(dim=1).tolist() == [expected] * 3
    blown_up = kept[:, 0]
    for axis in range(1, len(size) + 1):
        first = torch.arange(blown_up.shape[axis]) // 4 * 4
        assert torch.equal(blown_up, blown_up.index_select(axis, first))
    assert not torch.equal(kept[0], kept[1])


def test_same_generator_same_mask_and_the_ends_of_the_range():
    image = torch.rand(2, 1, 17, 23) + 1
    one, two = (mask_blocks(image, 0.5, 8, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(mask_blocks(image, 0.0, 8, torch.Generator()), image)
    assert mask_blocks(image, 1.0, 8, torch.Generator()).abs().max() == 0
