"""Class tables from groups of related classes."""

from __future__ import annotations

from collections.abc import Sequence


def similarity_table(
    classes: Sequence[str], groups: Sequence[Sequence[str]], *, related: float = 0.85, unrelated: float = 0.35
) -> tuple[tuple[float, ...], ...]:
    """Similarities between classes: 1 on the diagonal, ``related`` within a group, ``unrelated`` elsewhere.

    The values are what cosines between sentence embeddings of class names look like. Divided by a graph temperature of
    0.1, a sample of a related class weighs ``exp(-1.5) = 0.22`` of one of the same class, one of an unrelated class 0.0015.

    Args:
        classes: Names in the order of the labels.
        groups: Names that belong together; a class in no group is related to itself alone.
        related: Similarity within a group, in [unrelated, 1].
        unrelated: Similarity otherwise.

    Raises:
        ValueError: If a group names a class that does not exist, or a class stands in two groups.

    Example:
        >>> similarity_table(("coat", "shirt", "bag"), (("coat", "shirt"),))
        ((1.0, 0.85, 0.35), (0.85, 1.0, 0.35), (0.35, 0.35, 1.0))
    """
    group_of: dict[str, int] = {}
    for index, names in enumerate(groups):
        for name in names:
            if name not in classes:
                raise ValueError(f"group {index} names {name!r}, which is no class; classes are {', '.join(classes)}")
            if name in group_of:
                raise ValueError(f"{name!r} stands in two groups; each class belongs to at most one")
            group_of[name] = index

    def similarity(a: str, b: str) -> float:
        if a == b:
            return 1.0
        return related if a in group_of and group_of[a] == group_of.get(b) else unrelated

    return tuple(tuple(similarity(a, b) for b in classes) for a in classes)
