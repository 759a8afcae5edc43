"""The command that compares methods."""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinfolk.cli.command import DATA_HELP, command

if TYPE_CHECKING:
    from kinfolk.compare import ComparisonConfig

_EPILOG = """examples:
  kinfolk compare simclr-digits supcon-digits xclr-digits --views 60000
  kinfolk compare simclr-fashion-mnist 'dcl=simclr-fashion-mnist method.decoupled=true' \\
      --vary batch_size 32 64 128 256 512 --views 122880 --out comparisons/dcl
  kinfolk compare simclr-fashion-mnist cacr-fashion-mnist --vary derived none 'imbalanced rule=exponential' \\
      --views 240000 --jobs 2 --dry-run
The same command again runs what is missing; more seeds, contenders or values add to what is there."""


def add_compare_command(commands: Any) -> None:
    """Add compare."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = command(commands, "compare", _compare, "compare methods over seeds and settings at one budget")
    parser.formatter_class, parser.epilog = raw, _EPILOG
    parser.add_argument(
        "contenders",
        metavar="[NAME=]RECIPE",
        nargs="*",
        help="a recipe, config.yaml or run's folder; changes may follow in the same quotes, as in --set."
        " None: the comparison that lies in --out, with --seeds added to it",
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2")
    parser.add_argument("--views", type=int, metavar="N", help="image views of every run (default: as the recipes say)")
    parser.add_argument(
        "--vary",
        nargs="+",
        metavar=("FIELD", "VALUE"),
        help="repeat everything for each value of a field, e.g. batch_size 32 64, or derived none 'imbalanced'",
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of all")
    parser.add_argument("--data", metavar="DATA", help=f"other data for all: {DATA_HELP}")
    parser.add_argument("--derive", action="append", default=[], metavar="'KIND NAME=VALUE ...'", help="as for train")
    parser.add_argument("--baseline", metavar="NAME", help="what others are compared with (default: the first)")
    parser.add_argument("--name", help="title of the page (default: the folder's name)")
    parser.add_argument("--out", metavar="DIR", help="the comparison's folder (default: comparisons/NAMES)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1; 0: in this process)")
    parser.add_argument("--smoke", action="store_true", help="shrink everything to seconds")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan and the expected time, and train nothing"
    )


def _compare(arguments: argparse.Namespace) -> None:
    from kinfolk.compare import compare, describe_plan
    from kinfolk.distributed import rank

    config, folder = _config(arguments)
    if arguments.jobs < 0:
        arguments.parser.error(f"--jobs must be 0 or more; found {arguments.jobs}")
    if arguments.dry_run:
        print(describe_plan(config, out=folder))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves through `finally`, which ends the workers
    found = compare(config, out=folder, jobs=arguments.jobs, command=_command_line(arguments, folder))
    if rank():  # the first process reports for all
        return
    from kinfolk.compare.table import format_comparison

    print(f"\n{format_comparison(found)}\n\npage    {folder / 'README.md'}")
    if found.failed:
        listed = "\n".join(f"  {key}: {why}" for key, why in found.failed.items())
        raise FloatingPointError(f"{len(found.failed)} runs failed and are missing from the results:\n{listed}")


def _config(arguments: argparse.Namespace) -> tuple[ComparisonConfig, Path]:
    from kinfolk.compare import ComparisonConfig, Variation, contender, read_config
    from kinfolk.recipes import smoke, with_field

    if not arguments.contenders:
        if arguments.out is None:
            arguments.parser.error("which contenders? Recipes such as simclr-digits, or --out with a comparison")
        _refuse_beside_a_folder(arguments)
        config = read_config(Path(arguments.out))
        seeds = dict.fromkeys([*config.seeds, *(arguments.seeds or ())])
        return replace(config, seeds=tuple(seeds)), Path(arguments.out)
    contenders = [contender(text) for text in arguments.contenders]
    changes = [("data", arguments.data)] if arguments.data else []
    changes += [_parted(arguments, text) for text in arguments.set] + [("derived", text) for text in arguments.derive]
    for field, text in changes:
        contenders = [replace(one, config=with_field(one.config, field, text)) for one in contenders]
    if arguments.smoke:
        contenders = [replace(one, config=smoke(one.config)) for one in contenders]
    default = Path("comparisons") / "-".join(one.name.lower().replace(" ", "-") for one in contenders)
    folder = default if arguments.out is None else Path(arguments.out)
    varied = None if arguments.vary is None else Variation(arguments.vary[0].replace("-", "_"), arguments.vary[1:])
    return (
        ComparisonConfig(
            name=arguments.name or folder.name,
            contenders=tuple(contenders),
            seeds=tuple(arguments.seeds or (0, 1, 2)),
            baseline=arguments.baseline,
            varied=varied,
            image_views=arguments.views,
        ),
        folder,
    )


def _refuse_beside_a_folder(arguments: argparse.Namespace) -> None:
    """A comparison that lies in a folder keeps its settings; only seeds can be added."""
    fixed = ("views", "vary", "set", "data", "derive", "baseline", "name", "smoke")
    if given := [f"--{name}" for name in fixed if getattr(arguments, name)]:
        arguments.parser.error(
            f"the comparison in {arguments.out} has its settings; name contenders to use {', '.join(given)}"
        )


def _parted(arguments: argparse.Namespace, text: str) -> tuple[str, str]:
    field, equals, value = text.partition("=")
    if not equals:
        arguments.parser.error(f"--set takes FIELD=VALUE; found {text!r}")
    return field, value


def _command_line(arguments: argparse.Namespace, folder: Path) -> str | None:
    """What was typed; without contenders, what was typed when the folder was made."""
    import json
    import shlex

    written = folder / "results.json"
    if not arguments.contenders and written.is_file():
        return json.loads(written.read_text(encoding="utf-8")).get("command")
    return shlex.join(["kinfolk", *sys.argv[1:]])
