"""CMC: two branches of an encoder, one for an image's lightness and one for its colours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kinfolk.data import ArraysConfig, ColourSpaceViewsConfig, ViewMaker, ViewsConfig, rgb_to_lab
from kinfolk.methods import CMC, CMCConfig
from kinfolk.nn import ColourBranches, ColourBranchesConfig, HeadConfig, SmallConvConfig
from kinfolk.recipes import recipe, smoke
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
    knn = replace(config.evaluation, protocols=("knn",))
    config = replace(config, source=ArraysConfig(str(tmp_path / "a.npz")), evaluation=knn, batch_size=32, epochs=1)
    run = fit(config, out=tmp_path / "run")
    assert [record["step"] for record in run.metrics if record["event"] == "train"] == [1, 2]
    loaded = load_encoder(run.folder)
    assert isinstance(loaded, ColourBranches)
    assert loaded(torch.rand(2, 3, 16, 16)).shape == (2, 64)


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
    with pytest.raises(ValueError, match="colour branches need RGB images, 3 channels; found 1"):
        ColourBranchesConfig().build(channels=1, image_size=(8, 8))
    with pytest.raises(ValueError, match=r"takes RGB images \[b, 3, H, W\], found \(2, 1, 8, 8\)"):
        encoder()(torch.rand(2, 1, 8, 8))


def test_negatives_are_the_other_samples() -> None:
    assert CMCConfig().build(encoder()).negatives(samples=64, views=2) == 63
