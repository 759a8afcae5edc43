"""Draw docs/methods/*.png: what flows where in every method, one picture each.

Usage: python docs/pictures/method_flows.py [FOLDER]

A flow is text, one chain a line: ``->`` carries a gradient, ``~>`` does not, ``.>`` happens after the step. A name that
stands in several chains is one box; a line that names new boxes opens a row.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from kinfolk.report.style import ACCENT, INK, MUTED, RIGHT

FOLDER = Path(__file__).parents[1] / "methods"
_ARROW = re.compile(r"\s*(->|~>|\.>)\s*")
_STYLES = {"->": ("-", INK), "~>": ("--", MUTED), ".>": (":", RIGHT)}
_BOX = (1.5, 0.56)  # width and height; a column is 2 wide, a row 1 high


@dataclass
class Flow:
    """Boxes by name with their column and row, and arrows between them."""

    places: dict[str, tuple[float, float]] = field(default_factory=dict)
    arrows: list[tuple[str, str, str]] = field(default_factory=list)

    @classmethod
    def read(cls, text: str) -> Flow:
        """Read a flow from its text.

        Raises:
            ValueError: for a line that is no chain.
        """
        flow = cls()
        for line in filter(None, map(str.strip, text.splitlines())):
            first, *rest = _ARROW.split(line)
            if not rest:
                raise ValueError(f"a flow's line is a chain such as 'view 1 -> encoder'; found {line!r}")
            names = [first, *rest[1::2]]
            flow._place(names)
            flow.arrows += list(zip(names[:-1], rest[::2], names[1:], strict=True))
        flow._centre_sinks()
        return flow

    def _place(self, names: list[str]) -> None:
        """Give the new boxes of a chain the highest row where they have room."""
        columns: dict[str, int] = {}
        column, least = -1, 0
        for before, name in zip([None, *names], names, strict=False):
            if name in self.places:
                column = int(self.places[name][0])
            else:
                known = self.places.get(before or "")
                if known is not None:
                    least = max(least, int(known[1]) + 1)
                # Beneath the box before where that is in another row; what begins at the left goes on to the right.
                column += 1 if known is None or known[0] == 0 else 0
                columns[name] = column
        taken = set(self.places.values())
        row = next(row for row in range(least, 99) if not {(c, row) for c in columns.values()} & taken)
        self.places |= {name: (column, row) for name, column in columns.items()}

    def _centre_sinks(self) -> None:
        """Put what nothing leaves (the loss) in a column of its own, at the height of what enters."""
        leaving = {a for a, _, _ in self.arrows}
        last = max(column for column, _ in self.places.values())
        for name in self.places.keys() - leaving:
            entering = [a for a, _, b in self.arrows if b == name]
            if len(entering) > 1:
                rows = [self.places[a][1] for a in entering]
                column = max(last, 1 + max(self.places[a][0] for a in entering))
                self.places[name] = (column, sum(rows) / len(rows))

    def draw(self, path: Path) -> Path:
        """Draw the flow into a PNG file."""
        columns = 1 + max(column for column, _ in self.places.values())
        rows = 1 + max(row for _, row in self.places.values())
        figure = Figure(figsize=(1.42 * columns, 0.72 * rows + 0.42))
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set(xlim=(-0.9, 2 * columns - 1.1), ylim=(rows - 0.02, -0.5))
        axis.axis("off")
        leaving = {a for a, _, _ in self.arrows}
        for name, (column, row) in self.places.items():
            loss, held = name not in leaving, any(word in name for word in ("EMA", "queue", "bank", "clusters"))
            axis.add_patch(
                FancyBboxPatch(
                    (2 * column - _BOX[0] / 2, row - _BOX[1] / 2), *_BOX, boxstyle="round,pad=0,rounding_size=0.12",
                    facecolor=ACCENT if loss else "#eef3f8" if held else "white",
                    edgecolor=ACCENT if loss else RIGHT if held else MUTED, linewidth=1,
                )
            )  # fmt: skip
            axis.text(2 * column, row, name, ha="center", va="center", fontsize=7.5, color="white" if loss else INK)
        for a, kind, b in self.arrows:
            self._draw_arrow(axis, a, kind, b)
        for x, (kind, words) in zip(
            (-0.75, 1.0, 2.75), {"->": "with gradient", "~>": "without", ".>": "after the step"}.items(), strict=True
        ):
            line, colour = _STYLES[kind]
            axis.plot([x, x + 0.5], [rows - 0.2] * 2, linestyle=line, color=colour, linewidth=1.1)
            axis.text(x + 0.6, rows - 0.2, words, va="center", fontsize=6.5, color=MUTED)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160, facecolor="white", metadata={"Software": None})
        return path

    def _draw_arrow(self, axis: object, a: str, kind: str, b: str) -> None:
        (c0, r0), (c1, r1) = self.places[a], self.places[b]
        x0, x1 = 2 * c0, 2 * c1
        if c1 > c0:
            start, end = (x0 + _BOX[0] / 2, r0), (x1 - _BOX[0] / 2, r1)
        elif c1 < c0:
            start, end = (x0 - _BOX[0] / 2, r0), (x1 + _BOX[0] / 2, r1)
        elif abs(r1 - r0) > 1:  # around the boxes between
            start, end = (x0 + _BOX[0] / 2, r0 + 0.1), (x1 + _BOX[0] / 2, r1 - 0.1)
        else:
            sign = 1 if r1 > r0 else -1
            start, end = (x0, r0 + sign * _BOX[1] / 2), (x1, r1 - sign * _BOX[1] / 2)
        line, colour = _STYLES[kind]
        bow = 0.22 if abs(c1 - c0) > 1 and r0 == r1 else -0.35 if c0 == c1 and abs(r1 - r0) > 1 else 0.0
        axis.add_patch(  # type: ignore[attr-defined]
            FancyArrowPatch(
                start, end, arrowstyle="-|>", mutation_scale=8, linestyle=line, color=colour, linewidth=1.1,
                connectionstyle=f"arc3,rad={bow}", shrinkA=0, shrinkB=0,
            )
        )  # fmt: skip


FLOWS = {
    "simclr": """
        view 1 -> encoder -> head -> NT-Xent
        view 2 -> encoder
    """,
    "supcon": """
        view 1 -> encoder -> head -> SupCon
        view 2 -> encoder
        labels ~> SupCon
    """,
    "excon": """
        masked view -> encoder -> head -> SupCon -> loss
        view 1 -> encoder
        labels ~> cross-entropy -> loss
        encoder ~> explainer -> cross-entropy
        explainer ~> masked view
        labels ~> SupCon
    """,
    "clip": """
        image -> encoder -> head -> CLIP or SigLIP
        caption -> text tower -> text head -> CLIP or SigLIP
        captions' similarity ~> CLIP or SigLIP
    """,
    "esupcon": """
        view 1 -> encoder -> head -> ESupCon
        view 2 -> encoder
        labels ~> ESupCon
        prototypes -> ESupCon
    """,
    "eps-sup": """
        view 1 -> encoder -> head -> eps-SupInfoNCE -> loss
        view 2 -> encoder
        encoder -> FairKL -> loss
        bias labels ~> FairKL
        labels ~> FairKL
        labels ~> eps-SupInfoNCE
    """,
    "opencon": """
        view 1 -> encoder -> head -> contrast -> loss
        view 2 -> encoder
        head -> cosines -> prior -> loss
        cosines ~> guess, novelty ~> contrast
        prototypes ~> cosines
        labels ~> guess, novelty
        guess, novelty .> prototypes
    """,
    "rescom": """
        view 1 -> encoder -> head -> ResCom -> loss
        view 2 -> encoder
        encoder -> classifier -> balanced softmax -> loss
        head .> class queue ~> ResCom
        labels ~> class queue
    """,
    "paco": """
        view 1 -> encoder -> head -> queries -> PaCo
        encoder -> class centres -> PaCo
        view 2 ~> EMA encoder ~> EMA head ~> keys ~> PaCo
        keys .> queue ~> PaCo
        encoder .> EMA encoder
        head .> EMA head
    """,
    "gpaco": """
        view 1 -> encoder -> head -> GPaCo
        view 2 -> encoder
        encoder -> class centres -> logits -> GPaCo
        head .> queue ~> GPaCo
        labels ~> GPaCo
    """,
    "xclr": """
        view 1 -> encoder -> head -> X-CLR
        view 2 -> encoder
        captions, labels ~> relation ~> graph ~> X-CLR
    """,
    "cacr": """
        view 1 -> encoder -> far positives -> CACR
        views 2 to 5 -> encoder -> near negatives -> CACR
    """,
    "moco": """
        view 1 -> encoder -> head -> queries -> InfoNCE
        view 2 ~> EMA encoder ~> EMA head ~> keys ~> InfoNCE
        keys .> queue ~> InfoNCE
        encoder .> EMA encoder
        head .> EMA head
    """,
    "cmc": """
        lightness -> encoder 1 -> head 1 -> CMC
        colours -> encoder 2 -> head 2 -> CMC
    """,
    "mochi": """
        view 1 -> encoder -> head -> queries -> InfoNCE
        view 2 ~> EMA encoder ~> EMA head ~> keys ~> InfoNCE
        keys .> queue ~> hardest keys ~> mixed keys ~> InfoNCE
        queue ~> InfoNCE
        queries ~> mixed keys
        encoder .> EMA encoder
        head .> EMA head
    """,
    "fnc": """
        view 1 -> encoder -> head -> FNC
        view 2 -> encoder
        support view ~> encoder
        head ~> similarities ~> false negatives ~> FNC
    """,
    "ifnd": """
        view 1 -> encoder -> head -> queries -> InfoNCE
        view 2 ~> EMA encoder ~> EMA head ~> keys ~> InfoNCE
        keys .> queue ~> InfoNCE
        all images .> EMA encoder
        EMA encoder .> clusters .> pseudo-labels .> queue
        encoder .> EMA encoder
        head .> EMA head
    """,
    "inter-clr": """
        view 1 -> encoder -> head -> queries -> InterCLR
        view 2 ~> EMA encoder ~> EMA head ~> keys ~> InterCLR
        keys .> queue ~> InterCLR
        keys .> bank ~> clusters ~> neighbours ~> InterCLR
        encoder .> EMA encoder
        head .> EMA head
    """,
    "sce": """
        strong view -> encoder -> head -> online -> SCE
        weak view ~> EMA encoder ~> EMA head ~> target ~> SCE
        target .> queue ~> SCE
        encoder .> EMA encoder
        head .> EMA head
    """,
    "nnclr": """
        view 1 -> encoder -> head -> predictor -> NNCLR
        view 2 -> encoder
        head ~> projections ~> nearest in queue ~> NNCLR
        projections .> queue ~> nearest in queue
    """,
    "relic": """
        large crops -> encoder -> head -> predictor -> ReLIC
        small crops -> encoder
        large crops ~> EMA encoder ~> EMA head ~> targets ~> ReLIC
        encoder .> EMA encoder
        head .> EMA head
    """,
    "renyi-cl": """
        hard views -> encoder -> head -> predictor -> RényiCL
        small crops -> encoder
        hard views ~> EMA encoder ~> EMA head ~> keys ~> RényiCL
        encoder .> EMA encoder
        head .> EMA head
    """,
    "bregman": """
        view 1 -> encoder -> head -> Bregman
        view 2 -> encoder
        head -> networks -> winners -> Bregman
    """,
    "adversarial": """
        view 1 -> encoder -> head -> NT-Xent
        view 2 -> encoder
        view 1 ~> PGD ~> attacked view -> encoder
    """,
    "cross-entropy": """
        view 1 -> encoder -> classifier -> loss
        view 2 -> encoder
        encoder -> head -> loss
        labels ~> loss
    """,
    "unicon": """
        views -> encoder -> head -> rows -> UniCon
        partners ~> mixtures -> encoder
        views ~> mixtures
        head -> universum -> UniCon
        labels ~> partners
        labels ~> UniCon
    """,
    "fine-tune": """
        image -> encoder -> linear classifier -> cross-entropy
        labels ~> cross-entropy
    """,
}


def main(folder: Path) -> None:
    """Draw all of them."""
    for name, text in FLOWS.items():
        print(Flow.read(text).draw(folder / f"{name}.png"))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
