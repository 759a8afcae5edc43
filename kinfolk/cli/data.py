"""Commands about data: prepare, inspect, shard, saliency; and about graphs: inspect."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kinfolk.cli.command import DATA_HELP, command


def add_data_commands(commands: Any) -> None:
    """Add ``data prepare``, ``data inspect``, ``data shard`` and ``data saliency``."""
    group = command(commands, "data", None, "prepare, inspect, or rewrite data")
    kinds = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    prepare = command(kinds, "prepare", _prepare, "fetch a data set and bring it into the form that training reads")
    prepare.add_argument("name", metavar="NAME", help="fashion-mnist")
    prepare.add_argument("--out", metavar="DIR", help="where it goes (default: .data/NAME, where training looks)")

    inspect = command(kinds, "inspect", _inspect, "say what a source holds")
    inspect.add_argument("source", metavar="SOURCE", help=DATA_HELP)


def add_graph_commands(commands: Any) -> None:
    """Add ``graph inspect``."""


def _prepare(arguments: argparse.Namespace) -> None:
    from kinfolk.data import prepare

    try:
        print(prepare(arguments.name, arguments.out or Path(".data") / arguments.name))
    except RuntimeError as error:  # a client or the network is missing, which the user can mend
        raise OSError(str(error)) from error


def _inspect(arguments: argparse.Namespace) -> None:
    from kinfolk.data import format_inspection, inspect_source
    from kinfolk.recipes import source_config

    print(format_inspection(inspect_source(source_config(arguments.source).load())))
