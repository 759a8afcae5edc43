"""The model card of a run: what was trained, on what, how well it does, and how to load it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kinfolk.data import Splits
from kinfolk.evals import Record, markdown_table
from kinfolk.train.config import TrainConfig, to_yaml
from kinfolk.train.files import write_text
from kinfolk.train.runs import EncoderFile, Run


def write_card(
    run: Run,
    config: TrainConfig,
    splits: Splits,
    description: EncoderFile,
    *,
    records: Sequence[Record],
    notes: Sequence[str],
    facts: dict[str, Any],
) -> None:
    """Write the run's ``README.md``.

    Args:
        run: The run.
        config: Its config.
        splits: What it was trained and evaluated on.
        description: The exported encoder.
        records: The evaluation.
        notes: What the evaluation left out.
        facts: Device, precision, versions and training time.
    """
    height, width = description.image_size
    seen = "no labels" if description.labels_used == "none" else "all training labels"
    lines = [
        f"# {config.name}",
        "",
        f"An encoder ({description.encoder.kind}) from {description.channels}x{height}x{width} images in [0, 1] to"
        f" {description.feature_dim} features, trained with {description.method} on {len(splits.train)} images of"
        f" {splits.train.name}. Pretraining saw {seen}.",
        "",
        "```python",
        "import kinfolk",
        "",
        f"encoder = kinfolk.load_encoder({str(run.folder)!r})  # eval mode",
        f"features = encoder(images)  # float [b, {description.channels}, {height}, {width}] in [0, 1]",
        "```",
        "",
        "## Evaluation",
        "",
        f"{len(splits.test)} test images; the encoder is frozen and every column stands under the same protocol.",
        "",
        markdown_table(records, notes=notes),
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
