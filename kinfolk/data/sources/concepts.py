"""Classes and hold-outs over concepts, for data in which several pictures show the same thing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import torch

from kinfolk.data.sources.hold_out import hold_out


def merge_small_classes(
    classes: Sequence[str], *, within: Sequence[str], concepts: Sequence[str], least: int
) -> list[str]:
    """Join classes of few concepts: in each category the smallest with the next smallest, until none is too small.

    A category with too few concepts becomes one class. Equal sizes go by name, so the result depends on neither order
    nor chance; a joined class is named after its parts, ``"animal-amphibian + animal-reptile"``.

    Args:
        classes: each sample's class.
        within: each sample's category; classes of two categories are never joined.
        concepts: what each sample shows; a class is as large as the number of its concepts.
        least: fewest concepts of a class.

    Returns:
        Each sample's class after joining.

    Example:
        >>> merge_small_classes(["ant", "bee", "cat"], within=["animal"] * 3, concepts=["a", "b", "c"], least=2)
        ['ant + bee + cat', 'ant + bee + cat', 'ant + bee + cat']
    """
    members: dict[str, dict[tuple[str, ...], set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, category, concept in zip(classes, within, concepts, strict=True):
        members[category][(name,)].add(concept)
    joined: dict[tuple[str, str], str] = {}
    for category, found in members.items():
        while len(found) > 1:
            small, next_small = sorted(found, key=lambda names: (len(found[names]), names))[:2]
            if len(found[small]) >= least:
                break
            found[tuple(sorted(small + next_small))] = found.pop(small) | found.pop(next_small)
        joined.update({(category, name): " + ".join(names) for names in found for name in names})
    return [joined[category, name] for name, category in zip(classes, within, strict=True)]


def hold_out_concepts(
    concepts: Sequence[str],
    *,
    strata: Sequence[Hashable],
    fraction: float,
    seed: int,
    alike: Sequence[Hashable] | None = None,
) -> set[str]:
    """Choose the concepts of the test part, a seeded share of every stratum.

    Args:
        concepts: what each sample shows.
        strata: each sample's class; a concept counts where its first sample stands.
        fraction: share of each stratum's concepts, in [0, 1); see `hold_out`.
        seed: which hold-out.
        alike: concepts that share an entry, such as the hash of one picture, go to the same part.

    Returns:
        The names of the held-out concepts.

    Example:
        >>> held = hold_out_concepts(list("aabbcc"), strata=[0] * 6, fraction=0.34, seed=0)
        >>> len(held)
        1
    """
    first: dict[str, int] = {}
    for i, concept in enumerate(concepts):
        first.setdefault(concept, i)
    names = list(first)
    stratum_number = {name: i for i, name in enumerate(dict.fromkeys(strata))}
    _, held = hold_out(
        len(names),
        fraction=fraction,
        seed=seed,
        labels=torch.tensor([stratum_number[strata[i]] for i in first.values()], dtype=torch.int64),
        groups=None if alike is None else _components(concepts, names, alike),
    )
    return {names[i] for i in held.tolist()}


def _components(concepts: Sequence[str], names: Sequence[str], alike: Sequence[Hashable]) -> list[str]:
    """One representative per concept, the same for concepts that are linked through what they share."""
    parent = {name: name for name in names}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    owner: dict[Hashable, str] = {}
    for concept, shared in zip(concepts, alike, strict=True):
        parent[root(concept)] = root(owner.setdefault(shared, concept))
    return [root(name) for name in names]
