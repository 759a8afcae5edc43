"""The command ``theory``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from kinfolk.cli.command import command


def add_theory_command(commands: Any) -> None:
    """Add ``theory``."""
    theory = command(commands, "theory", _theory, "measure on a linear model when contrast of two modalities works")
    theory.add_argument(
        "experiments", metavar="EXPERIMENT", nargs="*", help="subspace, descent, mismatch, unpaired (default: all)"
    )
    theory.add_argument("--out", metavar="DIR", default="theory", help="where page, pictures and tables go")
    theory.add_argument("--draws", metavar="N", type=int, help="of each setting (default: 3 to 20, by experiment)")
    theory.add_argument("--seed", metavar="N", type=int, default=0, help="of the first draw (default: 0)")


def _theory(arguments: argparse.Namespace) -> None:
    from kinfolk.report.theory import write_theory

    page = write_theory(
        arguments.out,
        only=arguments.experiments,
        draws=arguments.draws,
        seed=arguments.seed,
        progress=lambda name: print(f"measuring {name}", file=sys.stderr),
    )
    print(page)
