"""Command line of the benchmarks: ``python -m benchmarks NAME``, one command each."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import attention, gpu, gradients, losses, scaling, towers
from benchmarks.inputs import LOSSES
from benchmarks.page import publish
from benchmarks.table import Row

ROOT = Path(__file__).parents[1]


def main(arguments: list[str] | None = None) -> None:
    """Parse the options, run one benchmark, and write the documentation where asked."""
    options = _parser().parse_args(arguments)
    if options.name == "docs":
        for table in options.tables:
            print(f"{table} -> {publish(table, ROOT / 'docs')}")
        return
    if options.name == "gpu":
        raise SystemExit(gpu.run(options.out, budget=options.budget, smoke=options.smoke, folder=options.peers))
    if options.threads:
        torch.set_num_threads(options.threads)
    out = options.out or ROOT / "runs" / "benchmarks" / f"{options.name}.csv"
    rows = _RUN[options.name](options, out)
    print(f"{len(rows)} rows in {out}")
    if options.docs:
        print(f"documentation: {publish(out, ROOT / 'docs')}")


def _losses(options: argparse.Namespace, out: Path) -> list[Row]:
    settings = losses.Settings() if options.device == "cpu" else gpu.LOSSES_SETTINGS
    settings = losses.smoke() if options.smoke else settings
    if options.rows:
        settings = replace(settings, sizes=tuple((rows, d) for d in options.d for rows in options.rows))
    given = {"losses": options.losses, "only": options.only, "repeats": options.repeats, "folder": options.peers}
    given |= {"limit": options.limit, "side_width": options.e}
    return losses.measure(replace(settings, **_given(given)), out)


def _scaling(options: argparse.Namespace, out: Path) -> list[Row]:
    settings = scaling.Settings() if options.device == "cpu" else gpu.SCALING_SETTINGS
    settings = scaling.smoke() if options.smoke else settings
    given = {"sizes": options.rows, "loss": options.loss, "names": options.only, "d": options.width}
    return scaling.measure(replace(settings, **_given(given)), out)


def _towers(options: argparse.Namespace, out: Path) -> list[Row]:
    settings = towers.smoke() if options.smoke else towers.Settings()
    return towers.measure(replace(settings, **_given({"sizes": options.rows, "names": options.only})), out)


def _gradients(options: argparse.Namespace, out: Path) -> list[Row]:
    settings = gradients.smoke() if options.smoke else gradients.Settings()
    given = {"folder": options.peers, "limit": options.limit, "names": options.only}
    return gradients.measure(replace(settings, **_given(given)), out)


def _attention(options: argparse.Namespace, out: Path) -> list[Row]:
    settings = attention.Settings() if options.device == "cpu" else gpu.ATTENTION_SETTINGS
    return attention.measure(attention.smoke() if options.smoke else settings, out)


def _data(options: argparse.Namespace, out: Path) -> list[Row]:
    from benchmarks import data  # needs Pillow, which a machine for `gpu` may not have

    settings = data.smoke() if options.smoke else data.Settings()
    given = {"sets": options.sets, "count": options.count, "repeats": options.repeats, "folder": options.peers}
    return data.measure(replace(settings, **_given(given)), out)


_RUN = {
    "losses": _losses,
    "scaling": _scaling,
    "towers": _towers,
    "gradients": _gradients,
    "attention": _attention,
    "data": _data,
}


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if v is not None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)

    def command(name: str, help: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=help, description=help)
        found.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
        found.add_argument("--out", type=Path, help="CSV file to write; by default runs/benchmarks/NAME.csv")
        found.add_argument("--docs", action="store_true", help="then rewrite the documentation from it")
        found.add_argument("--threads", type=int, help="threads of torch on the CPU; by default all cores")
        found.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        return found

    one = command("losses", "time and memory of every loss beside others'")
    one.add_argument("--rows", type=int, nargs="+", help="rows of the contrast, 1024 4096 8192 by default")
    one.add_argument("--d", type=int, nargs="+", default=[128], help="widths at which --rows are run")
    one.add_argument("--e", type=int, help="width of X-CLR's side embedding beside d; 64 by default")
    one.add_argument("--losses", nargs="+", choices=LOSSES)
    one.add_argument("--only", nargs="+", metavar="NAME", help="contenders beside kinfolk")
    one.add_argument("--repeats", type=int)
    one.add_argument("--limit", type=float, help="seconds for a contender's first run, compilation included")
    one.add_argument("--peers", type=Path, metavar="FOLDER", help="a folder that packages were installed into")

    two = command("scaling", "time and memory of one loss against the number of rows")
    two.add_argument("--rows", type=int, nargs="+")
    two.add_argument("--width", type=int, metavar="D")
    two.add_argument("--loss", choices=LOSSES)
    two.add_argument("--only", nargs="+", metavar="NAME", help="contenders")

    towers_command = command("towers", "memory and time of a step of two towers against the batch")
    towers_command.add_argument("--rows", type=int, nargs="+", help="pairs of a batch, 256 to 32768 by default")
    towers_command.add_argument("--only", nargs="+", metavar="NAME", help="forms")

    three = command("gradients", "gradients on several ranks against one process")
    three.add_argument("--only", nargs="+", metavar="SCHEME")
    three.add_argument("--limit", type=float, help="seconds for one scheme on one batch")
    three.add_argument("--peers", type=Path, metavar="FOLDER")

    command("attention", "attraction of a kernel graph: fused, FlexAttention, scaled dot-product attention")

    data_command = command("data", "images a second from files to views and training, beside others'")
    data_command.add_argument("--sets", nargs="+", choices=("small", "photo"))
    data_command.add_argument("--count", type=int, help="image files of a pass; 2048 by default")
    data_command.add_argument("--repeats", type=int)
    data_command.add_argument("--peers", type=Path, metavar="FOLDER", help="a folder that packages were installed into")

    five = commands.add_parser("gpu", help="everything that needs a GPU, within minutes")
    five.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder for tables, pictures and the log")
    five.add_argument("--budget", type=float, default=450, help="seconds in all")
    five.add_argument("--peers", type=Path, metavar="FOLDER")
    five.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)

    six = commands.add_parser("docs", help="rewrite the documentation from tables")
    six.add_argument("tables", type=Path, nargs="+", metavar="FILE.csv")
    return parser


if __name__ == "__main__":
    main()
