"""Mixtures by loops, boxes within their bounds, and partners that are never of the own class and evenly drawn."""

from __future__ import annotations

import pytest
import torch

from kinfolk.nn import boxes_of_area, cut_mix, draw_from_other_classes, mix


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_every_place_of_another_class_is_drawn_for_its_equal_part_of_the_numbers():
    pool = torch.tensor([2, 0, -1, 2, 5, 0, 2, -1])
    for own in (-1, 0, 2, 5, 1, 9):
        allowed = [place for place, label in enumerate(pool.tolist()) if label not in (-1, own)]
        numbers = (torch.arange(60 * len(allowed)) + 0.5) / (60 * len(allowed))
        found = draw_from_other_classes(torch.full((len(numbers),), own), pool, numbers)
        assert found.bincount(minlength=8).tolist() == [60 * (place in allowed) for place in range(8)]


def test_the_ends_of_the_range_of_numbers_stay_within_the_pool():
    labels = torch.arange(1000) % 7
    for number in (0.0, 1 - 2.0**-24):
        found = draw_from_other_classes(labels, labels, torch.full((1000,), number))
        assert int(found.min()) >= 0
        assert bool((labels[found] != labels).all())


def test_without_another_class_there_is_no_place():
    numbers = uniform(3)
    same = torch.tensor([4, 4, -1])
    assert draw_from_other_classes(torch.tensor([4, -1, 1]), same, numbers)[0] == -1
    assert bool((draw_from_other_classes(torch.tensor([4, -1, 1]), same, numbers)[1:] >= 0).all())
    for pool in (torch.tensor([-1, -1]), torch.empty(0, dtype=torch.int64)):
        assert draw_from_other_classes(same, pool, numbers).tolist() == [-1] * 3


def test_a_blend_has_its_share_of_the_partner():
    a, b = uniform(3, 2, 4, 5).double(), uniform(3, 2, 4, 5, seed=1).double()
    torch.testing.assert_close(mix(a, b, share=0.3), 0.3 * b + 0.7 * a)
    assert torch.equal(mix(a, b, share=0.0), a)
    assert torch.equal(mix(a, b, share=0.5), mix(b, a, share=0.5))
    with pytest.raises(ValueError, match="to 1, the partner alone; found 1"):
        mix(a, b, share=1.5)


@pytest.mark.parametrize("size", [(28, 28), (32, 20), (8, 8), (1, 5)])
def test_boxes_lie_anywhere_within_the_image_and_have_the_area(size):
    height, width = size
    top, bottom, left, right = boxes_of_area(uniform(4000, 3), size=size, area=(0.45, 0.55)).T
    assert int(top.min()) == 0
    assert int(left.min()) == 0
    assert int(bottom.max()) == height
    assert int(right.max()) == width
    share = (bottom - top) * (right - left) / (height * width)
    slack = 0.51 / width  # half a column, where the box is as high as the image
    assert float(share.min()) > 0.45 - slack
    assert float(share.max()) < 0.55 + slack
    assert abs(float(share.mean()) - 0.5) < max(0.012, slack)


def test_a_cut_is_the_partner_inside_its_box_and_the_image_elsewhere():
    a, b = uniform(4, 2, 5, 6), uniform(4, 2, 5, 6, seed=1)
    boxes = torch.tensor([[0, 5, 0, 6], [1, 3, 2, 5], [4, 5, 0, 1], [2, 2, 1, 4]])
    found = cut_mix(a, b, boxes)
    for i, (top, bottom, left, right) in enumerate(boxes.tolist()):
        expected = a[i].clone()
        expected[:, top:bottom, left:right] = b[i, :, top:bottom, left:right]
        assert torch.equal(found[i], expected)


@pytest.mark.parametrize("area", [(0.0, 0.5), (0.6, 0.5), (0.5, 1.1)])
def test_an_area_out_of_range_is_explained(area):
    with pytest.raises(ValueError, match="area must be two shares of an image in ascending order"):
        boxes_of_area(uniform(2, 3), size=(8, 8), area=area)
