"""False negative cancellation: rows that look like the anchor's sample are attracted, or at least not repelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from kinfolk.distributed import Gather, Ranks
from kinfolk.losses.base import Impl, Loss, Reduction, checked_ids, inverse, other_samples, positive, same_shape
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.losses.views import checked_views
from kinfolk.ops import PairMask, integer_ids, listed_products, prepare, ready, row_logsumexp, row_topk

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Mode = Literal["attract", "eliminate"]
"""What becomes of false negatives: positives, or no candidates any more."""


def fnc(
    views: Sequence[Float[Tensor, "n d"]],
    support: Sequence[Float[Tensor, "n d"]] | None = None,
    *,
    temperature: float | Tensor = 0.1,
    top_k: int = 10,
    threshold: float = 0.7,
    mode: Mode = "attract",
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " vn"], Bool[Tensor, " vn"]]:
    """Cross-entropy of finding the own other views, once likely false negatives are found and dealt with.

    F_i, the false negatives of sample i, are the `top_k` rows m of other samples with the largest ``score(i, m)``, as
    far as it exceeds `threshold`; the score is the largest product of m with any view or support view of i. With
    ``s_ab = <z_a, z_b> / temperature`` and V views, row a of sample i has the value
    ``attract: lse_{b != a} s_ab - (sum_{v != a} s_av + sum_{f in F_i} s_af) / (V - 1 + |F_i|)``,
    ``eliminate: lse_{b != a, b not in F_i} s_ab - sum_{v != a} s_av / (V - 1)``, where v are the own views.

    Returns:
        Values [V n], view after view, and which of them count (all).

    Example:
        >>> alike = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
        >>> values, valid = fnc([alike, alike], temperature=1.0)
        >>> values
        tensor([1.1032, 1.1032, 1.1032, 1.1032])
    """
    form = f"{mode}, top {top_k}"
    batch = _joined(views, support, ids, normalize=normalize, gather=gather, impl=impl, form=form)
    found = _found(batch, top_k, threshold)
    values, valid = _values(batch, found, inverse(temperature), mode)
    return values + _doubt(batch), valid


def fnc_given(
    views: Sequence[Float[Tensor, "n d"]],
    found: Int[Tensor, "n k"],
    *,
    temperature: float | Tensor = 0.1,
    mode: Mode = "attract",
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " vn"], Bool[Tensor, " vn"]]:
    """`fnc` with the false negatives given: those of an oracle, or found with other embeddings.

    Args:
        views: V >= 2 projections [n, d].
        found: every sample's false negatives [n, k], as `false_negatives` numbers them: each once, none an own view; -1
            fills up.
        temperature, mode, ids, normalize, gather, impl: as in `FNCLoss`.

    Returns:
        Values [V n] and which of them count (all).

    Example:
        >>> views, found = [torch.eye(2), torch.eye(2)], torch.tensor([[1, -1], [0, 2]])
        >>> fnc_given(views, found, temperature=1.0)[0]
        tensor([1.0514, 1.2181, 1.0514, 1.2181])
    """
    batch = _joined(views, None, ids, normalize=normalize, gather=gather, impl=impl, form=f"{mode}, given")
    n = len(batch.rows) // batch.views
    if found.ndim != 2 or len(found) != n:
        raise ValueError(f"found must be [n, k], one list per sample: {n} samples, found {tuple(found.shape)}.")
    columns = integer_ids(found.flatten(), "found").view(found.shape).to(batch.rows.device)
    return _values(batch, columns, inverse(temperature), mode)


def false_negatives(
    views: Sequence[Float[Tensor, "n d"]],
    support: Sequence[Float[Tensor, "n d"]] | None = None,
    *,
    top_k: int = 10,
    threshold: float = 0.7,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> Int[Tensor, "n k"]:
    """Return every sample's F_i, as `fnc` finds it: to measure its precision where labels are known.

    Returns:
        Rows [n, k], k <= `top_k`, likeliest first; -1 fills up. Row ``v n + j`` is view v of sample j (several ranks:
        the rows of all, rank after rank).

    Example:
        >>> first = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, -1.0]])
        >>> second = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, -1.0]])
        >>> false_negatives([first, second], top_k=2)
        tensor([[ 4,  1],
                [ 3,  0],
                [-1, -1]])
    """
    form = f"only found, top {top_k}"
    with torch.no_grad():
        batch = _joined(views, support, ids, normalize=normalize, gather=gather, impl=impl, form=form)
        return _found(batch, top_k, threshold)


class _Batch(NamedTuple):
    """This rank's rows, view after view; the same with support views, for detection; and the rows of all ranks."""

    rows: Float[Tensor, "vn d"]
    queries: Float[Tensor, "qn d"]
    keys: Float[Tensor, "m d"]
    ranks: Ranks
    views: int
    seen: int
    ids: Int[Tensor, " n"] | None
    cosines: bool
    normalize: bool
    impl: Impl


def _joined(
    views: Sequence[Tensor],
    support: Sequence[Tensor] | None,
    ids: Tensor | None,
    *,
    normalize: bool,
    gather: Gather,
    impl: Impl,
    form: str,
) -> _Batch:
    refuse_ring("FNCLoss", gather)
    rows = torch.cat(checked_views(views, "FNCLoss"))
    if isinstance(support, Tensor):
        raise ValueError(f"support must be a list of views [n, d], found a tensor {tuple(support.shape)}; unbind it.")
    more = {f"support[{v}]": view.detach() for v, view in enumerate(support or [])}
    if more:
        same_shape(**{"views[0]": views[0]}, **more)
    ids = checked_ids(ids, views[0])
    what = f"FNCLoss: {form}, {len(views)} views{', ids' * (ids is not None)}"
    ranks, (rows,) = Ranks.of([rows], gather=gather, what=what)
    with torch.autocast(rows.device.type, enabled=False):
        others = [ready(view, normalize=normalize, impl=impl)[0] for view in more.values()]
        rows, raw = ready(rows, normalize=normalize, impl=impl)
        queries = torch.cat([rows.detach(), *(view.to(rows) for view in others)]) if others else rows
        seen = len(views) + len(others)
        return _Batch(rows, queries, ranks.gather(rows), ranks, len(views), seen, ids, normalize, raw, impl)


@torch.no_grad()
def _found(batch: _Batch, top_k: int, threshold: float) -> Int[Tensor, "n k"]:
    """Detection: the best rows by the largest score of several views are among the best of each of them."""
    _check_top_k(top_k)
    queries, keys, n = batch.queries, batch.keys, len(batch.rows) // batch.views
    k = min(top_k, len(keys))
    if not k:
        return torch.empty(n, 0, dtype=torch.int64, device=keys.device)
    best = row_topk(queries, keys, k=k, mask=_others(batch), normalize=batch.normalize, impl=batch.impl)
    values, columns = (t.view(batch.seen, n, k).transpose(0, 1).flatten(1) for t in best)
    if batch.cosines:
        values = values.clamp(max=1.0)  # rounding must not lift a duplicate above a threshold of 1
    values, order = values.sort(1, descending=True)
    columns, order = columns.gather(1, order).sort(stable=True, dim=1)  # a row's occurrences, its best score first
    values = values.gather(1, order)
    again = pad(columns[:, 1:] == columns[:, :-1], (1, 0))
    values, order = values.masked_fill(again | ~(values > threshold), -torch.inf).topk(k, 1)
    return columns.gather(1, order).masked_fill(values == -torch.inf, -1)


def _doubt(batch: _Batch) -> Float[Tensor, " vn"]:
    """0, and NaN where a sample's support is: it must not pass for one that resembles nothing."""
    support = batch.queries[len(batch.rows) :] if batch.seen > batch.views else batch.rows[:0].detach()
    n = len(batch.rows) // batch.views
    return (0 * support).view(batch.seen - batch.views, n, support.shape[1]).sum((0, 2)).repeat(batch.views)


def _others(batch: _Batch) -> PairMask:
    """Drop a sample's own rows: its views by place, and what else has its id."""
    ranks, n = batch.ranks, len(batch.rows) // batch.views
    own = [torch.arange(n, device=batch.rows.device) + ranks.offset // batch.views]
    own += [] if batch.ids is None else [batch.ids]
    masks = [PairMask.exclude(i.repeat(batch.seen), ranks.gather(i.repeat(batch.views))) for i in own]
    return masks[0] if len(masks) == 1 else masks[0] & masks[1]


def _values(
    batch: _Batch, found: Int[Tensor, "n k"], scale: float | Tensor, mode: Mode
) -> tuple[Float[Tensor, " vn"], Bool[Tensor, " vn"]]:
    _check_mode(mode)
    rows, keys, views, listed = batch.rows, batch.keys, batch.views, found.repeat(batch.views, 1)
    with torch.autocast(rows.device.type, enabled=False):
        x, y = prepare(rows, keys, normalize=batch.normalize)
        own = scale * _own_scores(x, views)
        mask, own_left = other_samples(batch.ids, batch.ranks, device=rows.device, views=views)
        if mode == "eliminate" and found.shape[1]:
            mask = mask & PairMask.exclude_columns(listed, len(keys))
        partition = row_logsumexp(rows, keys, scale=scale, mask=mask, normalize=batch.normalize, impl=batch.impl)
        if own_left:
            partition = torch.logaddexp(partition, own.logsumexp(1))
        pull, count = own.sum(1), own.new_full((len(own),), views - 1)
        if mode == "attract" and found.shape[1]:
            pull = pull + scale * listed_products(x, y, listed).sum(1)
            count = count + (listed >= 0).sum(1)
        values = partition - pull / count
        return values, torch.ones_like(values, dtype=torch.bool)


def _own_scores(rows: Float[Tensor, "vn d"], views: int) -> Float[Tensor, "vn v1"]:
    """Products of every row with the other views of its sample."""
    by_view = rows.view(views, len(rows) // views, rows.shape[1])
    products = torch.einsum("vnd,und->vnu", by_view, by_view)
    return torch.cat([products[v][:, [u for u in range(views) if u != v]] for v in range(views)])


def _check_mode(mode: Mode) -> None:
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, found {mode!r}.")


def _check_top_k(top_k: int) -> None:
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0:
        raise ValueError(f"top_k must be a whole number, 0 (none) or more, found {top_k!r}.")


class FNCLoss(Loss):
    """False negative cancellation (FNC), ``loss(views, support)``.

    Rows of other samples that look like a sample in any of its views are taken for false negatives and become
    positives (``"attract"``) or leave the partition (``"eliminate"``, which forgives wrong finds). Which they are is no
    function of the gradient. An absolute threshold is met by everything once features collapse, and ten rows are many
    for a small batch: start after a tenth of training, with `top_k` at 2 to 5 % of the rows.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        top_k: how many false negatives a sample has at most; 0 switches detection off.
        threshold: the cosine that a row must exceed to be one; 1 or more switches detection off.
        mode: ``"attract"`` or ``"eliminate"``.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`; ``"ring"`` is refused.

    Call:
        views: V >= 2 projections [n, d], row k of each belonging to sample k; all of them are anchors and keys.
        support: more views [n, d], which take part in detection only, without gradient.
        ids: sample ids [n]; equal ids are neither false negatives nor candidates of each other. None = all differ.

    Returns:
        A scalar, or [V n] (view-major) for ``reduction="none"``. With two views and nothing found it is NT-Xent.

    Raises:
        TypeError: for float or bool ids.
        ValueError: for fewer than 2 views, views of different shapes, an unknown mode, a temperature that is not
            positive, an empty batch.

    Reference:
        Tri Huynh, Simon Kornblith, Matthew R. Walter, Michael Maire, Maryam Khademi, 2022, Boosting Contrastive
        Self-Supervised Learning with False Negative Cancellation.

    Example:
        >>> views = 2 * [torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])]
        >>> FNCLoss(temperature=1.0)(views), FNCLoss(temperature=1.0, mode="eliminate")(views)
        (tensor(1.3290), tensor(0.8419))
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.1,
        top_k: int = 10,
        threshold: float = 0.7,
        mode: Mode = "attract",
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("FNCLoss", gather)
        _check_mode(mode)
        _check_top_k(top_k)
        self.temperature, self.top_k, self.threshold, self.mode = positive(temperature), top_k, threshold, mode

    def forward(  # type: ignore[override]
        self, views: Sequence[Tensor], support: Sequence[Tensor] | None = None, ids: Tensor | None = None
    ) -> Tensor:
        """Return the loss of V views [n, d]."""
        values, valid = fnc(
            views,
            support,
            temperature=self.temperature,
            top_k=self.top_k,
            threshold=self.threshold,
            mode=self.mode,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
