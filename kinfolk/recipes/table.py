"""Rows of a table of your own: a CSV, Parquet, .npz or .npy file that ``--data`` names.

Views replace features of a row by those of other rows; a multilayer perceptron is trained. Seconds for a thousand rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kinfolk.data import TableConfig, TableViewsConfig
from kinfolk.evals import KNN, EvaluationConfig
from kinfolk.methods import (
    RenyiCLConfig,
    SimCLRConfig,
    SupConConfig,
)
from kinfolk.nn import MLPConfig
from kinfolk.train import AdamWConfig, MethodConfig, TrainConfig

NO_FILE = "your-table.csv"
"""Stands where ``--data`` has to name a file."""


def simclr() -> TrainConfig:
    """SimCLR on corrupted rows, no labels."""
    return _table(SimCLRConfig(temperature=0.2))


def supcon() -> TrainConfig:
    """SupCon with all labels, whose column ``--source.label`` names."""
    return _table(SupConConfig(temperature=0.1))


def renyi_cl() -> TrainConfig:
    """RenyiCL on rows corrupted twice as strongly, no labels."""
    return replace(_table(RenyiCLConfig()), views=TableViewsConfig(corruption=0.6))


def _table(method: MethodConfig) -> TrainConfig:
    return TrainConfig(
        name=f"{method.kind}-table",
        source=TableConfig(path=NO_FILE),
        views=TableViewsConfig(corruption=0.3),
        encoder=MLPConfig(),
        method=method,
        optimizer=AdamWConfig(learning_rate=1e-3),
        evaluation=EvaluationConfig(knn=KNN(k=20)),
        batch_size=128,
        epochs=60,
        checkpoint_every_epochs=20,
    )


METHODS: dict[str, Callable[..., TrainConfig]] = {
    "simclr": simclr,
    "supcon": supcon,
    "renyi-cl": renyi_cl,
}
"""The recipes of this file by the name of their method."""
