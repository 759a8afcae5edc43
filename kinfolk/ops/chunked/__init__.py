"""The pairwise primitives tile by tile in pure PyTorch: linear memory, closed-form backward, any device.

One primitive a file. Inputs are float32 or float64 and already normalised where that was asked for.
"""

from kinfolk.ops.chunked.kernel_attraction import logsumexp_and_kernel_attraction
from kinfolk.ops.chunked.logsumexp import row_logsumexp
from kinfolk.ops.chunked.row_sum import row_sum
from kinfolk.ops.chunked.row_topk import row_topk
from kinfolk.ops.chunked.softmax_mean import row_softmax_mean
from kinfolk.ops.chunked.target_attraction import TargetBlocks, target_attraction
from kinfolk.ops.chunked.tiles import Walk
from kinfolk.ops.chunked.two_way import two_way_logsumexp

__all__ = [
    "TargetBlocks",
    "Walk",
    "logsumexp_and_kernel_attraction",
    "row_logsumexp",
    "row_softmax_mean",
    "row_sum",
    "row_topk",
    "target_attraction",
    "two_way_logsumexp",
]
