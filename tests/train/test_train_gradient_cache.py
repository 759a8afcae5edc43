"""Gradient caching in one process: the gradient of one large pass, whatever the encoder and the loss do."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ranks_of_training as battery
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk.losses import NTXentLoss
from kinfolk.train import cached_backward, checkpoints, fit, split_rows
from kinfolk.train.gradient_cache import join_rows


def contrast(found: Any) -> Tensor:
    """Return a loss that depends on every pair of rows."""
    return NTXentLoss(temperature=0.3)(*found)


def encoder_of(*layers: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), *layers, nn.ReLU(), nn.Linear(8, 4)).to(dtype)


def rows_of(dtype: torch.dtype = torch.float64, n: int = 13) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(n, 6, dtype=torch.float64, generator=generator).to(dtype) for _ in range(2))
    return first, second


def both(encoder: nn.Module) -> Callable[[Any], tuple[Tensor, Tensor]]:
    return lambda chunk: (encoder(chunk[0]), encoder(chunk[1]))


def gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in module.parameters()]


def in_one_pass(encoder: nn.Module, chunks: list[Any]) -> tuple[Tensor, nn.Module]:
    """Encode the same chunks with one graph over all of them, and go backward once."""
    encoder = copy.deepcopy(encoder)
    loss = contrast(join_rows([both(encoder)(chunk) for chunk in chunks]))
    loss.backward()
    return loss.detach(), encoder


def test_the_gradient_is_that_of_the_whole_batch_and_not_that_of_accumulation() -> None:
    encoder, rows = encoder_of(), rows_of()
    whole = copy.deepcopy(encoder)
    contrast(both(whole)(rows)).backward()
    loss = cached_backward(both(encoder), split_rows(rows, 4), contrast, modules=[encoder])
    assert loss.item() == pytest.approx(contrast(both(whole)(rows)).item(), abs=1e-14)
    for found, expected in zip(gradients(encoder), gradients(whole), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)

    accumulated = copy.deepcopy(encoder)
    accumulated.zero_grad()
    for chunk in split_rows(rows, 4):
        (contrast(both(accumulated)(chunk)) * len(chunk[0]) / 13).backward()
    cosine = F.cosine_similarity(*(torch.cat([g.flatten() for g in gradients(m)]) for m in (accumulated, whole)), dim=0)
    assert cosine < 0.97


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=str)
def test_dropout_drops_the_same_in_both_passes(dtype: torch.dtype, tolerance: float) -> None:
    encoder, chunks = encoder_of(nn.Dropout(0.5), dtype=dtype), split_rows(rows_of(dtype), 4)
    torch.manual_seed(7)
    expected, whole = in_one_pass(encoder, chunks)
    following = torch.rand(3)
    torch.manual_seed(7)
    loss = cached_backward(both(encoder), chunks, contrast, modules=[encoder])
    assert torch.equal(torch.rand(3), following)
    assert (loss - expected).abs() < tolerance
    for found, wanted in zip(gradients(encoder), gradients(whole), strict=True):
        assert (found - wanted).abs().max() < tolerance
    torch.manual_seed(8)
    other = in_one_pass(encoder, chunks)[1]  # the test can tell masks apart
    assert (gradients(other)[0] - gradients(whole)[0]).abs().max() > 100 * tolerance


def test_running_statistics_move_once_and_other_buffers_replay() -> None:
    encoder, chunks = encoder_of(nn.BatchNorm1d(8)), split_rows(rows_of(), 4)
    torch.nn.utils.parametrizations.spectral_norm(encoder[0])  # its vectors change with every training pass
    _, whole = in_one_pass(encoder, chunks)
    cached_backward(both(encoder), chunks, contrast, modules=[encoder])
    for found, wanted in zip(gradients(encoder), gradients(whole), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    for (name, found), wanted in zip(encoder.named_buffers(), whole.buffers(), strict=True):
        assert torch.equal(found, wanted), name
    assert int(encoder[1].num_batches_tracked) == 2 * len(chunks)


def test_autocast_reaches_both_passes_and_every_weight() -> None:
    encoder, chunks = encoder_of(dtype=torch.float32), split_rows(rows_of(torch.float32), 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, whole = in_one_pass(encoder, chunks)
        types = []
        cached_backward(
            lambda chunk: tuple(types.append(z.dtype) or z for z in both(encoder)(chunk)),
            chunks, contrast, modules=[encoder],
        )  # fmt: skip
    assert set(types) == {torch.bfloat16}
    assert len(types) == 4 * len(chunks)
    for found, wanted in zip(gradients(encoder), gradients(whole), strict=True):
        assert found is not None
        assert (found - wanted).abs().max() <= 2e-2 * wanted.abs().max()


def test_a_gradient_scaler_scales_once() -> None:
    encoder, rows = encoder_of(dtype=torch.float32), rows_of(torch.float32)
    whole = copy.deepcopy(encoder)
    contrast(both(whole)(rows)).backward()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.0)
    backward = lambda loss: scaler.scale(loss).backward()  # noqa: E731
    cached_backward(both(encoder), split_rows(rows, 4), contrast, modules=[encoder], backward=backward)
    torch.testing.assert_close(encoder[0].weight.grad, 1024 * whole[0].weight.grad, rtol=1e-4, atol=1e-4)
    scaler.unscale_(optimizer)
    torch.testing.assert_close(encoder[0].weight.grad, whole[0].weight.grad, rtol=1e-4, atol=1e-7)


def test_the_losss_own_parameters_receive_their_gradient_once() -> None:
    encoder, rows, temperature = encoder_of(), rows_of(), nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    NTXentLoss(temperature=temperature)(*both(encoder)(rows)).backward()
    expected, temperature.grad = temperature.grad, None
    calls = []
    cached_backward(
        both(encoder), split_rows(rows, 2),
        lambda found: calls.append(len(found[0])) or NTXentLoss(temperature=temperature)(*found), modules=[encoder],
    )  # fmt: skip
    assert calls == [13]
    torch.testing.assert_close(temperature.grad, expected, rtol=0, atol=1e-13)


def test_no_graph_ever_holds_more_than_a_chunk() -> None:
    encoder, rows, seen = encoder_of(), rows_of(), []
    encoder.register_forward_hook(lambda _, inputs, out: seen.append((len(inputs[0]), out.requires_grad)))
    cached_backward(both(encoder), split_rows(rows, 5), contrast, modules=[encoder])
    assert seen == [(n, graph) for graph in (False, True) for n in (4, 4, 4, 4, 5, 5)]


class Found(NamedTuple):
    image: Tensor
    rest: dict[str, list[Tensor]]


def test_several_encoders_in_nested_forms_and_one_that_the_loss_ignores() -> None:
    torch.manual_seed(0)
    encoders = nn.ModuleDict({name: nn.Linear(3, 2).double() for name in ("image", "text", "ignored", "frozen")})
    encoders["frozen"].requires_grad_(False)
    batch = {"image": torch.randn(7, 3).double(), "texts": [torch.randn(7, 3).double()], "names": list("abcdefg")}

    def encode(chunk: dict[str, Any]) -> Found:
        assert len(chunk["names"]) == len(chunk["image"])
        parts = [encoders["text"](chunk["texts"][0]), encoders["frozen"](chunk["image"])]
        return Found(
            encoders["image"](chunk["image"]), {"text": parts, "ignored": [encoders["ignored"](chunk["image"])]}
        )

    def loss(found: Found) -> Tensor:
        return contrast((found.image, found.rest["text"][0])) + contrast((found.image, found.rest["text"][1]))

    whole = copy.deepcopy(encoders)
    cached_backward(encode, split_rows(batch, 3), loss, modules=[encoders])
    cached, encoders = encoders, whole
    loss(encode(batch)).backward()
    for name in ("image", "text"):
        torch.testing.assert_close(cached[name].weight.grad, whole[name].weight.grad, rtol=0, atol=1e-13)
    assert cached["ignored"].weight.grad is None
    assert cached["frozen"].weight.grad is None


def test_what_the_loss_does_to_a_buffer_stays() -> None:
    encoder, chunks = encoder_of(nn.BatchNorm1d(8)), split_rows(rows_of(), 5)
    encoder.register_buffer("counter", torch.zeros(()))

    def loss(found: Any) -> Tensor:
        encoder.counter += 1
        return contrast(found)

    cached_backward(both(encoder), chunks, loss, modules=[encoder])
    assert encoder.counter.item() == 1


def test_wrong_calls_are_explained() -> None:
    encoder, rows = encoder_of(), rows_of()
    with pytest.raises(ValueError, match="at least one chunk, found none"):
        cached_backward(encoder, [], contrast)
    with pytest.raises(ValueError, match=r"modules must name the modules that encode runs.*Pass modules="):
        cached_backward(both(encoder), split_rows(rows, 4), contrast)
    for wrong, found in ((lambda c: encoder(c).sum(), "a scalar"), (lambda c: [encoder(c), None], "NoneType")):
        with pytest.raises(ValueError, match=rf"one row per sample.*found {found}.*goes into the loss"):
            cached_backward(wrong, split_rows(rows[0], 4), contrast, modules=[encoder])
    with pytest.raises(ValueError, match="found size 0"):
        split_rows(rows, 0)
    with pytest.raises(ValueError, match=r"as many rows each, found \[13, 12\]"):
        split_rows((rows[0], rows[1][:12]), 4)


@pytest.mark.parametrize(("n", "sizes"), [(13, [4, 3, 3, 3]), (12, [4, 4, 4]), (4, [4]), (1, [1]), (0, [0])], ids=str)
def test_chunks_are_as_even_as_can_be(n: int, sizes: list[int]) -> None:
    chunks = split_rows({"x": torch.arange(n), "side": None}, 4)
    assert sorted((len(chunk["x"]) for chunk in chunks), reverse=True) == sizes
    assert torch.equal(join_rows([chunk["x"] for chunk in chunks]), torch.arange(n))
    assert all(chunk["side"] is None for chunk in chunks)


@pytest.mark.parametrize("name", list(battery.METHODS))
def test_every_method_trains_the_same_in_chunks(name: str) -> None:
    whole, chunked = (battery.steps(name, chunk_size=size, rank=0, world=1) for size in (None, 3))
    assert whole.keys() == chunked.keys()
    assert any(key.startswith("grad") for key in whole)
    for key, expected in whole.items():
        torch.testing.assert_close(chunked[key], expected, rtol=0, atol=1e-10, msg=key)


# Methods whose loss is one softmax over an anchor's candidates.
@pytest.mark.parametrize("name", ["simclr", "moco", "moco-symmetric", "supcon", "xclr", "xclr-relation"])
def test_negatives_are_what_equal_embeddings_cannot_be_told_from(name: str) -> None:
    method, batch = battery.method_of(name), battery.batch_of(name, 0, n=5)
    same = [torch.ones(5, 6, dtype=torch.float64)] * (1 if name == "moco" else 2)
    if "moco" in name:
        method.queue.rows.copy_(F.normalize(torch.ones(20, 6)))
    loss = method.terms(same, batch, keys=same if "moco" in name else ())["loss"].item()
    assert math.exp(loss) - 1 == pytest.approx(method.negatives(samples=5, views=2))


def _weights(run: Any) -> Iterator[tuple[str, Tensor]]:
    return iter(load_file(checkpoints(run.checkpoints)[-1] / "weights.safetensors").items())


def test_a_run_in_chunks_is_the_run_without(tmp_path: Path) -> None:
    config = battery.config_of("group")
    whole = fit(config, out=tmp_path / "whole")
    chunked = fit(replace(config, chunk_size=7), out=tmp_path / "chunked")
    for (name, expected), (_, found) in zip(_weights(whole), _weights(chunked), strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4, msg=name)
    for run in (whole, chunked):
        assert run.metrics[0]["negatives_per_anchor"] == 94
    # a run from before these settings existed can be resumed
    text = chunked.folder.joinpath("config.yaml").read_text()
    old = "\n".join(line for line in text.splitlines() if not line.startswith("sync_batch_norm"))
    assert old != text
    chunked.folder.joinpath("config.yaml").write_text(old)
    fit(replace(config, chunk_size=7), out=tmp_path / "chunked", resume=True)
    with pytest.raises(ValueError, match="sync_batch_norm: True in the run, False now"):
        fit(replace(config, chunk_size=7, sync_batch_norm=False), out=tmp_path / "chunked", resume=True)
    with pytest.raises(ValueError, match="chunk_size must be 1 or more, found 0"):
        replace(config, chunk_size=0)
