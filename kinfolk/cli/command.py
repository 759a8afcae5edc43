"""How a command is added to the parser."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

DATA_HELP = (
    "a data set's name (digits, fashion-mnist, emoji, icons, ...), a folder of images, of tar shards, of Parquet, IDX,"
    " CIFAR or STL-10 files, an .npz, .csv, .parquet or .arrow file, or hf:NAME"
)


def command(
    commands: Any,
    name: str,
    function: Callable[[argparse.Namespace], None] | None,
    purpose: str,
    *,
    add_help: bool = True,
) -> argparse.ArgumentParser:
    """Add a command, or a group of commands where there is no function, and return its parser."""
    parser = commands.add_parser(
        name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.", allow_abbrev=False, add_help=add_help
    )
    parser.set_defaults(command=function, parser=parser)
    if function is not None:
        parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    return parser
