"""Commands about runs: train, eval, fine-tune, embed, report."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinfolk.cli.command import DATA_HELP, command

if TYPE_CHECKING:
    from kinfolk.train import TrainConfig

_TRAIN_EPILOG = (
    """Any of a recipe's settings can follow, e.g. --seed 1 --epochs 50 --batch-size 128 --method.temperature 0.1"""
)


_PARTS = {
    "relation": "captions perplexity=15",
    "sampler": "class-balanced per_class=4",
    "encoder": "resnet18",
    "method": "supcon temperature=0.1",
    "optimizer": "sgd learning_rate=0.06",
}


def add_run_commands(commands: Any) -> None:
    """Add train, eval, fine-tune, embed and report."""
    parser = command(commands, "train", train, "train an encoder, evaluate it and write a report", add_help=False)
    recipe_help = "METHOD-DATA such as simclr-digits-moved; a config.yaml or a run's folder works too"
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help=recipe_help)
    parser.add_argument("-h", "--help", action="store_true", help="show this; after RECIPE, its settings too")
    parser.add_argument("--data", metavar="DATA", help=f"other data: {DATA_HELP}")
    parser.add_argument(
        "--derive",
        metavar="'KIND NAME=VALUE ...'",
        action="append",
        default=[],
        help="train on a version of the data, e.g. 'imbalanced rule=long-tail factor=100'; may be repeated",
    )
    for part, example in _PARTS.items():
        parser.add_argument(f"--{part}", metavar="'KIND NAME=VALUE ...'", help=f"another {part}, e.g. '{example}'")
    parser.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/NAME)")
    parser.add_argument("--smoke", action="store_true", help="shrink everything to seconds")
    parser.add_argument("--resume", action="store_true", help="continue the run exactly where it stopped")
    parser.add_argument("--overwrite", action="store_true", help="replace what the folder holds")
    parser.add_argument(
        "--init", metavar="RUN", help="start from an encoder: a run's folder, or a safetensors or torch file"
    )
    parser.add_argument("--init-partial", action="store_true", help="take what fits of it, and say what does not")
    parser.add_argument("--no-report", action="store_true", help="write no report")
    parser.epilog = _TRAIN_EPILOG

    evaluate = command(commands, "eval", _eval, "evaluate a run beside raw pixels and an untrained encoder")
    evaluate.add_argument("run", metavar="RUN", help="the run's folder")
    evaluate.add_argument("--data", metavar="DATA", help=f"other data than it was trained on: {DATA_HELP}")
    evaluate.add_argument(
        "--protocols", nargs="+", metavar="NAME", help="these instead of the run's own, e.g. knn calibration pgd"
    )
    evaluate.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="another setting, e.g. pgd.max_rows=200"
    )

    tuning = command(commands, "fine-tune", _fine_tune, "train a run's encoder further, on few and on all labels")
    tuning.add_argument("run", metavar="RUN", help="the run's folder")
    tuning.add_argument("--out", metavar="DIR", help="where the trainings go (default: RUN-fine-tuned)")
    tuning.add_argument("--fractions", type=float, nargs="+", metavar="F", help="shares of the labels, e.g. 0.01 0.1 1")
    tuning.add_argument("--seeds", type=int, nargs="+", metavar="S", help="trainings of each (default: 0)")
    tuning.add_argument("--views", type=int, metavar="N", help="image views of every training")
    tuning.add_argument("--no-scratch", action="store_true", help="leave out the same network from random weights")

    embed = command(commands, "embed", _embed, "write an encoder's features of a data set to a file")
    embed.add_argument("run", metavar="RUN", help="the run's folder")
    embed.add_argument("--data", metavar="DATA", required=True, help=DATA_HELP)
    embed.add_argument(
        "--out", metavar="FILE.npz", required=True, help="features, ids, labels; test_* for the test part"
    )

    report = command(commands, "report", _report, "write a run's pictures and page")
    report.add_argument("run", metavar="RUN", help="the run's folder")


def train(arguments: argparse.Namespace) -> None:
    """Train what a recipe, a YAML file or a run's folder names."""
    if arguments.help and arguments.recipe is None:
        from kinfolk.recipes import by_data

        arguments.parser.print_help()
        print("\nrecipes, METHOD-DATA:")
        for data, methods in by_data().items():
            print(
                textwrap.fill(
                    f"{data}: {', '.join(methods)}",
                    width=100,
                    initial_indent="  ",
                    subsequent_indent="    ",
                    break_on_hyphens=False,
                )
            )
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
        init_partial=arguments.init_partial,
    )
    if rank():  # the first process reports for all
        return
    _print_table(run.records)
    print(f"\nrun     {run.folder}")
    if not arguments.no_report:
        _report(argparse.Namespace(run=run.folder))


def _base_config(arguments: argparse.Namespace) -> TrainConfig:
    """The config that a recipe's name, a YAML file or a run's folder stands for, with --data and --smoke applied."""
    from kinfolk.recipes import RECIPES, part_config, recipe, smoke, source_config
    from kinfolk.train import load_config

    is_path = arguments.recipe not in RECIPES and (
        arguments.recipe.endswith((".yaml", ".yml")) or _is_run(arguments.recipe)
    )
    config = load_config(arguments.recipe) if is_path else recipe(arguments.recipe)
    if arguments.data is not None:
        name = f"{config.method.kind}-{Path(arguments.data).stem}"
        config = replace(config, source=source_config(arguments.data), name=name)
    for part in _PARTS:
        if getattr(arguments, part) is not None:
            config = replace(config, **{part: part_config(part, getattr(arguments, part))})
    if arguments.derive:
        config = replace(
            config, derived=(*config.derived, *(part_config("derived", text) for text in arguments.derive))
        )
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
    from kinfolk.evals import FeatureCache
    from kinfolk.train import evaluate_run

    source = None if arguments.data is None else _other_data(arguments.run, arguments.data)
    records = evaluate_run(arguments.run, source=source, evaluation=_evaluation(arguments), cache=FeatureCache())
    _print_table([record.to_dict() for record in records])


def _evaluation(arguments: argparse.Namespace) -> Any:
    """The run's evaluation with the protocols and settings of the command line; None where it names none."""
    from kinfolk.recipes import with_field
    from kinfolk.train import load_config

    changes = [text.partition("=") for text in arguments.set]
    if any(not equals for _, equals, _ in changes):
        arguments.parser.error(f"--set takes FIELD=VALUE; found {' '.join(arguments.set)!r}")
    if arguments.protocols:
        changes.append(("protocols", "=", f"[{', '.join(arguments.protocols)}]"))
    if not changes:
        return None
    config = load_config(arguments.run)
    for field, _, text in changes:
        config = with_field(config, f"evaluation.{field.replace('-', '_')}", text)
    return config.evaluation


def _fine_tune(arguments: argparse.Namespace) -> None:
    from kinfolk.evals import format_table
    from kinfolk.train import FineTuningConfig, fine_tune

    given = {"fractions": arguments.fractions, "seeds": arguments.seeds, "image_views": arguments.views}
    config = FineTuningConfig(
        from_scratch=not arguments.no_scratch, **{name: value for name, value in given.items() if value is not None}
    )
    out = Path(f"{Path(arguments.run)}-fine-tuned") if arguments.out is None else Path(arguments.out)
    print(format_table(fine_tune(arguments.run, out=out, config=config)))
    print(f"\nruns    {out}")


def _embed(arguments: argparse.Namespace) -> None:
    from kinfolk.train import embed_run

    print(embed_run(arguments.run, source=_other_data(arguments.run, arguments.data), out=arguments.out))


def _other_data(run: str, data: str) -> Any:
    from kinfolk.recipes import source_like
    from kinfolk.train import load_config

    return source_like(load_config(run).source, data)


def _report(arguments: argparse.Namespace) -> None:
    from kinfolk.report import write_report

    print(f"report  {write_report(arguments.run)}")


def _print_table(records: Sequence[dict[str, Any]]) -> None:
    from kinfolk.evals import Record, format_table

    print(format_table([Record.from_dict(record) for record in records]))
