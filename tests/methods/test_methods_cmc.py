"""CMC: two branches of an encoder, one for an image's lightness and one for its colours."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk.data import ArraysConfig, ColourSpaceViewsConfig, ViewMaker, ViewsConfig, rgb_to_lab
from kinfolk.methods import CMC, CMCConfig, TrainingPlan
from kinfolk.nn import ColourBranches, ColourBranchesConfig, HeadConfig, SmallConvConfig
from kinfolk.recipes import recipe, smoke
from kinfolk.report.sample import take_sample
from kinfolk.report.target import OWN_VIEWS, compare_with_target
from kinfolk.train import fit, from_yaml, load_encoder, to_yaml
from kinfolk.train.config import EncoderConfig

HEAD = HeadConfig(layers=1, out_dim=8)


def encoder(norm: str = "group") -> ColourBranches:
    torch.manual_seed(0)
    return ColourBranchesConfig(SmallConvConfig(width=8, depth=2, norm=norm)).build(channels=3, image_size=(8, 8))


def blobs(step: int, n: int = 32) -> dict:
    """Images of one colour each, from dark blue to bright yellow: lightness and colour tell each other."""
    shade = torch.arange(256) / 255
    colours = torch.stack([20 + 220 * shade, 20 + 220 * shade**2, 150 - 130 * shade], 1).to(torch.uint8)
    images = colours[:, :, None, None].expand(-1, -1, 8, 8).contiguous()
    ids = torch.randperm(256, generator=torch.Generator().manual_seed(step))[:n]
    maker = ViewMaker(ColourSpaceViewsConfig(ViewsConfig(count=1, flip=0.5, shift=0.1)), seed=0)
    return {"views": maker(images[ids], ids, epoch=step), "ids": ids}


def test_it_follows_the_formula_written_out() -> None:
    method = CMCConfig(temperature=0.3, head=HEAD).build(encoder()).double()
    batch = {"views": [torch.rand(5, c, 8, 8).double() for c in (1, 2)], "ids": torch.arange(5)}
    rows = []
    for head, branch, view in zip(method.heads, method.encoder.branches, batch["views"], strict=True):
        rows.append([z / z.norm() for z in head(branch(view))])
    total = torch.zeros((), dtype=torch.float64)
    for a, b in ((0, 1), (1, 0)):
        for i in range(5):
            scores = torch.stack([rows[a][i] @ rows[b][j] / 0.3 for j in range(5)])
            total = total + (scores.exp().sum().log() - scores[i]) / 5
    terms = method(batch)
    torch.testing.assert_close(terms["loss"], total, rtol=1e-9, atol=1e-9)
    found = torch.autograd.grad(terms["loss"], list(method.parameters()))
    for one, other in zip(found, torch.autograd.grad(total, list(method.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_every_branch_and_every_head_learns() -> None:
    method = CMCConfig(head=HEAD).build(encoder())
    method(blobs(0))["loss"].backward()
    assert len({id(head.steps[0].weight) for head in method.heads}) == 2
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_it_trains_without_collapse(norm: str) -> None:
    method = CMCConfig(temperature=0.2, head=HEAD).build(encoder(norm))
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    losses = []
    for step in range(30):
        terms = method(blobs(step))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        method.after_step()
        losses.append(terms["loss"].item())
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])
    assert terms["participation_ratio"] > 1.5
    assert not terms["positive_cosine"].requires_grad


def test_the_same_sample_twice_is_no_negative_and_one_alone_gives_nothing() -> None:
    method = CMCConfig(head=HEAD).build(encoder())
    batch = blobs(0, n=1)
    assert method(batch)["loss"].item() == pytest.approx(0.0, abs=1e-5)
    twice = {"views": [torch.cat([view, view]) for view in batch["views"]], "ids": batch["ids"].repeat(2)}
    assert method(twice)["loss"].item() == pytest.approx(0.0, abs=1e-5)


def test_it_runs_under_autocast_and_in_chunks() -> None:
    method, batch = CMCConfig(head=HEAD).build(encoder()), blobs(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = method(batch)
        assert method.encoder(torch.rand(2, 3, 8, 8)).isfinite().all()
    assert terms["loss"].dtype == torch.float32
    whole = method.embed(batch)
    for rows in (slice(0, 10), slice(10, 32)):
        part = method.embed({"views": [view[rows] for view in batch["views"]]})
        for one, other in zip(part, whole, strict=True):
            torch.testing.assert_close(one, other[rows], rtol=1e-5, atol=1e-6)


def test_the_encoder_takes_plain_images_and_joins_what_the_branches_say() -> None:
    model, images = encoder().eval(), torch.rand(3, 3, 8, 8)
    lab = rgb_to_lab(images)
    apart = torch.cat([model.branches[0](lab[:, :1]), model.branches[1](lab[:, 1:])], 1)
    assert model.feature_dim == apart.shape[1] == 32
    assert torch.equal(model(images), apart)
    grey = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    half = model.feature_dim // 2
    torch.testing.assert_close(model(grey)[:1, half:], model(grey)[1:2, half:], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(model(grey)[0, :half], model(grey)[1, :half], rtol=1e-2)


def test_a_run_trains_evaluates_and_exports_on_colour_images(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {"images": (64, 16, 16, 3), "test_images": (16, 16, 16, 3)}
    data = {name: generator.integers(0, 256, shape, dtype=np.uint8) for name, shape in arrays.items()}
    np.savez(tmp_path / "a.npz", **data, labels=np.arange(64) % 4, test_labels=np.arange(16) % 4)
    config = smoke(recipe("cmc-emoji"))
    measured = replace(config.evaluation, protocols=("knn", "geometry"))
    method = replace(config.method, bank=True, bank_negatives=16)
    config = replace(config, method=method, source=ArraysConfig(str(tmp_path / "a.npz")), evaluation=measured)
    run = fit(replace(config, batch_size=32, epochs=1), out=tmp_path / "run")
    assert [record["step"] for record in run.metrics if record["event"] == "train"] == [1, 2]
    # The whole encoder takes RGB: its alignment is between two crops of an image, not between the parts of one.
    assert {record["protocol"] for record in run.records} == {"kNN", "geometry"}
    assert "alignment" in {record["metric"] for record in run.records if record["encoder"] == "trained"}
    loaded = load_encoder(run.folder)
    assert isinstance(loaded, ColourBranches)
    assert loaded(torch.rand(2, 3, 16, 16)).shape == (2, 64)
    splits = config.load()
    sample = take_sample(splits.test, loaded, count=8, seed=0)
    pairs = compare_with_target(config, splits, sample, {"trained": loaded.eval()}, rows=8)
    assert pairs.name == OWN_VIEWS  # which the report shows; four images in two crops each
    assert pairs.learnt["trained"].shape == (8, 8)


class Branches(nn.Module):
    """Three encoders of vectors, of which each sees its own view."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.Tanh()) for _ in range(3))
        for branch in self.branches:
            branch.feature_dim = 6


def banked(model: nn.Module | None = None, *, samples: int = 256, **settings) -> CMC:
    torch.manual_seed(2)
    settings = {"temperature": 0.3, "head": HEAD, "bank": True, "bank_negatives": 20, **settings}
    method = CMCConfig(**settings).build(encoder() if model is None else model)
    method.begin(TrainingPlan(10, 2, torch.arange(samples), nn.Identity()))
    return method


def step(method: CMC, batch: dict, optimizer: torch.optim.Optimizer) -> float:
    loss = method(batch)["loss"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    method.after_step()
    return loss.item()


def test_with_banks_it_follows_the_algorithm_written_out() -> None:
    """Rows against what the other view's bank had before the step; then the step; then both banks move half way."""
    method = banked().double()
    branches = [nn.Sequential(*copy.deepcopy(pair)) for pair in zip(method.encoder.branches, method.heads, strict=True)]
    banks, seen = [F.normalize(bank.rows.clone()) for bank in method.banks], set()
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.5) for module in (method, nn.ModuleList(branches))]
    for number in range(5):
        batch = blobs(number, n=60 if number < 4 else 1)
        batch["views"] = [view.double() for view in batch["views"]]
        ids, drawn = batch["ids"].tolist(), method.drawn().tolist()
        assert len(set(drawn)) == 20
        rows = [F.normalize(branch(view)) for branch, view in zip(branches, batch["views"], strict=True)]
        total = torch.zeros((), dtype=torch.float64)
        for a, b in ((0, 1), (1, 0)):
            for q, own in zip(rows[a], ids, strict=True):
                others = [other for other in drawn if other != own]
                logits = torch.stack([q @ banks[b][k] for k in (own, *others)]) / 0.3
                total = total + (logits.logsumexp(0) - logits[0]) / len(ids)
        optimizers[1].zero_grad()
        total.backward()
        optimizers[1].step()
        for bank, new in zip(banks, rows, strict=True):
            for i, f in zip(ids, new.detach(), strict=True):
                bank[i] = F.normalize(0.5 * bank[i] + 0.5 * f, dim=0) if i in seen else f
        seen |= set(ids)

        assert step(method, batch, optimizers[0]) == pytest.approx(total.item(), abs=1e-9)
    assert 60 < len(seen) < 240  # some samples came twice
    for found, expected in zip(method.banks, banks, strict=True):
        torch.testing.assert_close(F.normalize(found.rows), expected, rtol=0, atol=1e-9)
    assert method(batch)["bank_fill"].item() == pytest.approx(len(seen) / 256)


def test_a_bank_without_sampling_is_the_full_softmax_over_it() -> None:
    method, batch = banked(bank_negatives=1000), blobs(0)
    rows = [
        F.normalize(head(branch(v)))
        for head, branch, v in zip(method.heads, method.encoder.branches, batch["views"], strict=True)
    ]
    banks = [bank.rows for bank in method.banks]
    expected = sum(F.cross_entropy(rows[a] @ banks[b].T / 0.3, batch["ids"]) for a, b in ((0, 1), (1, 0)))
    torch.testing.assert_close(method(batch)["loss"], expected)
    assert method.negatives(samples=32, views=2) == 255
    assert banked().negatives(samples=32, views=2) == 20


def test_with_three_views_all_pairs_are_half_the_sum_over_the_cores() -> None:
    batch = {"views": list(torch.rand(3, 5, 4)), "ids": torch.arange(5)}
    whole, *cores = (banked(Branches(), samples=9, core=core)(batch)["loss"] for core in (None, 0, 1, 2))
    torch.testing.assert_close(whole, sum(cores) / 2)
    assert not torch.allclose(cores[0], cores[1])


def test_what_is_drawn_depends_on_seed_and_step_alone() -> None:
    method, other = banked(), banked(seed=1)
    torch.manual_seed(7)
    first = method.drawn()
    assert torch.equal(first, method.drawn())
    assert not torch.equal(first, other.drawn())
    state = torch.get_rng_state()
    method(blobs(0))
    method.after_step()
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, method.drawn())
    assert not torch.equal(method.banks[0].rows, method.banks[1].rows)


def test_a_resumed_run_with_banks_continues_bitwise(tmp_path: Path) -> None:
    method = banked()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    for number in range(3):
        step(method, blobs(number), optimizer)
    torch.save(method.state_dict(), tmp_path / "state")
    resumed = banked()
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for each in (method, resumed):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        for number in range(3, 6):
            step(each, blobs(number), optimizer)
    for (name, expected), found in zip(method.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name


def test_only_training_passes_reach_the_banks_and_no_gradient_does() -> None:
    method = banked()
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        method(blobs(0))
    method.after_step()
    method.eval()(blobs(1))
    method.after_step()
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    method.train()(blobs(2))["loss"].backward()
    assert all(torch.equal(bank.rows, before[f"banks.{i}.rows"]) for i, bank in enumerate(method.banks))
    assert not any(bank.rows.requires_grad for bank in method.banks)
    method.after_step()
    for bank in method.banks:
        assert bank.seen.nonzero()[:, 0].tolist() == blobs(2)["ids"].sort().values.tolist()


def test_with_banks_it_trains_and_runs_under_autocast() -> None:
    method = banked(bank_negatives=64)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    losses = [step(method, blobs(number), optimizer) for number in range(50)]
    assert sum(losses[-8:]) < 0.85 * sum(losses[:8])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = method(blobs(50))
    assert terms["loss"].dtype == method.banks[0].rows.dtype == torch.float32
    assert terms["participation_ratio"] > 1.3


def test_the_encoder_is_written_and_read_back() -> None:
    config = ColourBranchesConfig(SmallConvConfig(width=4, pool="flatten"))
    assert from_yaml(to_yaml(config), EncoderConfig) == config


class OneBranch(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def test_what_does_not_fit_is_explained() -> None:
    with pytest.raises(TypeError, match=r"needs one with `branches`, .*found OneBranch\. Choose ColourBranchesConfig"):
        CMC(OneBranch(), CMCConfig())
    with pytest.raises(ValueError, match="core must be one of the 2 views, 0 to 1, or None for all; found 2"):
        CMCConfig(core=2).build(encoder())
    with pytest.raises(ValueError, match="CMC takes exactly 2 views of each image, found 4"):
        CMCConfig().build(encoder())({"views": blobs(0)["views"] * 2})
    for settings, message in (
        ({"bank_negatives": 0}, "bank_negatives must be at least 1, found 0"),
        ({"bank_momentum": 1.0}, r"bank_momentum must be at least 0 and below 1, found 1\.0"),
    ):
        with pytest.raises(ValueError, match=message):
            CMCConfig(**settings)
    with pytest.raises(ValueError, match=r"a row per sample: call method\.begin\(TrainingPlan"):
        CMCConfig(bank=True).build(encoder())(blobs(0))
    with pytest.raises(ValueError, match=r"finds samples in its banks by ids; found batch keys \['views'\]"):
        banked()({"views": blobs(0)["views"]})
    with pytest.raises(ValueError, match="CMC with a bank keeps something about every training sample"):
        CMCConfig(bank=True).build(encoder()).begin(TrainingPlan(1, 1, None, nn.Identity()))
    with pytest.raises(ValueError, match="colour branches need RGB images, 3 channels; found 1"):
        ColourBranchesConfig().build(channels=1, image_size=(8, 8))
    with pytest.raises(ValueError, match=r"takes RGB images \[b, 3, H, W\], found \(2, 1, 8, 8\)"):
        encoder()(torch.rand(2, 1, 8, 8))


def test_negatives_are_the_other_samples() -> None:
    assert CMCConfig().build(encoder()).negatives(samples=64, views=2) == 63
