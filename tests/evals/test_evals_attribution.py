"""Attribution: maps of known models, scores of known maps, and what is left untouched."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import expit
from torch import Tensor, nn

from kinfolk.data import DigitsConfig
from kinfolk.data.saliency import attach_saliency, compute_saliency
from kinfolk.data.sources.base import ArraySource, Source, Splits
from kinfolk.evals.attribution import AttributionQuality
from kinfolk.evals.attribution_maps import Attribution, AttributionMethod
from kinfolk.evals.attribution_scores import mass_inside, overlap, pixel_ranks, pointing, removal_area
from kinfolk.evals.baselines import RawPixels
from kinfolk.evals.linear_probe import LinearProbe
from kinfolk.evals.protocol import Measurement
from kinfolk.evals.subject import Subject

METHODS = get_args(AttributionMethod)
SCORES = ["pointing", "mass inside", "overlap", "mask area", "deletion", "insertion", "random deletion"]


class Patch(nn.Module):
    """Sees the mean of rows and columns 2 and 3."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, 2:4, 2:4].mean((2, 3))


class Nothing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.ones(len(images), 2)


class Cliff(nn.Module):
    """Its derivative at 0 is infinite times 0."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, :1] + (images.flatten(1) * 0).sqrt().sum(1, keepdim=True)


def squares(n: int = 40, *, where: int = 2, first_id: int = 0) -> ArraySource:
    """Dark or light squares, by class, in rows and columns 2 and 3 of grey noise; the mask starts at `where`."""
    generator = torch.Generator().manual_seed(first_id)
    labels = torch.arange(n) % 2
    images = torch.randint(100, 150, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images[:, :, 2:4, 2:4] = (20 + 220 * labels)[:, None, None, None].byte()
    saliency = torch.zeros(n, 1, 8, 8, dtype=torch.uint8)
    saliency[:, :, where : where + 2, where : where + 2] = 255
    return ArraySource(images, labels, ids=torch.arange(n) + first_id, columns={"saliency": saliency})


def relabelled(source: ArraySource, labels: Tensor, saliency: Tensor | None = None) -> ArraySource:
    columns = {"saliency": column(source, "saliency") if saliency is None else saliency}
    return ArraySource(source.images, labels, ids=source.ids, columns=columns)


def column(source: Source, name: str) -> Tensor:
    values = source.columns[name]
    assert isinstance(values, Tensor)
    return values


def quality(method: str = "integrated_gradients", *, window: int = 4, **fields: Any) -> AttributionQuality:
    """With a probe that is quick to fit."""
    return AttributionQuality(Attribution(method, window=window), **{"probe": LinearProbe(l2=(1e-2,)), **fields})  # type: ignore[arg-type]


def measured(encoder: nn.Module, test: Source, evaluator: AttributionQuality, **how: Any) -> dict[str, Measurement]:
    subject = Subject.of("made", encoder, train=squares(), test=test, **how)
    return {one.name: one for one in evaluator.run(subject)}


def values(found: dict[str, Measurement]) -> dict[str, float]:
    return {name: one.value for name, one in found.items()}


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    """A small smooth network with everything that could be disturbed, in evaluation mode."""
    torch.manual_seed(5)
    encoder = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 5, 3, stride=2), nn.Tanh(),
        nn.Dropout(0.5), nn.Flatten(),
    )  # fmt: skip
    model = nn.Sequential(encoder, nn.Linear(5 * 3 * 3, 3))
    model(torch.rand(16, 3, 8, 8))  # running statistics that are not the initial ones
    return model.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


COLUMNS = torch.tensor([0, 2, 1, 2])


# Maps


def linear(seed: int = 0) -> tuple[nn.Sequential, Tensor]:
    """A linear model and its weights `[3, c, h, w]`."""
    torch.manual_seed(seed)
    layer = nn.Linear(3 * 64, 3)
    return nn.Sequential(nn.Flatten(), layer), layer.weight.detach().reshape(3, 3, 8, 8)


@pytest.mark.parametrize("method", ["gradient", "gradient_x_input", "integrated_gradients", "smooth_grad"])
def test_of_a_linear_model_every_gradient_method_is_known(images: Tensor, method: AttributionMethod) -> None:
    model, weights = linear()
    used, start = weights[COLUMNS], torch.full_like(images, 0.3)
    expected = {
        "gradient": used.abs().amax(1),
        "smooth_grad": used.abs().amax(1),
        "gradient_x_input": (used * images).sum(1),
        "integrated_gradients": (used * (images - 0.3)).sum(1),
    }
    maps = Attribution(method, samples=3).maps(model, images, COLUMNS, replacement=start)
    assert not maps.requires_grad
    torch.testing.assert_close(maps, expected[method])


def test_integrated_gradients_add_up_to_the_difference_of_logits(network: nn.Sequential, images: Tensor) -> None:
    start = torch.zeros_like(images)
    maps = Attribution(samples=64).maps(network, images, COLUMNS, replacement=start)
    with torch.no_grad():
        difference = (network(images) - network(start)).gather(1, COLUMNS[:, None])[:, 0]
    torch.testing.assert_close(maps.sum((1, 2)), difference, atol=1e-3, rtol=1e-3)
    coarse = Attribution(samples=1).maps(network, images, COLUMNS, replacement=start).sum((1, 2))
    assert float((coarse - difference).abs().max()) > 1e-2  # a single point would not do


def test_integrated_gradients_are_captum_s(network: nn.Sequential, images: Tensor) -> None:
    captum = pytest.importorskip("captum.attr")
    start = torch.full_like(images, 0.5)
    theirs = captum.IntegratedGradients(network).attribute(
        images.clone().requires_grad_(), start, target=COLUMNS, n_steps=16, method="riemann_middle"
    )
    ours = Attribution().maps(network, images, COLUMNS, replacement=start)
    torch.testing.assert_close(ours, theirs.detach().sum(1).float(), atol=1e-6, rtol=1e-4)


def test_smooth_grad_is_the_gradient_at_no_noise_and_a_function_of_the_id(
    network: nn.Sequential, images: Tensor
) -> None:
    plain = Attribution("gradient").maps(network, images, COLUMNS, replacement=images)
    still = Attribution("smooth_grad", noise=0.0).maps(network, images, COLUMNS, replacement=images)
    torch.testing.assert_close(still, plain)
    ids = torch.tensor([9, 4, 7, 1])
    noisy = Attribution("smooth_grad", samples=4)
    whole = noisy.maps(network, images, COLUMNS, replacement=images, ids=ids)
    part = noisy.maps(network, images[2:3], COLUMNS[2:3], replacement=images[2:3], ids=ids[2:3])
    torch.testing.assert_close(whole[2:3], part)
    other = noisy.maps(network, images, COLUMNS, replacement=images, ids=ids, seed=1)
    assert not torch.allclose(whole, other)
    assert not torch.allclose(whole, plain)


def test_grad_cam_before_a_mean_and_a_linear_layer_is_the_weighted_sum_of_channels(images: Tensor) -> None:
    torch.manual_seed(2)
    convolution, head = nn.Conv2d(3, 6, 1), nn.Linear(6, 3)
    model = nn.Sequential(nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten()), head).eval()
    maps = Attribution("grad_cam").maps(model, images, COLUMNS, replacement=images)
    channels = convolution(images).detach()
    expected = torch.einsum("bc,bchw->bhw", head.weight.detach()[COLUMNS], channels) / 64
    torch.testing.assert_close(maps, expected)
    assert float(maps.min()) < 0


def test_grad_cam_of_a_coarser_layer_is_enlarged_and_a_layer_can_be_named(
    network: nn.Sequential, images: Tensor
) -> None:
    last, named, first = (
        Attribution("grad_cam", layer=layer).maps(network, images, COLUMNS, replacement=images)
        for layer in (None, "3", "0")
    )
    assert last.shape == first.shape == (4, 8, 8)
    assert torch.equal(last, named)
    assert not torch.allclose(last, first)
    with pytest.raises(ValueError, match=r"the encoder has no layer 'stem'; its convolutions are 0, 3\."):
        Attribution("grad_cam", layer="stem").maps(network, images, COLUMNS, replacement=images)
    with pytest.raises(ValueError, match=r"grad_cam needs an encoder with a convolution, .*; try 'gradient'"):
        Attribution("grad_cam").maps(linear()[0], images, COLUMNS, replacement=images)


def test_occlusion_is_the_mean_fall_over_the_windows_that_hold_a_pixel(network: nn.Sequential, images: Tensor) -> None:
    pytest.importorskip("captum")
    start = torch.full_like(images, 0.5)
    maps = Attribution("occlusion", window=4).maps(network, images, COLUMNS, replacement=start)
    falls, counts = torch.zeros(4, 8, 8), torch.zeros(8, 8)
    with torch.no_grad():
        full = network(images).gather(1, COLUMNS[:, None])[:, 0]
        for top in (0, 2, 4):
            for left in (0, 2, 4):
                hidden = images.clone()
                hidden[:, :, top : top + 4, left : left + 4] = 0.5
                fall = full - network(hidden).gather(1, COLUMNS[:, None])[:, 0]
                falls[:, top : top + 4, left : left + 4] += fall[:, None, None]
                counts[top : top + 4, left : left + 4] += 1
    torch.testing.assert_close(maps, falls / counts)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_the_images_gets_a_gradient(
    network: nn.Sequential, images: Tensor, method: AttributionMethod
) -> None:
    if method == "occlusion":
        pytest.importorskip("captum")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    given = images.clone()
    maps = Attribution(method, samples=2).maps(network, given, COLUMNS, replacement=torch.zeros_like(images))
    assert maps.shape == (4, 8, 8)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(given, images)
    assert not given.requires_grad


def test_without_captum_the_message_names_the_extra(
    network: nn.Sequential, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r'needs captum, .*pip install "kinfolk\[explain\]"'):
        Attribution("occlusion").maps(network, images, COLUMNS, replacement=images)


# Scores


def test_scores_against_masks_are_those_of_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(-3, 4, (30, 4, 5), generator=generator).float()  # many ties
    inside = torch.rand(30, 4, 5, generator=generator) < 0.4
    ranks = pixel_ranks(maps, torch.rand(30, 4, 5, generator=generator))
    shares = (pointing(maps, inside), mass_inside(maps, inside), overlap(ranks, inside))
    for i in range(30):
        attribution, mask = maps[i].flatten().tolist(), inside[i].flatten().tolist()
        tops = [k for k in range(20) if attribution[k] == max(attribution)]
        assert shares[0][i] == pytest.approx(sum(mask[k] for k in tops) / len(tops))
        positive = [max(value, 0) for value in attribution]
        assert shares[1][i] == pytest.approx(sum(p for p, m in zip(positive, mask, strict=True) if m) / sum(positive))
        order = sorted(range(20), key=lambda k: ranks[i].flatten()[k].item())
        assert [attribution[k] for k in order] == sorted(attribution, reverse=True)
        chosen, object_ = set(order[: sum(mask)]), {k for k in range(20) if mask[k]}
        assert shares[2][i] == pytest.approx(len(chosen & object_) / len(chosen | object_))


def test_the_removal_area_of_a_logistic_model_is_known() -> None:
    weights = torch.tensor([3.0, 1.0, -2.0, 0.5])
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(4), weights]))
        layer.bias.copy_(torch.tensor([0.0, 0.3]))
    model = nn.Sequential(nn.Flatten(), layer)
    image, black = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    ranks = torch.tensor([[[0, 1], [3, 2]]])  # by weight
    column = torch.tensor([1])
    curve = expit([2.8, -0.2, -1.2, -1.7, 0.3])
    deletion = removal_area(model, image, black, ranks, column, steps=4).item()
    assert deletion == pytest.approx(np.trapezoid(curve, dx=1 / 4), rel=1e-6)
    insertion = removal_area(model, black, image, ranks, column, steps=4).item()
    assert insertion == pytest.approx(np.trapezoid(expit([0.3, 3.3, 4.3, 4.8, 2.8]), dx=1 / 4), rel=1e-6)
    coarse = removal_area(model, image, black, ranks, column, steps=3).item()  # 0, 1, 3 and 4 pixels
    assert coarse == pytest.approx(np.trapezoid(curve[[0, 1, 3, 4]], x=[0, 0.25, 0.75, 1]), rel=1e-6)


# The evaluator


def test_a_model_of_the_object_points_at_it_and_one_of_the_background_does_not() -> None:
    found = measured(Patch(), squares(first_id=100), quality())
    assert list(found) == SCORES
    assert [found[name].value for name in SCORES[:4]] == pytest.approx([1.0, 1.0, 1.0, 4 / 64])
    assert found["pointing"].details["flat_maps"] == 0
    elsewhere = values(measured(Patch(), squares(first_id=100, where=5), quality()))
    assert [elsewhere[name] for name in SCORES[:4]] == pytest.approx([0.0, 0.0, 0.0, 4 / 64])


@pytest.mark.parametrize("method", ["gradient", "smooth_grad", "occlusion"])
def test_other_methods_find_the_object_too(method: AttributionMethod) -> None:
    if method == "occlusion":
        pytest.importorskip("captum")
    found = values(measured(Patch(), squares(first_id=100), quality(method, window=2)))
    assert found["pointing"] == pytest.approx(1.0)
    assert found["deletion"] < found["random deletion"] < found["insertion"]


@pytest.mark.parametrize("replacement", ["mean", "black", "blur"])
def test_deletion_and_insertion_are_those_of_loops(replacement: str) -> None:
    test = squares(12, first_id=100)
    subject = Subject.of("made", Patch(), train=squares(), test=test)
    evaluator = quality(replacement=replacement, removal_steps=64)
    found = {one.name: one.value for one in evaluator.run(subject)}
    head = subject.head(evaluator.probe)
    deletion: list[float] = []
    insertion: list[float] = []
    for image in test.images[:, 0].numpy() / 255.0:
        hidden = {
            "mean": np.full_like(image, image.mean()),
            "black": np.zeros_like(image),
            "blur": gaussian_filter(image, 1.0, mode="mirror", radius=3),
        }[replacement]
        seen, there = image[2:4, 2:4].flatten(), hidden[2:4, 2:4].flatten()  # the model sees nothing else
        sign = 1 if image[2, 2] > 0.5 else -1
        order = np.argsort(-sign * (seen - there), kind="stable")
        first = 0 if (sign * (seen - there) > 0).all() else 60  # a dark square on black speaks against its class
        for start, end, areas in ((seen, there, deletion), (there, seen, insertion)):
            curve = []
            for count in range(65):
                mixed, changed = start.copy(), order[: max(0, count - first)]
                mixed[changed] = end[changed]
                logits = head.logits(torch.tensor([[mixed.mean()]], dtype=torch.float32)).numpy()[0]
                curve.append(expit(sign * (logits[1] - logits[0])))
            areas.append(np.trapezoid(curve, dx=1 / 64))
    assert found["deletion"] == pytest.approx(np.mean(deletion), abs=1e-5)
    assert found["insertion"] == pytest.approx(np.mean(insertion), abs=1e-5)


def test_a_constant_model_scores_as_chance_does() -> None:
    found = measured(Nothing(), squares(first_id=100), quality())
    assert found["pointing"].details["flat_maps"] == 40
    assert found["pointing"].value == found["mass inside"].value == found["mask area"].value == 4 / 64
    assert found["overlap"].value == found["overlap"].details["by_chance"]
    assert found["deletion"].value == found["insertion"].value == found["random deletion"].value == pytest.approx(0.5)


def test_the_random_order_s_overlap_is_that_of_random_permutations() -> None:
    test = squares(200, first_id=100)
    saliency = torch.zeros(200, 1, 8, 8, dtype=torch.uint8)
    saliency[:, :, :4, :4] = 255
    found = measured(Nothing(), relabelled(test, column(test, "labels"), saliency), quality())
    random = np.random.default_rng(0)
    shared = np.array([(random.permutation(64)[:16] < 16).sum() for _ in range(4000)])
    drawn = shared / (32 - shared)
    assert found["overlap"].value == pytest.approx(drawn.mean(), abs=4 * drawn.std() / np.sqrt(200))


def test_a_map_that_is_not_finite_says_nothing() -> None:
    found = measured(Cliff(), squares(first_id=100), quality("gradient"))
    assert found["pointing"].details["flat_maps"] == 40
    assert all(np.isfinite(list(values(found).values())))
    assert found["pointing"].value == 4 / 64


def test_masks_without_object_or_background_are_left_out_and_counted() -> None:
    test = squares(first_id=100)
    saliency = column(test, "saliency").clone()
    saliency[:5], saliency[5:8] = 0, 255
    saliency[8, :, 0] = 127  # too faint to count
    found = measured(Patch(), relabelled(test, column(test, "labels"), saliency), quality())
    assert found["mask area"].value == 4 / 64
    assert found["mask area"].details["rows"] == 32
    assert found["mask area"].details["rows_without_object_or_background"] == 8
    for fill in (0, 255):
        degenerate = relabelled(test, column(test, "labels"), torch.full_like(saliency, fill))
        subject = Subject.of("made", Patch(), train=squares(), test=degenerate)
        assert quality().missing(subject) == "no usable masks (a part of the picture, of a labelled sample)"
        assert list(quality().run(subject)) == []


def test_the_true_class_is_what_a_wrong_prediction_does_not_point_at() -> None:
    test = squares(first_id=100)
    wrong = relabelled(test, 1 - column(test, "labels"))
    assert values(measured(Patch(), wrong, quality()))["pointing"] == 1.0
    found = values(measured(Patch(), wrong, quality(target="true")))
    assert found["pointing"] == 0.0
    assert found["mass inside"] == 4 / 64  # nothing speaks for the true class
    assert found["deletion"] < 0.1


def test_of_true_classes_those_that_training_lacks_are_left_out() -> None:
    test = squares(first_id=100)
    labels = column(test, "labels").clone()
    labels[:6] = 7
    labels[6:10] = -1
    subject = Subject.of("made", Patch(), train=squares(), test=relabelled(test, labels))
    predicted, true = ({one.name: one for one in quality(target=t).run(subject)} for t in ("predicted", "true"))
    assert predicted["pointing"].details["rows"] == 36
    assert true["pointing"].details["rows"] == 30
    assert true["pointing"].details["rows_of_unknown_classes"] == 6
    assert true["pointing"].value == predicted["pointing"].value == 1.0


def test_rows_are_a_seeded_subset_whatever_the_order_and_the_batches() -> None:
    test = squares(first_id=100)
    shuffled = test.subset(torch.randperm(40, generator=torch.Generator().manual_seed(1)))
    encoder = RawPixels(channels=1, image_size=(8, 8))
    evaluator = quality("smooth_grad", max_rows=10)
    first = measured(encoder, test, evaluator)
    again = measured(encoder, shuffled, evaluator, batch_size=3)
    assert first["pointing"].details["rows"] == 10
    assert values(first) == pytest.approx(values(again), abs=1e-6)
    other = measured(encoder, test, quality("smooth_grad", max_rows=10, seed=1))
    assert values(other) != values(first)


def test_one_class_and_one_sample_can_be_measured() -> None:
    one = squares(first_id=100).subset(torch.tensor([3]))
    train = relabelled(squares(), torch.zeros(40, dtype=torch.int64))
    subject = Subject.of("made", Patch(), train=train, test=one)
    found = {m.name: m.value for m in quality().run(subject)}
    assert found["deletion"] == found["insertion"] == 1.0  # one class has all the probability
    assert all(np.isfinite(list(found.values())))


def test_what_is_missing_is_said() -> None:
    full = squares()
    bare = Subject.of("made", Patch(), train=full, test=ArraySource(full.images, full.labels))
    assert quality().missing(bare) == "no masks"
    assert list(quality().run(bare)) == []
    flat = Subject.of("made", Patch(), train=full, test=full)
    assert quality("grad_cam").missing(flat) == "no convolution"
    assert AttributionQuality(Attribution("grad_cam", layer="blocks.2.0")).missing(flat) == "no convolution"
    assert list(quality("grad_cam").run(flat)) == []
    assert quality().missing(flat) is None


@pytest.mark.parametrize("target", ["predicted", "true"])
def test_labels_are_needed(target: str) -> None:
    full = squares(first_id=100)
    bare = ArraySource(full.images, columns={"saliency": column(full, "saliency")})
    with pytest.raises(ValueError, match="attribution needs labels; source 'arrays' has none"):
        measured(Patch(), bare, quality(target=target))


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (Attribution, {"method": "cam"}, r"method must be one of gradient, .*; found 'cam'"),
        (Attribution, {"samples": 0}, "samples must be at least 1, got 0"),
        (Attribution, {"window": 0}, "window must be at least 1, got 0"),
        (Attribution, {"noise": -0.1}, r"noise must be at least 0, got -0\.1"),
        (AttributionQuality, {"target": "label"}, "target must be 'predicted' or 'true'; found 'label'"),
        (AttributionQuality, {"replacement": "grey"}, "replacement must be 'mean', 'black' or 'blur'; found 'grey'"),
        (AttributionQuality, {"removal_steps": 0}, "removal_steps must be at least 1, got 0"),
        (AttributionQuality, {"max_rows": 0}, "max_rows must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(kind: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**fields)


def test_digits_are_read_where_the_ink_is(tmp_path: Path) -> None:
    whole = DigitsConfig().load()
    part = Splits(whole.train.subset(torch.arange(200)), whole.test.subset(torch.arange(60)))
    splits = attach_saliency(part, compute_saliency(part, tmp_path / "masks"))
    subject = Subject.of("raw pixels", RawPixels(channels=1, image_size=(8, 8)), train=splits.train, test=splits.test)
    found = {one.name: one.value for one in quality(replacement="black").run(subject)}
    assert found["pointing"] > 0.8 > 0.6 > found["mask area"] > 0.2
    assert found["mass inside"] > found["mask area"] + 0.2
    assert found["deletion"] < found["random deletion"] < found["insertion"]
