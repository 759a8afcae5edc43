"""Views of a table's rows: real values of their columns, the same for a row wherever it stands."""

from __future__ import annotations

import pytest
import torch

from kinfolk.data import ArraySource, ViewsConfig
from kinfolk.data.sources.table import Feature, TableSource
from kinfolk.data.views.table import TableViewMaker, TableViewsConfig, make_views

TABLE = torch.arange(50.0)[:, None] + 1000 * torch.arange(1.0, 9.0)  # 8 features whose values say where they are from
ROWS = torch.full((400, 8), -1.0)[:, :, None, None]
IDS = torch.arange(400)


def maker(table: torch.Tensor = TABLE, columns: torch.Tensor | None = None, **settings: float) -> TableViewMaker:
    return TableViewMaker(TableViewsConfig(**settings), seed=0, table=table, columns=columns)


def test_a_corrupted_feature_has_a_value_of_its_own_column_from_any_row() -> None:
    first, second = (view.flatten(1) for view in maker(corruption=0.5)(ROWS, IDS, epoch=0))
    assert torch.equal(first, ROWS.flatten(1))  # the first view stays as it is, as in SCARF
    changed = second != -1
    assert changed.sum(1).tolist() == [4] * 400
    column, donor = second.div(1000, rounding_mode="floor"), second.remainder(1000)
    assert torch.equal(column[changed], (torch.arange(8.0) + 1).expand(400, 8)[changed])
    counts = donor[changed].long().bincount(minlength=50).double()
    assert float(((counts - 32) ** 2 / 32).sum()) < 86  # 49 free, 1 in 1,000
    assert float((changed.sum(0).double() - 200).abs().max()) < 40  # every column as often
    assert len({tuple(row) for row in donor.tolist()}) > 390  # each column from a row of its own


def test_a_view_depends_on_seed_epoch_id_and_view_alone() -> None:
    make = maker(corruption=0.5, keep_first=False, masking=0.2, noise=0.1)
    whole = make(ROWS, IDS, epoch=1)
    some = make(ROWS[:3], IDS[[7, 300, 2]], epoch=1)
    for view in range(2):
        assert torch.equal(some[view], whole[view][[7, 300, 2]])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole[1], make(ROWS, IDS, epoch=2)[1])
    other = TableViewMaker(make.config, seed=1, table=TABLE)
    assert not torch.equal(whole[1], other(ROWS, IDS, epoch=1)[1])


def test_masked_columns_have_the_training_mean_and_noise_its_deviation() -> None:
    masked = maker(corruption=0, masking=0.25)(ROWS, IDS, epoch=0)[0]
    assert abs(float((masked == 0).float().mean()) - 0.25) < 0.03
    assert set(masked.unique().tolist()) == {-1.0, 0.0}
    noise = maker(corruption=0, noise=0.3)(ROWS, IDS, epoch=0)[0] + 1
    assert abs(float(noise.std()) - 0.3) < 0.01
    assert abs(float(noise.mean())) < 0.02
    assert abs(float((noise**4).mean() / (noise**2).mean() ** 2) - 3) < 0.3  # a normal distribution's


def test_the_features_of_one_column_of_texts_change_together() -> None:
    one_hot = torch.eye(4)[torch.arange(40) % 4]
    table = torch.cat([one_hot, torch.arange(40.0)[:, None]], dim=1)
    make = maker(table, torch.tensor([0, 0, 0, 0, 1]), corruption=0.5)
    rows = table[:, :, None, None]
    view = make(rows, torch.arange(40), epoch=0)[1].flatten(1)
    assert (view[:, :4].sum(1) == 1).all()
    assert (view[:, :4] != table[:, :4]).any()


def test_a_table_and_images_each_take_their_own_views() -> None:
    features = [Feature("a=x", "a", 0, 1), Feature("a=y", "a", 0, 1), Feature("b", "b", 0, 1)]
    table = TableSource(torch.rand(6, 3), features=features)
    made = make_views(TableViewsConfig(), table.subset(torch.tensor([0, 1])), seed=0)
    assert isinstance(made, TableViewMaker)
    assert made.columns.tolist() == [0, 0, 1]
    assert len(made.table) == 2
    images = ArraySource(torch.zeros(2, 3, 1, 1, dtype=torch.uint8), name="photos")
    assert make_views(ViewsConfig(count=3), images, seed=0).config.count == 3
    with pytest.raises(TypeError, match="a table takes TableViewsConfig, and the views of table are a ViewsConfig"):
        make_views(ViewsConfig(), table, seed=0)
    with pytest.raises(TypeError, match="images take ViewsConfig"):
        make_views(TableViewsConfig(), images, seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"count": 0}, "at least 1 view"), ({"corruption": 1.1}, "corruption must be within 0 to 1"),
     ({"masking": -0.1}, "masking must be"), ({"noise": float("inf")}, "noise must be at least 0; found inf")],
)  # fmt: skip
def test_impossible_strengths_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableViewsConfig(**settings)


def test_unfit_rows_are_refused() -> None:
    with pytest.raises(TypeError, match=r"floating-point; found torch\.uint8"):
        maker()(torch.zeros(2, 8, 1, 1, dtype=torch.uint8), IDS[:2], epoch=0)
    with pytest.raises(ValueError, match=r"rows must be \[b, 8, 1, 1\]"):
        maker()(torch.zeros(2, 7, 1, 1), IDS[:2], epoch=0)
    with pytest.raises(ValueError, match="one entry per row"):
        maker()(ROWS, IDS[:2], epoch=0)
    with pytest.raises(ValueError, match="at least one row and feature"):
        maker(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="one entry per feature"):
        maker(columns=torch.arange(3))
