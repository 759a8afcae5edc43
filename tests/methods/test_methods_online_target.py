"""What ReLIC and RenyiCL share: an online encoder with a predictor, a target that follows, small crops."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from kinfolk.methods import ReLICConfig, RenyiCLConfig, TrainingPlan
from kinfolk.nn import HeadConfig, SmallConvConfig
from kinfolk.train import cached_backward, split_rows

HEAD = HeadConfig(hidden=12, out_dim=6)
CONFIGS = {"relic": ReLICConfig, "renyi-cl": RenyiCLConfig}
NAMES = {"relic": "ReLIC", "renyi-cl": "RenyiCL"}


@pytest.fixture(params=list(CONFIGS))
def kind(request):
    return request.param


def make(kind, **settings):
    torch.manual_seed(0)
    encoder = SmallConvConfig(width=4, depth=2, norm="group").build(channels=1, image_size=(8, 8))
    config = CONFIGS[kind](**{"momentum": 0.8, "head": HEAD, "predictor": HEAD, **settings})
    return config.build(encoder).double()


def with_crops(batch, *, small=1):
    """Two large views and small ones, of another size, in float64."""
    large = [view.double() for view in batch["views"]]
    crops = [F.interpolate(large[v % 2][:, :, v : v + 6, 1:7], size=(4, 4)) for v in range(small)]
    return {**batch, "views": [*large, *crops]}


def test_the_target_sees_the_large_crops_and_the_online_encoder_all(kind, digits):
    batch, method = with_crops(digits(0, n=6), small=2), make(kind)
    assert len(method.embed(batch)) == 4
    found = method.embed_keys(batch)
    assert len(found) == 2
    for view, keys in zip(batch["views"], found, strict=False):
        torch.testing.assert_close(keys, method.head(method.encoder(view)))  # not updated yet: still a copy
    batch["views"][2].requires_grad_()
    method(batch)["loss"].backward()
    assert batch["views"][2].grad.abs().sum() > 0


def test_predictions_have_a_predictor_and_targets_none(kind, digits):
    batch, method = with_crops(digits(0, n=6)), make(kind)
    found = method.embed(batch)[1]
    torch.testing.assert_close(found, method.predictor(method.head(method.encoder(batch["views"][1]))))
    assert not torch.allclose(found, method.embed_keys(batch)[1])
    assert {name.split(".")[0] for name, _ in method.twin.named_parameters()} == {"encoder", "head"}
    bare = make(kind, predictor=HeadConfig(layers=0))
    torch.testing.assert_close(bare.embed(batch)[1], bare.embed_keys(batch)[1])


def test_crops_of_one_size_pass_the_encoder_as_one_batch(kind, digits):
    method, seen = make(kind), []
    method.encoder.register_forward_hook(lambda module, given, out: seen.append(tuple(given[0].shape)))
    method.embed(with_crops(digits(0, n=6), small=3))
    assert seen == [(12, 1, 8, 8), (18, 1, 4, 4)]


def test_the_target_follows_after_the_step_once_per_step(kind, digits):
    method, before = make(kind), make(kind)
    for number in range(2):  # accumulated batches
        method(with_crops(digits(number, n=6)))["loss"].backward()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter += 1.0
    assert torch.equal(method.twin.head.module.steps[0].weight, before.twin.head.module.steps[0].weight)
    method.after_step()
    moved = before.head.steps[0].weight + 0.2  # 0.8 of the old, 0.2 of the new, which is larger by 1
    torch.testing.assert_close(method.twin.head.module.steps[0].weight, moved)
    assert int(method.twin.encoder.step) == 1
    method.after_step()
    assert int(method.twin.encoder.step) == 1


def test_passes_without_gradient_or_in_eval_mode_leave_no_trace(kind, digits):
    method, batch = make(kind), with_crops(digits(0, n=6))
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        method(batch)
    method.after_step()
    method.eval()
    method(batch)
    method.after_step()
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_momentum_rises_over_the_training_that_it_was_told_of(kind, digits):
    method = make(kind, momentum_schedule="cosine")
    method.begin(TrainingPlan(2, 1, None, features=torch.nn.Identity()))
    momenta = [method.twin.head.current_momentum()]
    for number in range(2):
        method(with_crops(digits(number, n=6)))
        method.after_step()
        momenta.append(method.twin.encoder.current_momentum())
    assert momenta == pytest.approx([0.8, 0.9, 1.0])


def test_no_gradient_flows_into_the_target(kind, digits):
    method = make(kind)
    method(with_crops(digits(0, n=6)))["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in method.twin.parameters())
    assert method.predictor.steps[0].weight.grad.abs().sum() > 0


def test_chunks_with_small_crops_give_the_gradient_of_one_pass(kind, digits):
    batch, whole, split = with_crops(digits(0, n=7)), make(kind), make(kind)
    whole(batch)["loss"].backward()
    keys = split.embed_keys(batch)
    cached_backward(split.embed, split_rows(batch, 3), lambda found: split.terms(found, batch, keys=keys)["loss"])
    for mine, theirs in zip(split.parameters(), whole.parameters(), strict=True):
        if mine.requires_grad:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-10)


def test_a_sample_that_the_batch_holds_twice_is_no_negative_of_itself(kind, digits):
    method, batch = make(kind, predictor=HeadConfig(layers=0), temperature=0.1), with_crops(digits(0, n=6))
    del batch["text"]  # words, not rows of a tensor
    twice = {name: [torch.cat([v, v]) for v in value] if name == "views" else torch.cat([value, value])
             for name, value in batch.items()}  # fmt: skip
    without = {name: value for name, value in twice.items() if name != "ids"}
    assert method(twice)["loss"] < method(without)["loss"] - 0.001


def test_errors_say_what_to_set(kind, digits):
    name = NAMES[kind]
    with pytest.raises(ValueError, match=r"large must be at least 2, one view to predict another from, found 1\."):
        CONFIGS[kind](large=1)
    with pytest.raises(ValueError, match=rf"{name} takes at least its 3 large views of each image, found 2; set Views"):
        make(kind, large=3)(digits(0, n=4))
    with pytest.raises(ValueError, match=rf"{name} takes at least two views of each image, found 1"):
        make(kind)({"views": [torch.zeros(4, 1, 8, 8)]})
    with pytest.raises(ValueError, match=r"must be as long: predictor\.out_dim is 7, the head gives 6; set both alike"):
        make(kind, predictor=HeadConfig(out_dim=7))
    with pytest.raises(ValueError, match="momentum_schedule must be 'constant' or 'cosine', found 'linear'"):
        make(kind, momentum_schedule="linear")
