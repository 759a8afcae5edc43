"""Pairwise primitives on tensors: what every loss of the library is made of."""

from kinfolk.ops.dispatch import Function as Function
from kinfolk.ops.dispatch import Impl as Impl
from kinfolk.ops.dispatch import as_scale as as_scale
from kinfolk.ops.dispatch import check as check
from kinfolk.ops.dispatch import choose as choose
from kinfolk.ops.dispatch import explain as explain
from kinfolk.ops.dispatch import logsumexp_and_kernel_attraction as logsumexp_and_kernel_attraction
from kinfolk.ops.dispatch import prepare as prepare
from kinfolk.ops.dispatch import ready as ready
from kinfolk.ops.dispatch import row_logsumexp as row_logsumexp
from kinfolk.ops.dispatch import row_softmax_mean as row_softmax_mean
from kinfolk.ops.dispatch import row_sum as row_sum
from kinfolk.ops.dispatch import row_topk as row_topk
from kinfolk.ops.dispatch import two_way_logsumexp as two_way_logsumexp
from kinfolk.ops.listed import listed_products as listed_products
from kinfolk.ops.masks import PairMask as PairMask
from kinfolk.ops.masks import as_mask as as_mask
from kinfolk.ops.masks import integer_ids as integer_ids

__all__ = [
    "PairMask",
    "explain",
    "listed_products",
    "row_logsumexp",
    "row_softmax_mean",
    "row_sum",
    "row_topk",
    "two_way_logsumexp",
]
