"""Concepts under broader concepts, and how alike two of them are: by path, or by what their broader concept says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Num

ROOT = ""


class Taxonomy:
    """Concepts with the broader concepts right above them; a concept may have several, none is above itself.

    Args:
        broader: concept -> concepts right above it. One that is only named as broader has none above.

    Raises:
        ValueError: for a concept that is above itself.

    Example:
        >>> taxonomy = Taxonomy.of_paths(["animal/dog", "animal/cat", "car"])
        >>> taxonomy.path_similarities(["animal/dog", "animal/cat", "car"])[0]
        tensor([1.0000, 0.3333, 0.2500])
    """

    def __init__(self, broader: Mapping[str, Iterable[str]]) -> None:
        self._broader = {concept: tuple(above) for concept, above in broader.items()}
        self._known: dict[str, dict[str, int]] = {}

    @classmethod
    def of_paths(cls, paths: Iterable[str]) -> Taxonomy:
        """Make a tree from paths such as ``"animal/dog/poodle"``; a concept is named by its path from the root.

        Raises:
            ValueError: for a path with an empty part.
        """
        broader: dict[str, tuple[str, ...]] = {}
        for path in paths:
            parts = path.split("/")
            if not all(part.strip() for part in parts):
                raise ValueError(f"a hierarchy path is names with / between them, none empty; found {path!r}")
            for depth in range(len(parts)):
                broader["/".join(parts[: depth + 1])] = ("/".join(parts[:depth]) or ROOT,)
        return cls(broader)

    def distances_up(self, concept: str) -> dict[str, int]:
        """Return the number of steps to the concept itself and to everything above it.

        Raises:
            ValueError: for a concept that is above itself.
        """
        if concept not in self._known:
            found, level, steps = {concept: 0}, [concept], 0
            while level:
                steps += 1
                above = {b for c in level for b in self._broader.get(c, ())}
                if concept in above:
                    raise ValueError(f"{concept!r} is above itself; a hierarchy has no circles")
                level = [b for b in sorted(above) if b not in found]
                found.update(dict.fromkeys(level, steps))
            self._known[concept] = found
        return self._known[concept]

    def path_similarities(self, concepts: Sequence[str]) -> Float[Tensor, "C C"]:
        """Return 1 / (1 + d) for all pairs, d being the steps from one up to a shared concept and down to the other.

        Concepts that share nothing have similarity 0.

        Reference: Rada, Mili, Bicknell, Blettner (1989), Development and application of a metric on semantic nets.
        """
        steps = torch.full((len(concepts), len(concepts)), torch.inf)
        for below, distances in self._members(concepts):
            through = distances[:, None] + distances
            steps[below[:, None], below] = torch.minimum(steps[below[:, None], below], through)
        return 1 / (1 + steps)

    def lin_similarities(self, concepts: Sequence[str], counts: Num[Tensor, " C"]) -> Float[Tensor, "C C"]:
        """Return 2 IC(shared) / (IC(a) + IC(b)) for all pairs, shared being the most informative concept above both.

        IC(c) = -log p(c), p(c) being the share of samples that are c or something below it. Every concept counts one
        sample more than it has, so that one without samples keeps a finite information content.

        Args:
            concepts: of the classes.
            counts: samples of every class.

        Reference: Resnik (1995), Using information content to evaluate semantic similarity in a taxonomy; Lin (1998),
        An information-theoretic definition of similarity.

        Example:
            >>> names = ["animal/dog", "animal/cat", "car"]
            >>> table = Taxonomy.of_paths(names).lin_similarities(names, torch.tensor([1, 1, 2]))
            >>> [round(float(x), 3) for x in table[0]]  # log(7 / 4) over log(7 / 2); the root says nothing
            [1.0, 0.447, 0.0]
        """
        weights = counts.to(torch.float64) + 1
        shared = torch.zeros(len(concepts), len(concepts), dtype=torch.float64)
        for below, _ in self._members(concepts):
            content = -(weights[below].sum() / weights.sum()).log()
            shared[below[:, None], below] = shared[below[:, None], below].clamp(min=float(content))
        own = shared.diagonal()
        total = own[:, None] + own
        table = torch.where(total > 0, 2 * shared / total.clamp(min=1e-300), 0.0)
        return table.fill_diagonal_(1.0).to(torch.float32)

    def _members(self, concepts: Sequence[str]) -> Iterable[tuple[Tensor, Tensor]]:
        """Every concept's classes, itself among them, and their steps up to it."""
        members: dict[str, tuple[list[int], list[int]]] = {}
        for place, concept in enumerate(concepts):
            for above, steps in self.distances_up(concept).items():
                places, distances = members.setdefault(above, ([], []))
                places.append(place)
                distances.append(steps)
        for places, distances in members.values():
            yield torch.tensor(places), torch.tensor(distances, dtype=torch.float32)
