"""Commands about data: prepare, inspect, shard, saliency, audit; and about graphs: inspect."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kinfolk.cli.command import DATA_HELP, command

_RELATION_HELP = "captions, class-names, labels, attributes, hierarchy, time, knn, pseudo-labels, side-embeddings"


def add_data_commands(commands: Any) -> None:
    """Add ``data prepare``, ``data inspect``, ``data shard``, ``data saliency`` and ``data audit``."""
    group = command(commands, "data", None, "prepare, inspect, or rewrite data")
    kinds = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    prepare = command(kinds, "prepare", _prepare, "fetch a data set and bring it into the form that training reads")
    prepare.add_argument("name", metavar="NAME", help="fashion-mnist, emoji, icons, textures or wordnet")
    prepare.add_argument("--out", metavar="DIR", help="where it goes (default: .data/NAME, where training looks)")
    prepare.add_argument("--only", metavar="N", type=int, help="so many concepts of emoji or icons instead of all")

    inspect = command(kinds, "inspect", _inspect, "say what a source holds")
    inspect.add_argument("source", metavar="SOURCE", help=DATA_HELP)
    inspect.add_argument("--sheet", metavar="FILE.png", help="draw a sheet of samples, a row for each class")
    _add_derive(inspect)

    shard = command(kinds, "shard", _shard, "write a source as tar shards or Parquet files")
    shard.add_argument("source", metavar="SOURCE", help=DATA_HELP)
    shard.add_argument("--out", metavar="DIR", required=True, help="a folder that is empty or not there")
    shard.add_argument("--form", choices=("tar", "parquet"), default="tar", help="default: tar")
    shard.add_argument("--max-samples", metavar="N", type=int, default=10_000, help="in a shard (default: 10000)")
    shard.add_argument(
        "--image-format",
        choices=("original", "png", "webp"),
        default="original",
        help="original passes encoded images on as they are, the others write what training would see",
    )
    _add_derive(shard)

    saliency = command(kinds, "saliency", _saliency, "find every image's foreground once and keep the masks")
    saliency.add_argument("source", metavar="SOURCE", help=DATA_HELP)
    saliency.add_argument("--out", metavar="DIR", required=True, help="where the masks go")
    saliency.add_argument("--method", default="auto", help="how; see kinfolk.data.saliency (default: auto)")
    saliency.add_argument("--overwrite", action="store_true", help="replace masks that are there")

    audit = command(kinds, "audit", _audit, "find captions that do not belong to their images, and captions alike")
    audit.add_argument("run", metavar="RUN", help="a finished run of a method with a text tower, such as CLIP")
    audit.add_argument("source", metavar="SOURCE", help=DATA_HELP)
    audit.add_argument("--out", metavar="DIR", help="where page, pictures and lists go (default: audits/RUN)")
    audit.add_argument(
        "--neighbours", metavar="N", type=int, default=10, help="look-alikes that are asked (default: 10)"
    )
    _add_derive(audit)


def add_graph_commands(commands: Any) -> None:
    """Add ``graph inspect``."""
    group = command(commands, "graph", None, "look at the graph that a relation makes of a source")
    kinds = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    inspect = command(
        kinds, "inspect", _inspect_graph, "how sharp a graph is, what it relates, which temperature suits"
    )
    inspect.add_argument("source", metavar="SOURCE", help=DATA_HELP)
    inspect.add_argument(
        "--relation", metavar="'KIND NAME=VALUE ...'", required=True, help=f"one of {_RELATION_HELP}; settings follow"
    )
    inspect.add_argument("--batch-size", metavar="N", type=int, default=256, help="of training (default: 256)")
    inspect.add_argument("--views", metavar="N", type=int, default=2, help="of a sample (default: 2)")
    inspect.add_argument("--seed", metavar="N", type=int, default=0, help="which batches are looked at (default: 0)")
    inspect.add_argument("--out", metavar="DIR", help="where page and pictures go (default: graphs/SOURCE-KIND)")
    _add_derive(inspect)


def _add_derive(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--derive",
        metavar="'KIND NAME=VALUE ...'",
        action="append",
        default=[],
        help="a version of the data, e.g. 'imbalanced rule=long-tail factor=100'; may be repeated",
    )


def _load(arguments: argparse.Namespace) -> Any:
    from kinfolk.recipes import part_config, source_config

    splits = source_config(arguments.source).load()
    for text in arguments.derive:
        splits = part_config("derived", text).apply(splits)
    return splits


def _prepare(arguments: argparse.Namespace) -> None:
    from kinfolk.data import prepare

    try:
        folder = prepare(
            arguments.name, arguments.out or Path(".data") / arguments.name, only=arguments.only, progress=print
        )
    except RuntimeError as error:  # a client or the network is missing, which the user can mend
        raise OSError(str(error)) from error
    print(folder)


def _inspect(arguments: argparse.Namespace) -> None:
    from kinfolk.data import format_inspection, inspect_source, sample_sheet

    splits = _load(arguments)
    print(format_inspection(inspect_source(splits)))
    if arguments.sheet is not None:
        print(f"sheet  {sample_sheet(splits, arguments.sheet)}")


def _audit(arguments: argparse.Namespace) -> None:
    from kinfolk.report.audit import write_audit

    out = Path(arguments.out or Path("audits") / Path(arguments.run).name)
    found = write_audit(arguments.run, _load(arguments).train, out, neighbours=arguments.neighbours)
    print(
        f"{int(found.suspected.sum())} of {len(found.suspected)} pairs are suspected, {len(found.alike)} captions alike"
    )
    print(out / "index.html")


def _shard(arguments: argparse.Namespace) -> None:
    from kinfolk.data import shard

    folder = shard(
        _load(arguments),
        arguments.out,
        form=arguments.form,
        max_samples=arguments.max_samples,
        image_format=arguments.image_format,
        progress=print,
    )
    print(folder)


def _saliency(arguments: argparse.Namespace) -> None:
    from kinfolk.data.saliency import compute_saliency
    from kinfolk.recipes import source_config

    splits = source_config(arguments.source).load()
    print(compute_saliency(splits, arguments.out, method=arguments.method, overwrite=arguments.overwrite))


def _inspect_graph(arguments: argparse.Namespace) -> None:
    from kinfolk.data import inspect_graph
    from kinfolk.data.graph_inspection_text import format_graph_inspection
    from kinfolk.recipes import part_config
    from kinfolk.report.graph_page import write_graph_page

    config = part_config("relation", arguments.relation)
    source = _load(arguments).train
    found = inspect_graph(
        source, config.build(source), batch_size=arguments.batch_size, views=arguments.views, seed=arguments.seed
    )
    print(format_graph_inspection(found))
    out = arguments.out or Path("graphs") / f"{Path(arguments.source).stem}-{config.kind}"
    print(f"page  {write_graph_page(found, source, out)}")
