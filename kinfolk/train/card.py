"""The model card of a run: what was trained, on what, how well it does, and how to load it."""

from __future__ import annotations

from typing import Any

from kinfolk.data import Splits
from kinfolk.data.sources.table import is_table
from kinfolk.evals import Evaluation, markdown_table
from kinfolk.train.config import TrainConfig, to_yaml
from kinfolk.train.files import write_text
from kinfolk.train.runs import EncoderFile, Run


def write_card(
    run: Run,
    config: TrainConfig,
    splits: Splits,
    description: EncoderFile,
    *,
    evaluation: Evaluation,
    facts: dict[str, Any],
) -> None:
    """Write the run's ``README.md``.

    Args:
        run: The run.
        config: Its config.
        splits: What it was trained and evaluated on.
        description: The exported encoder.
        evaluation: What was measured, and what was left out.
        facts: Device, precision, versions and training time.
    """
    height, width = description.image_size
    table = is_table(splits.train)
    things, span = ("rows", "") if table else ("images", " in [0, 1]")
    size = f"{description.channels}x{height}x{width}"
    shape = f"rows of {description.channels} features" if table else f"{size} images in [0, 1]"
    seen = "no labels" if description.labels_used == "none" else "all training labels"
    lines = [
        f"# {config.name}",
        "",
        f"An encoder ({description.encoder.kind}) from {shape} to {description.feature_dim} features, trained with"
        f" {description.method} on {len(splits.train)} {things} of"
        f" {splits.train.name}. Pretraining saw {seen}.",
        "",
        "```python",
        "import kinfolk",
        "",
        f"encoder = kinfolk.load_encoder({str(run.folder)!r})  # eval mode",
        f"features = encoder({things})  # float [b, {description.channels}, {height}, {width}]{span}",
        "```",
        "",
        "## Evaluation",
        "",
        f"{len(splits.test)} test {things}; the encoder is frozen and every column stands under the same protocol.",
        "",
        markdown_table(evaluation.records, notes=evaluation.notes),
        "",
        "## Training",
        "",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items()),
        "",
        "```yaml",
        to_yaml(config).rstrip(),
        "```",
        "",
    ]
    write_text(run.card_file, "\n".join(lines))
