"""A large contrastive batch through small encoder passes, with the gradient of one large pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm

from kinfolk import distributed
from kinfolk.nn import SynchronisedBatchNorm


def cached_backward(
    encode: Callable[[Any], Any],
    chunks: Sequence[Any],
    loss: Callable[[Any], Tensor],
    *,
    modules: Sequence[nn.Module] | None = None,
    backward: Callable[[Tensor], object] = Tensor.backward,
) -> Tensor:
    """Do what ``loss(encode(batch)).backward()`` does with the memory of one chunk in the encoder.

    First every chunk is encoded without a graph. The loss then sees the embeddings of the whole batch, once, and its
    gradient with respect to them is kept. At last every chunk is encoded again, with a graph, and its part of that
    gradient goes through. The encoder runs forward twice, about a third more work.

    The gradient is exact for every loss, since the loss is computed on the whole batch. That is what accumulating the
    gradients of small batches cannot do: there each loss knows the negatives of its own small batch only.

    - Torch's random numbers are replayed, on the CPU and on the GPUs in use, so dropout drops the same in both passes.
    - Both passes run under the autocast that is on around the call; nothing goes backward under autocast.
    - The second pass starts from the buffers that the first one started from and leaves them as they were after it:
      running statistics move once. Batch norm normalises each chunk by the chunk's own statistics, so there the values
      are those of the chunks; group norm and layer norm give the very values of one large pass.
    - What ``loss`` uses beside the embeddings (a learnable temperature) receives its gradient once, in the middle.
    - A module wrapped for data-parallel training synchronises once, at the last chunk. Ranks may have different
      numbers of chunks, but each at least one, without rows if need be. The loss's own parameters are not the
      wrapper's business: call `reduce_gradients` for them, or leave out the wrapper and call it for all.

    Args:
        encode: from a chunk to embeddings: a tensor whose rows belong to the chunk's samples, or a tuple, list or
            mapping of such tensors (views, modalities, several encoders).
        chunks: the batch in parts, as from `split_rows`.
        loss: from the joined embeddings, in the form that ``encode`` returns them, to a scalar.
        modules: the modules that ``encode`` runs; by default ``encode`` itself, or the module whose method it is.
        backward: what is called on the loss; ``lambda loss: scaler.scale(loss).backward()`` for a gradient scaler.

    Returns:
        The loss, detached. Gradients are added to ``.grad``; clip them afterwards, once.

    Raises:
        ValueError: without chunks; if ``modules`` cannot be told from ``encode``; if an embedding has no rows to join;
            if ranks that share batch statistics have different numbers of chunks.

    Reference: Gao, Zhang, Han, Callan (2021), Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup.

    Example:
        >>> from kinfolk.losses import CLIPLoss
        >>> image_encoder, text_encoder, scale = nn.Linear(6, 4), nn.Linear(3, 4), nn.Parameter(torch.tensor(10.0))
        >>> batch = {"image": torch.randn(32, 6), "text": torch.randn(32, 3)}
        >>> loss = cached_backward(
        ...     lambda chunk: (image_encoder(chunk["image"]), text_encoder(chunk["text"])),
        ...     split_rows(batch, 8),
        ...     lambda embeddings: CLIPLoss()(*embeddings, scale),
        ...     modules=[image_encoder, text_encoder],
        ... )
        >>> image_encoder.weight.grad.shape, scale.grad.shape
        (torch.Size([4, 6]), torch.Size([]))
    """
    modules = _modules_of(encode) if modules is None else modules
    wrapped = [module for module in modules if hasattr(module, "no_sync")]
    _check(chunks, modules)
    if len(chunks) == 1 and not wrapped:
        value = loss(encode(chunks[0]))
        with _without_autocast(value):
            backward(value)
        return value.detach()

    devices, before = _devices(modules, chunks), _buffers(modules)
    states, parts = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_random_states(devices))
            parts.append(encode(chunk))
    gradients, value = _gradients(parts, loss, backward)
    del parts

    # Autocast keeps the weights that it has cast; versions of torch that hand out those cast without a graph give them
    # no gradient.
    torch.clear_autocast_cache()
    after = _buffers(modules)
    _set_buffers(modules, before)
    for number, chunk in enumerate(chunks):
        with ExitStack() as stack:
            for module in wrapped if number < len(chunks) - 1 else ():
                stack.enter_context(module.no_sync())  # type: ignore[operator]
            stack.enter_context(_replayed(devices, states[number]))
            _backward_of(_leaves(encode(chunk)), gradients[number], every=bool(wrapped))
    _set_buffers(modules, after)
    return value


def split_rows(batch: Any, size: int) -> list[Any]:
    """Split a batch into as few chunks of at most ``size`` rows as it takes, as even as possible.

    A remainder of one row would be too little for batch norm. A batch without rows is one chunk.

    Args:
        batch: a tensor, or nested mappings, lists and tuples of tensors, all with as many rows. A list without tensors
            (texts) has one entry per row. None stays None.
        size: largest number of rows of a chunk.

    Returns:
        Chunks of the batch's own form; tensors are views.

    Raises:
        ValueError: for a size below 1, and for parts with different numbers of rows.

    Example:
        >>> batch = {"views": [torch.zeros(5, 2), torch.zeros(5, 2)], "text": ["a", "b", "c", "d", "e"]}
        >>> [(len(chunk["views"]), chunk["views"][0].shape[0], chunk["text"]) for chunk in split_rows(batch, 3)]
        [(2, 2, ['a', 'b']), (2, 3, ['c', 'd', 'e'])]
    """
    if size < 1:
        raise ValueError(f"a chunk needs at least one row, found size {size}.")
    counts = _row_counts(batch)
    if len(set(counts)) != 1:
        raise ValueError(
            f"a batch to split needs parts with as many rows each, found {counts}; "
            "split parts of different lengths by themselves and hand over your own list of chunks."
        )
    rows = counts[0]
    number = max(-(-rows // size), 1)
    return [_sliced(batch, slice(rows * k // number, rows * (k + 1) // number)) for k in range(number)]


def join_rows(parts: Sequence[Any]) -> Any:
    """Join what `split_rows` split: tensors along their rows, in the form of the first part.

    Example:
        >>> join_rows([(torch.ones(2, 3), torch.ones(2)), (torch.ones(1, 3), torch.ones(1))])[0].shape
        torch.Size([3, 3])
    """
    leaves = zip(*(_leaves(part) for part in parts), strict=True)
    return _rebuilt(parts[0], iter([torch.cat(rows) for rows in leaves]))


def _gradients(
    parts: Sequence[Any], loss: Callable[[Any], Tensor], backward: Callable[[Tensor], object]
) -> tuple[list[list[Tensor | None]], Tensor]:
    """Return the gradient of the loss with respect to every embedding of every chunk, and the loss."""
    rows = [[len(leaf) for leaf in _leaves(part)] for part in parts]
    joined = [leaf.detach().requires_grad_(leaf.is_floating_point()) for leaf in _leaves(join_rows(parts))]
    value = loss(_rebuilt(parts[0], iter(joined)))
    with _without_autocast(value):
        backward(value)
    split = [
        [None] * len(parts) if leaf.grad is None else leaf.grad.split([row[place] for row in rows])
        for place, leaf in enumerate(joined)
    ]
    return [list(chunk) for chunk in zip(*split, strict=True)], value.detach()


def _backward_of(leaves: Sequence[Tensor], gradients: Sequence[Tensor | None], *, every: bool) -> None:
    """Go backward from a chunk's embeddings; a wrapper that waits for all its parameters wants ``every`` one."""
    pairs = [
        (leaf, torch.zeros_like(leaf) if gradient is None else gradient)
        for leaf, gradient in zip(leaves, gradients, strict=True)
        if leaf.requires_grad and (every or gradient is not None)
    ]
    if pairs:
        with _without_autocast(pairs[0][0]):
            torch.autograd.backward([leaf for leaf, _ in pairs], [gradient for _, gradient in pairs])


def _modules_of(encode: Any) -> Sequence[nn.Module]:
    owner = getattr(encode, "__self__", encode)
    if not isinstance(owner, nn.Module):
        raise ValueError(
            f"modules must name the modules that encode runs, since {encode!r} is neither a module nor a method of one;"
            " their running statistics would move twice. Pass modules=[image_encoder, text_encoder], say."
        )
    return [owner]


def _check(chunks: Sequence[Any], modules: Sequence[nn.Module]) -> None:
    if not chunks:
        raise ValueError("a batch needs at least one chunk, found none; a rank without samples passes an empty one.")
    together = (SynchronisedBatchNorm, SyncBatchNorm)
    if distributed.world_size() > 1 and any(isinstance(m, together) for module in modules for m in module.modules()):
        counts = distributed.all_gather(torch.tensor([len(chunks)], device=_device(modules))).tolist()
        if len(set(counts)) > 1:
            raise ValueError(
                f"batch norm over all ranks needs equally many chunks on each, found {counts}; "
                "give the shorter lists chunks without rows."
            )


def _device(modules: Sequence[nn.Module]) -> torch.device:
    return next(parameter.device for module in modules for parameter in (*module.parameters(), *module.buffers()))


def _devices(modules: Sequence[nn.Module], chunks: Sequence[Any]) -> list[torch.device]:
    """GPUs whose random numbers may be drawn."""
    tensors = [parameter for module in modules for parameter in module.parameters()] + _leaves(chunks[0], strict=False)
    return sorted({t.device for t in tensors if t.is_cuda}, key=lambda device: device.index)


def _random_states(devices: Sequence[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]


@contextmanager
def _replayed(devices: Sequence[torch.device], states: Sequence[Tensor]) -> Iterator[None]:
    """Draw again what was drawn from these states on, and leave the generators where they are."""
    with torch.random.fork_rng(devices=devices):
        torch.set_rng_state(states[0])
        for device, state in zip(devices, states[1:], strict=True):
            torch.cuda.set_rng_state(state, device)
        yield


def _buffers(modules: Sequence[nn.Module]) -> list[Tensor]:
    return [buffer.clone() for module in modules for buffer in module.buffers()]


@torch.no_grad()
def _set_buffers(modules: Sequence[nn.Module], values: Sequence[Tensor]) -> None:
    for buffer, value in zip((b for module in modules for b in module.buffers()), values, strict=True):
        buffer.copy_(value)


def _without_autocast(value: Tensor) -> torch.autocast:
    return torch.autocast(value.device.type, enabled=False)


def _leaves(tree: Any, *, strict: bool = True) -> list[Tensor]:
    """Tensors of a tree, in order; ``strict`` refuses anything that cannot be joined along rows."""
    if isinstance(tree, Mapping):
        return [leaf for value in tree.values() for leaf in _leaves(value, strict=strict)]
    if isinstance(tree, list | tuple):
        return [leaf for value in tree for leaf in _leaves(value, strict=strict)]
    if isinstance(tree, Tensor) and (tree.ndim or not strict):
        return [tree]
    if strict:
        found = "a scalar" if isinstance(tree, Tensor) else type(tree).__name__
        raise ValueError(
            f"encode must return tensors with one row per sample, or tuples, lists or mappings of them; found {found}. "
            "What belongs to the whole batch, as a temperature does, goes into the loss."
        )
    return []


def _rebuilt(tree: Any, leaves: Iterator[Tensor]) -> Any:
    """Give a tree new leaves."""
    if isinstance(tree, Mapping):
        return {name: _rebuilt(value, leaves) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        values = [_rebuilt(value, leaves) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return next(leaves)


def _row_counts(tree: Any) -> list[int]:
    if isinstance(tree, Mapping):
        return [count for value in tree.values() for count in _row_counts(value)]
    if _is_parts(tree):
        return [count for value in tree for count in _row_counts(value)]
    return [] if tree is None else [len(tree)]


def _sliced(tree: Any, rows: slice) -> Any:
    if isinstance(tree, Mapping):
        return {name: _sliced(value, rows) for name, value in tree.items()}
    if _is_parts(tree):
        return [_sliced(value, rows) for value in tree]
    return None if tree is None else tree[rows]


def _is_parts(tree: Any) -> bool:
    """Whether a list holds parts of the batch rather than one entry per row."""
    return isinstance(tree, list | tuple) and any(isinstance(value, Tensor | Mapping) for value in tree)
