"""Mixed hard negatives: special cases, lengths of the mixtures, draws, refusals."""

from __future__ import annotations

import fixture
import pytest
import torch
import torch.nn.functional as F
from closeness import close, slope
from torch import Generator, Tensor

from kinfolk import losses
from kinfolk.losses.mochi import Mixing, mochi

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
Z0, Z1, QUEUE = fixture.z(0), fixture.z(1), fixture.queue()


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.identity("MoCHiLoss", "InfoNCELoss")
@EVERY_IMPL
def test_mochi_that_mixes_nothing_is_infonce(impl: str) -> None:
    x = Z0.clone().requires_grad_()
    plain = losses.InfoNCELoss(impl=impl)(x, Z1, QUEUE)
    nothing = losses.MoCHiLoss(mixed=0, query_mixed=0, impl=impl)(x, Z1, QUEUE)
    assert torch.equal(plain, nothing)
    assert torch.equal(slope(plain, x), slope(nothing, x))
    drawn = Mixing.draw(6, hardest=3, mixed=0, query_mixed=0)
    close(mochi(Z0, Z1, QUEUE, drawn, hardest=3, impl=impl)[0].mean(), plain, atol=1e-12)


@pytest.mark.identity("MoCHiLoss", "InfoNCELoss")
@EVERY_IMPL
def test_mochi_is_at_least_infonce(impl: str) -> None:
    loss = losses.MoCHiLoss(hardest=4, mixed=3, query_mixed=2, reduction="none", impl=impl)
    plain = losses.InfoNCELoss(reduction="none", impl=impl)(Z0, Z1, QUEUE)
    for seed in range(5):
        assert (loss(Z0, Z1, QUEUE, generator=seeded(seed)) > plain).all()


@pytest.mark.identity("MoCHiLoss", "InfoNCELoss")
@EVERY_IMPL
def test_mochi_of_the_hardest_alone_counts_it_again(impl: str) -> None:
    loss = losses.MoCHiLoss(hardest=1, mixed=3, query_mixed=0, reduction="none", impl=impl)
    for i in range(6):
        hardest = QUEUE[(Z0[i] @ QUEUE.T).argmax()].expand(3, -1)
        again = losses.InfoNCELoss(reduction="none", impl=impl)(Z0[[i]], Z1[[i]], torch.cat([QUEUE, hardest]))
        close(loss(Z0[[i]], Z1[[i]], QUEUE), again)


@pytest.mark.identity("MoCHiLoss")
@EVERY_IMPL
def test_mixtures_have_length_one(impl: str) -> None:
    """A query that is its own mixture finds a negative at cosine 1, whatever the shares were."""
    a, b = QUEUE[0], QUEUE[1]
    for share in (0.0, 0.2, 0.5, 1.0):
        query = F.normalize(share * a + (1 - share) * b, dim=0)[None]
        near = (query @ torch.stack([a, b]).T)[0].argsort(descending=True)
        first = torch.stack([(near == 0).nonzero()[0], (near == 1).nonzero()[0]])
        weight = torch.tensor([[share]], dtype=torch.float64)
        none = torch.zeros(1, 0, dtype=torch.int64)
        drawn = Mixing(first[:1], first[1:], weight, none, none.double())
        found = mochi(query, query, torch.stack([a, b]), drawn, temperature=0.5, hardest=2, impl=impl)[0]  # type: ignore[arg-type]
        scores = torch.cat([query @ query.T, query @ torch.stack([a, b]).T, torch.ones(1, 1)], 1) / 0.5
        close(found, torch.logsumexp(scores, 1) - 2)


@pytest.mark.identity("MoCHiLoss")
@EVERY_IMPL
def test_mixing_with_the_query_moves_towards_it(impl: str) -> None:
    def value(share: float) -> Tensor:
        none, place = torch.zeros(6, 0, dtype=torch.int64), torch.ones(6, 1, dtype=torch.int64)
        drawn = Mixing(none, none, none.double(), place, torch.full((6, 1), share))
        return mochi(Z0, Z1, QUEUE, drawn, hardest=3, impl=impl)[0]  # type: ignore[arg-type]

    found = torch.stack([value(share) for share in (0.0, 0.1, 0.3, 0.5)])
    assert (found.diff(dim=0) > 0).all()
    second = (Z0 @ QUEUE.T).topk(2, 1)[1][:, 1]
    for i in range(6):  # the share 0 leaves the second hardest as it is
        bank = torch.cat([QUEUE, QUEUE[second[i]][None]])
        close(found[0, i], losses.InfoNCELoss()(Z0[[i]], Z1[[i]], bank))


@EVERY_IMPL
def test_mixing_opposite_negatives_is_finite(impl: str) -> None:
    """The middle of opposite rows is a zero vector, as far from everything as zero is."""
    queue = torch.stack([QUEUE[0], -QUEUE[0]])
    none, ones = torch.zeros(6, 0, dtype=torch.int64), torch.ones(6, 1, dtype=torch.int64)
    drawn = Mixing(0 * ones, ones, torch.full((6, 1), 0.5), none, none.float())
    x = Z0.clone().requires_grad_()
    found = mochi(x, Z1, queue, drawn, hardest=2, impl=impl)[0]  # type: ignore[arg-type]
    scores = torch.cat([(Z0 * Z1).sum(1, keepdim=True), Z0 @ queue.T, torch.zeros(6, 1)], 1) / 0.2
    close(found, torch.logsumexp(scores, 1) - scores[:, 0])
    assert torch.isfinite(slope(found.sum(), x)).all()


def test_mochi_draws_from_its_generator() -> None:
    loss = losses.MoCHiLoss(hardest=4, mixed=3, query_mixed=2)
    one, again, other = (loss(Z0, Z1, QUEUE, generator=seeded(s)).item() for s in (1, 1, 2))
    assert one == again != other
    generator = seeded(1)
    first, second = loss(Z0, Z1, QUEUE, generator=generator), loss(Z0, Z1, QUEUE, generator=generator)
    assert first.item() == one != second.item()
    torch.manual_seed(3)
    globally = loss(Z0, Z1, QUEUE)
    torch.manual_seed(3)
    assert torch.equal(loss(Z0, Z1, QUEUE), globally)


def test_mochi_draws_are_those_documented() -> None:
    drawn, g = Mixing.draw(50, hardest=7, mixed=40, query_mixed=30, generator=seeded(4)), seeded(4)
    assert torch.equal(drawn.first, torch.randint(7, (50, 40), generator=g))
    assert torch.equal(drawn.second, torch.randint(7, (50, 40), generator=g))
    assert torch.equal(drawn.share, torch.rand(50, 40, generator=g))
    assert torch.equal(drawn.third, torch.randint(7, (50, 30), generator=g))
    assert torch.equal(drawn.query_share, torch.rand(50, 30, generator=g) / 2)
    assert drawn.first.unique().tolist() == drawn.third.unique().tolist() == list(range(7))
    assert drawn.share.mean().item() == pytest.approx(0.5, abs=0.03)
    assert 0.45 < drawn.query_share.max() <= 0.5


def test_mochi_refuses_a_queue_that_is_too_short() -> None:
    with pytest.raises(ValueError, match=r"(?s)hardest = 9.*8"):
        losses.MoCHiLoss(hardest=9, mixed=1)(Z0, Z1, QUEUE)
    with pytest.raises(ValueError, match="hardest"):
        losses.MoCHiLoss()(Z0, Z1, QUEUE[:0])
    assert losses.MoCHiLoss(mixed=0, query_mixed=0)(Z0, Z1, QUEUE[:0]).item() == 0
    for name in ("hardest", "mixed", "query_mixed"):
        with pytest.raises(ValueError, match=name):
            losses.MoCHiLoss(**{name: -1})
