"""Found by an independent check: empty batches, masks that derived sets lost, and rounding that the batch decided."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kinfolk.data import ViewMaker, ViewsConfig
from kinfolk.data.derived import ColouredConfig, CompositeConfig, FewLabelsConfig, ImbalancedConfig, LabelNoiseConfig
from kinfolk.data.derived.attached import RenderingsConfig, SaliencyConfig
from kinfolk.data.derived.corruptions import CorruptedConfig, corrupt
from kinfolk.data.relations import ClassTableConfig, EqualLabels
from kinfolk.data.saliency import compute_saliency
from kinfolk.data.sources.base import ArraySource, Source, Splits


class Slow(Source):
    """The samples of an array source, decoded one by one."""

    def __init__(self, whole: ArraySource) -> None:
        self.whole, self.name, self.ids, self.columns = whole, whole.name, whole.ids, whole.columns
        self.channels, self.image_size, self.class_names = whole.channels, whole.image_size, whole.class_names

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        return self.whole.read(indices)


def pictures(count: int, first_id: int) -> ArraySource:
    images = torch.full((count, 3, 12, 12), 20, dtype=torch.uint8)
    images[:, :, 3:9, 4:10] = 230 - 4 * torch.arange(count, dtype=torch.uint8)[:, None, None, None]
    columns = {"groups": torch.arange(count) // 2, "bias_labels": torch.arange(count) % 2}
    return ArraySource(images, torch.arange(count) % 10, ids=torch.arange(first_id, first_id + count), columns=columns)


@pytest.fixture(params=["in memory", "decoded"])
def masked(request: pytest.FixtureRequest, tmp_path: Path) -> Splits:
    train, test = pictures(40, 100), pictures(20, 500)
    splits = Splits(train, test) if request.param == "in memory" else Splits(Slow(train), Slow(test))
    return SaliencyConfig(str(compute_saliency(splits, tmp_path / "masks"))).apply(splits)


def test_masks_that_were_attached_are_a_foreground_that_can_be_coloured(masked: Splits) -> None:
    coloured = ColouredConfig(rho=1.0).apply(masked).train
    everything = torch.arange(len(coloured))
    before, after = masked.train.fetch(everything), coloured.fetch(everything)
    inside = (before["saliency"] == 255).expand(-1, 3, -1, -1)
    assert 0 < inside.float().mean() < 1
    assert torch.equal(after["images"][inside], before["images"][inside])
    assert not torch.equal(after["images"], before["images"])
    assert torch.equal(coloured.read(everything), after["images"])


@pytest.mark.parametrize(
    "config", [LabelNoiseConfig(), FewLabelsConfig(per_class=2), CorruptedConfig("brightness", train=True)]
)
def test_masks_stay_in_the_batches_of_sets_derived_afterwards(
    masked: Splits, config: LabelNoiseConfig | FewLabelsConfig | CorruptedConfig
) -> None:
    derived = config.apply(masked)
    for part in (derived.train, derived.test):
        batch = part.fetch(torch.tensor([3, 0]))
        place = torch.searchsorted(masked.train.ids if part is derived.train else masked.test.ids, batch["ids"])
        original = (masked.train if part is derived.train else masked.test).fetch(place)
        assert torch.equal(batch["saliency"], original["saliency"])


def test_masks_survive_several_derived_sets_in_any_order(masked: Splits) -> None:
    for first, second in ((FewLabelsConfig(per_class=2), None), (ImbalancedConfig(), LabelNoiseConfig())):
        splits = first.apply(masked)
        splits = splits if second is None else second.apply(splits)
        for part in (splits.train, splits.probe):
            assert part is not None
            assert part.fetch(torch.tensor([1]))["saliency"].shape == (1, 1, 12, 12)


def test_a_class_that_vanished_needs_no_background_where_none_is_drawn_from_it(masked: Splits) -> None:
    imbalanced = ImbalancedConfig().apply(masked)
    everything = torch.arange(len(imbalanced.train))
    labels = imbalanced.train.fetch(everything)["labels"]
    assert len(labels.unique()) < 10
    for variant in ("original", "mixed-same"):
        composed = CompositeConfig(train=variant, test="only-bg-b").apply(imbalanced)
        assert torch.equal(composed.train.fetch(everything)["bias_labels"], labels)
        assert composed.train.fetch(everything)["images"].shape == (len(everything), 3, 12, 12)
        assert int(composed.test.fetch(torch.tensor([1]))["saliency"].max()) == 0
    with pytest.raises(ValueError, match=r"classes \[0.* have no picture"):
        CompositeConfig(train="mixed-rand").apply(imbalanced)


def test_renderings_stay_in_the_batches_when_only_labels_change() -> None:
    part = pictures(40, 0)
    renderings = RenderingsConfig().apply(Splits(part, part))
    batch = FewLabelsConfig(per_class=2).apply(renderings).train.fetch(torch.tensor([5, 6]))
    assert torch.equal(batch["renderings"], renderings.train.fetch(torch.tensor([5, 6]))["renderings"])
    changed = CorruptedConfig("contrast", train=True).apply(renderings).train.fetch(torch.tensor([5, 6]))
    assert "renderings" not in changed  # they show the images as they were


def test_an_empty_batch_has_views_with_noise_for_a_background() -> None:
    maker = ViewMaker(ViewsConfig(background=1.0, background_fill="noise"), seed=0)
    nothing = torch.zeros(0, 3, 4, 5, dtype=torch.uint8)
    views = maker(nothing, torch.zeros(0, dtype=torch.int64), epoch=0, saliency=nothing[:, :1])
    assert [view.shape for view in views] == [(0, 3, 4, 5)] * 2


def test_the_alpha_channel_of_a_crop_stays_within_0_and_1() -> None:
    opaque = torch.full((256, 4, 5, 7), 255, dtype=torch.uint8)
    config = ViewsConfig(size=(9, 5), crop_scale=(0.1, 1.0), padding="border")
    for view in ViewMaker(config, seed=0)(opaque, torch.arange(256), epoch=0):
        assert view.max() == 1


def test_coarse_pixels_do_not_depend_on_the_batch() -> None:
    images = torch.randint(0, 256, (400, 3, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(400)
    together = corrupt(images, ids, corruption="pixelate", severity=5)
    alone = [corrupt(images[i : i + 1], ids[i : i + 1], corruption="pixelate", severity=5) for i in range(400)]
    assert torch.equal(together, torch.cat(alone))


def test_an_empty_batch_has_a_summary_of_zeros() -> None:
    relation = EqualLabels(torch.arange(3), torch.tensor([0, 0, 1]))
    assert set(relation.summary(torch.zeros(0, dtype=torch.int64), 2).values()) == {0.0}


@pytest.mark.parametrize("labels", [torch.full((4,), -1), torch.zeros(0, dtype=torch.int64)])
def test_a_class_table_of_unlabelled_samples_is_refused_in_words(labels: torch.Tensor) -> None:
    source = ArraySource(torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8), labels, name="bare")
    with pytest.raises(ValueError, match="needs labels, and no sample of 'bare' has one"):
        ClassTableConfig().build(source)
