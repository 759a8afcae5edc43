"""The command line: it parses, builds a config and calls one function."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from kinfolk.cli.command import command
from kinfolk.cli.compare import add_compare_command
from kinfolk.cli.data import add_data_commands, add_graph_commands
from kinfolk.cli.runs import add_run_commands, train
from kinfolk.cli.theory import add_theory_command

# Heavy imports stand inside the commands, so that --help answers at once and doctor runs without the extras.

_DESCRIPTION = "kinfolk: contrastive representation learning with a similarity graph as the target."
_EXAMPLES = """examples:
  kinfolk train simclr-digits-moved                 train, evaluate, write a report (a minute on two cores)
  kinfolk train simclr-digits --data photos/        the same on a folder of images
  kinfolk train simclr-digits --help                every setting of that recipe
  kinfolk data inspect photos/ --sheet sheet.png    what a source holds, in numbers and in one picture
  kinfolk report runs/simclr-digits-moved           write the report again
  kinfolk compare simclr-digits supcon-digits       the same budget for each, three seeds, one table and page
  kinfolk doctor                                    what is installed, what will be used, what is missing
"""
_USER_ERRORS = (ValueError, TypeError, OSError, ImportError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after ``kinfolk``; by default those of the process.

    Returns:
        The exit code: 0 when all went well, 2 for what the user can mend (a wrong name, path or option, a missing
        extra), 1 when training diverged, 130 after an interrupt, 141 when whoever read the output left.

    Example:
        >>> main(["data", "inspect", "no-such-data"])
        2
    """
    arguments = argparse.Namespace(traceback=False)
    try:
        arguments, overrides = _parser().parse_known_args(argv, arguments)
        if overrides and arguments.command is not train:
            arguments.parser.error(f"unrecognized arguments: {' '.join(overrides)}")
        arguments.overrides = overrides
        arguments.command(arguments)
        sys.stdout.flush()
        return 0
    except SystemExit as stop:  # argparse and tyro leave this way, after printing what was wrong
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except KeyboardInterrupt:
        print(
            "interrupted; `kinfolk train ... --resume` continues a run from its last checkpoint, and the same"
            " `kinfolk compare ...` a comparison",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:  # whoever read has left, as `| head` does; the interpreter would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
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


def _doctor(arguments: argparse.Namespace) -> None:
    from kinfolk.doctor import doctor

    print(doctor())


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("kinfolk", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_run_commands(commands)
    add_compare_command(commands)
    add_data_commands(commands)
    add_graph_commands(commands)
    add_theory_command(commands)
    command(commands, "doctor", _doctor, "what is installed, which device and implementation will be used")
    return parser


class _Version(argparse.Action):
    """Prints the version; it is read only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import kinfolk

        print(f"kinfolk {kinfolk.__version__}")
        parser.exit()
