"""The command line: it parses, builds a config and calls one function."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kinfolk.train import TrainConfig

# Heavy imports stand inside the commands, so that --help answers at once and doctor runs without the extras.

_DESCRIPTION = "kinfolk: contrastive representation learning with a similarity graph as the target."
_EXAMPLES = """examples:
  kinfolk train simclr-digits-moved                 train, evaluate, write a report (a minute on two cores)
  kinfolk train simclr-digits --data photos/        the same on a folder of images
  kinfolk train simclr-digits --help                every setting of that recipe
  kinfolk report runs/simclr-digits-moved           write the report again
  kinfolk doctor                                    what is installed, what will be used, what is missing
"""
_TRAIN_EPILOG = """recipes: simclr, moco, supcon, xclr and cacr, each with -digits, -digits-moved and -fashion-mnist.
Any of a recipe's settings can follow, e.g. --seed 1 --epochs 50 --batch-size 128 --method.temperature 0.1"""
_DATA_HELP = "digits, digits-moved, fashion-mnist, a folder of images, a folder of IDX files, or an .npz file"
_USER_ERRORS = (ValueError, TypeError, OSError, ImportError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after ``kinfolk``; by default those of the process.

    Returns:
        The exit code: 0 when all went well, 2 for what the user can mend (a wrong name, path or option, a missing
        extra), 1 when training diverged, 130 after an interrupt.

    Example:
        >>> main(["data", "inspect", "no-such-data"])
        2
    """
    arguments = argparse.Namespace(traceback=False)
    try:
        arguments, overrides = _parser().parse_known_args(argv, arguments)
        if overrides and arguments.command is not _train:
            arguments.parser.error(f"unrecognized arguments: {' '.join(overrides)}")
        arguments.overrides = overrides
        arguments.command(arguments)
        return 0
    except SystemExit as stop:  # argparse and tyro leave this way, after printing what was wrong
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except KeyboardInterrupt:
        print("interrupted; `kinfolk train ... --resume` continues a run from its last checkpoint", file=sys.stderr)
        return 130
    except FloatingPointError as error:
        print(f"kinfolk: training diverged: {error}", file=sys.stderr)
        return 1
    except _USER_ERRORS as error:
        if arguments.traceback:
            raise
        print(f"kinfolk: error: {_explain(error)}", file=sys.stderr)
        return 2


def _explain(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name is not None and not error.name.startswith("kinfolk"):
        return f'this command needs {error.name}, which is not installed: pip install "kinfolk[train]"'
    return str(error) or type(error).__name__


def _train(arguments: argparse.Namespace) -> None:
    if arguments.help and arguments.recipe is None:
        arguments.parser.print_help()
        return
    if arguments.recipe is None:
        from kinfolk.recipes import RECIPES

        arguments.parser.error(f"which recipe? One of {', '.join(RECIPES)}, a config.yaml, or a run's folder")
    config = _overridden(_base_config(arguments), arguments)
    from kinfolk.distributed import rank
    from kinfolk.train import fit

    run = fit(
        config,
        out=_out(arguments, config),
        overwrite=arguments.overwrite,
        resume=arguments.resume,
        init=arguments.init,
    )
    if rank():  # the first process reports for all
        return
    _print_table(run.records)
    print(f"\nrun     {run.folder}")
    if not arguments.no_report:
        _report(argparse.Namespace(run=run.folder))


def _base_config(arguments: argparse.Namespace) -> TrainConfig:
    """The config that a recipe's name, a YAML file or a run's folder stands for, with --data and --smoke applied."""
    from kinfolk.recipes import RECIPES, recipe, smoke, source_config
    from kinfolk.train import load_config

    is_path = arguments.recipe not in RECIPES and (
        arguments.recipe.endswith((".yaml", ".yml")) or _is_run(arguments.recipe)
    )
    config = load_config(arguments.recipe) if is_path else recipe(arguments.recipe)
    if arguments.data is not None:
        name = f"{config.method.kind}-{Path(arguments.data).stem}"
        config = replace(config, source=source_config(arguments.data), name=name)
    return smoke(config) if arguments.smoke else config


def _overridden(config: TrainConfig, arguments: argparse.Namespace) -> TrainConfig:
    """Let tyro turn what is left of the command line into changed fields; with --help it prints them all and exits."""
    import tyro

    rest = [*arguments.overrides, *(["--help"] if arguments.help else [])]
    if arguments.help:
        arguments.parser.print_help()
        print(f"\nsettings of {arguments.recipe}, all of which can be given here:\n")
    return tyro.cli(
        type(config),
        default=config,
        args=rest,
        prog=f"kinfolk train {arguments.recipe}",
        description="",
        config=(tyro.conf.AvoidSubcommands,),
    )


def _out(arguments: argparse.Namespace, config: TrainConfig) -> Path:
    if arguments.out is not None:
        return Path(arguments.out)
    return Path(arguments.recipe) if arguments.resume and _is_run(arguments.recipe) else Path("runs") / config.name


def _is_run(path: str) -> bool:
    return (Path(path) / "config.yaml").is_file()


def _eval(arguments: argparse.Namespace) -> None:
    from kinfolk.recipes import source_config
    from kinfolk.train import evaluate_run

    source = None if arguments.data is None else source_config(arguments.data)
    _print_table([record.to_dict() for record in evaluate_run(arguments.run, source=source)])


def _embed(arguments: argparse.Namespace) -> None:
    from kinfolk.recipes import source_config
    from kinfolk.train import embed_run

    print(embed_run(arguments.run, source=source_config(arguments.data), out=arguments.out))


def _report(arguments: argparse.Namespace) -> None:
    from kinfolk.report import write_report

    print(f"report  {write_report(arguments.run)}")


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


def _doctor(arguments: argparse.Namespace) -> None:
    from kinfolk.doctor import doctor

    print(doctor())


def _print_table(records: Sequence[dict[str, Any]]) -> None:
    from kinfolk.evals import Record, format_table

    print(format_table([Record.from_dict(record) for record in records]))


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("kinfolk", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = _command(commands, "train", _train, "train an encoder, evaluate it and write a report", add_help=False)
    recipe_help = "METHOD-DATA such as simclr-digits-moved; a config.yaml or a run's folder works too"
    train.add_argument("recipe", metavar="RECIPE", nargs="?", help=recipe_help)
    train.add_argument("-h", "--help", action="store_true", help="show this; after RECIPE, its settings too")
    train.add_argument("--data", metavar="DATA", help=f"other data: {_DATA_HELP}")
    train.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/NAME)")
    train.add_argument("--smoke", action="store_true", help="shrink everything to seconds")
    train.add_argument("--resume", action="store_true", help="continue the run exactly where it stopped")
    train.add_argument("--overwrite", action="store_true", help="replace what the folder holds")
    train.add_argument("--init", metavar="RUN", help="start from the encoder of another run")
    train.add_argument("--no-report", action="store_true", help="write no report")
    train.epilog = _TRAIN_EPILOG

    evaluate = _command(commands, "eval", _eval, "evaluate a run beside raw pixels and an untrained encoder")
    evaluate.add_argument("run", metavar="RUN", help="the run's folder")
    evaluate.add_argument("--data", metavar="DATA", help=f"other data than it was trained on: {_DATA_HELP}")

    embed = _command(commands, "embed", _embed, "write an encoder's features of a data set to a file")
    embed.add_argument("run", metavar="RUN", help="the run's folder")
    embed.add_argument("--data", metavar="DATA", required=True, help=_DATA_HELP)
    embed.add_argument(
        "--out", metavar="FILE.npz", required=True, help="features, ids, labels; test_* for the test part"
    )

    report = _command(commands, "report", _report, "write a run's pictures and page")
    report.add_argument("run", metavar="RUN", help="the run's folder")

    data = _command(commands, "data", None, "prepare or inspect data")
    kinds = data.add_subparsers(title="commands", metavar="COMMAND", required=True)
    prepare = _command(kinds, "prepare", _prepare, "fetch a data set and bring it into the form that training reads")
    prepare.add_argument("name", metavar="NAME", help="fashion-mnist")
    prepare.add_argument("--out", metavar="DIR", help="where it goes (default: .data/NAME, where training looks)")
    inspect = _command(kinds, "inspect", _inspect, "say what a source holds")
    inspect.add_argument("source", metavar="SOURCE", help=_DATA_HELP)

    _command(commands, "doctor", _doctor, "what is installed, which device and implementation will be used")
    return parser


def _command(
    commands: Any,
    name: str,
    command: Callable[[argparse.Namespace], None] | None,
    purpose: str,
    *,
    add_help: bool = True,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.", allow_abbrev=False, add_help=add_help
    )
    parser.set_defaults(command=command, parser=parser)
    if command is not None:
        parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    return parser


class _Version(argparse.Action):
    """Prints the version; it is read only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import kinfolk

        print(f"kinfolk {kinfolk.__version__}")
        parser.exit()


if __name__ == "__main__":
    raise SystemExit(main())
