"""Extraction: what is computed, what is left untouched, and what never matters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kinfolk.data.sources import ArraySource
from kinfolk.data.views import ViewMaker, ViewsConfig, to_float
from kinfolk.evals import CentredRawPixels, Features, FeatureSplits, RawPixels, extract, extract_views
from kinfolk.nn import SmallConvConfig


def images(n: int, *, channels: int = 1, size: tuple[int, int] = (8, 8), seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, *size), generator=generator, dtype=torch.uint8)


def small_encoder(channels: int = 1) -> nn.Module:
    torch.manual_seed(3)
    return SmallConvConfig().build(channels=channels, image_size=(8, 8))


def test_extract_is_the_encoder_in_eval_mode_on_images_over_255() -> None:
    source = ArraySource(images(7), labels=torch.tensor([0, 1, 2, 0, 1, 2, -1]))
    encoder = small_encoder()
    features = extract(encoder, source, batch_size=3)
    encoder.eval()
    with torch.no_grad():
        expected = encoder(source.images.float() / 255)
    torch.testing.assert_close(features.rows, expected)
    assert features.rows.dtype == torch.float32
    assert not features.rows.requires_grad
    assert features.ids.tolist() == list(range(7))
    assert features.labels is not None
    assert features.labels.tolist() == [0, 1, 2, 0, 1, 2, -1]


def test_extract_restores_every_mode_and_touches_no_state() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    encoder.train()
    encoder[2].eval()  # a frozen norm inside a training module must stay frozen
    modes = [module.training for module in encoder.modules()]
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    first = extract(encoder, ArraySource(images(6)))
    second = extract(encoder, ArraySource(images(6)))
    assert [module.training for module in encoder.modules()] == modes
    assert torch.equal(first.rows, second.rows)  # dropout was off
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_modes_are_restored_when_the_encoder_fails() -> None:
    encoder = nn.Conv2d(1, 4, 3)
    with pytest.raises(ValueError, match=r"must give \[b, d\] features .* got \(6, 4, 6, 6\); .*as_encoder"):
        extract(encoder, ArraySource(images(6)))
    assert encoder.training


@pytest.mark.parametrize("batch_size", [1, 4, 9, 100])
def test_neither_batch_size_nor_order_changes_the_features(batch_size: int) -> None:
    pixels, labels = images(9), torch.arange(9) % 3
    order = torch.tensor([4, 2, 8, 0, 1, 7, 3, 6, 5])
    encoder = small_encoder()
    expected = extract(encoder, ArraySource(pixels, labels))
    found = extract(encoder, ArraySource(pixels[order], labels[order], ids=order), batch_size=batch_size)
    torch.testing.assert_close(found.rows, expected.rows, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.labels, expected.labels)


def test_over_ranks_means_nothing_to_a_single_process() -> None:
    encoder, source = small_encoder(), ArraySource(images(7), labels=torch.arange(7) % 2)
    alone, asked = (extract(encoder, source, batch_size=3, over_ranks=flag) for flag in (False, True))
    assert torch.equal(alone.rows, asked.rows)
    assert torch.equal(alone.labels, asked.labels)


def test_duplicates_by_id_are_removed() -> None:
    source = ArraySource(images(4), ids=torch.tensor([10, 3, 7, 5]))
    features = extract(RawPixels(channels=1, image_size=(8, 8)), source, indices=torch.tensor([0, 1, 0, 3, 1]))
    assert features.ids.tolist() == [3, 5, 10]
    assert torch.equal(features.rows, to_float(source.images[[1, 3, 0]]).flatten(1))


def test_a_source_without_labels_gives_none() -> None:
    assert extract(RawPixels(channels=1, image_size=(8, 8)), ArraySource(images(3))).labels is None


def test_an_empty_source_says_so() -> None:
    with pytest.raises(ValueError, match="nothing to encode: source 'arrays' gives no sample"):
        extract(RawPixels(channels=1, image_size=(8, 8)), ArraySource(images(0)))


def test_features_that_are_not_finite_name_their_samples() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).masked_fill(x.flatten(1) > 1 - 1e-6, torch.nan)

    pixels = images(5).clamp(max=254)
    pixels[3, 0, 0, 0] = 255
    with pytest.raises(ValueError, match=r"1 of 5 rows are not, first ids \[23\]"):
        extract(Broken(), ArraySource(pixels, ids=torch.arange(20, 25)))


def test_views_are_those_of_the_maker_at_epoch_0() -> None:
    source = ArraySource(images(6), ids=torch.arange(50, 56))
    maker = ViewMaker(ViewsConfig(count=2, rotation=20.0, shift=0.1), seed=5)
    chosen = torch.tensor([1, 4, 5])
    first, second = extract_views(RawPixels(channels=1, image_size=(8, 8)), source, maker, indices=chosen, batch_size=2)
    views = maker(source.images[chosen], source.ids[chosen], epoch=0)
    torch.testing.assert_close(first, views[0].flatten(1))
    torch.testing.assert_close(second, views[1].flatten(1))
    assert not torch.equal(first, second)


def test_one_view_is_no_pair() -> None:
    maker = ViewMaker(ViewsConfig(count=1), seed=0)
    with pytest.raises(ValueError, match="alignment needs two views of a sample, the view maker gives 1; set count=2"):
        extract_views(RawPixels(channels=1, image_size=(8, 8)), ArraySource(images(2)), maker)


def test_centred_pixels_have_mean_zero_over_the_training_set() -> None:
    source = ArraySource(images(11, channels=3, size=(5, 7)))
    centred = CentredRawPixels.fit(source, batch_size=4)
    assert centred.feature_dim == 3 * 5 * 7
    rows = extract(centred, source).rows
    torch.testing.assert_close(rows.mean(0), torch.zeros(105), atol=1e-6, rtol=0)
    raw = extract(RawPixels(channels=3, image_size=(5, 7)), source).rows
    torch.testing.assert_close(raw - rows, raw.mean(0).expand_as(raw), atol=1e-6, rtol=0)


def test_centred_pixels_take_views_of_another_size() -> None:
    centred = CentredRawPixels(torch.full((1, 8, 8), 0.25))
    assert torch.equal(centred(torch.ones(2, 1, 4, 4)), torch.full((2, 16), 0.75))


def test_centring_reads_only_the_chosen_rows() -> None:
    source = ArraySource(images(6))
    chosen = torch.tensor([0, 5])
    torch.testing.assert_close(
        CentredRawPixels.fit(source, indices=chosen).mean, to_float(source.images[chosen]).mean(0)
    )


@pytest.mark.parametrize(
    ("rows", "ids", "labels", "error", "match"),
    [
        (torch.ones(3), torch.arange(3), None, ValueError, r"must be \[n, d\] .* got \(3,\)"),
        (torch.ones(0, 4), torch.arange(0), None, ValueError, r"at least one row .* got \(0, 4\)"),
        (torch.ones(3, 0), torch.arange(3), None, ValueError, r"one column, got \(3, 0\)"),
        (torch.ones(3, 2), torch.arange(2), None, ValueError, r"ids must have one entry per row.*\(3, 2\), ids \(2,\)"),
        (torch.ones(3, 2), torch.arange(3.0), None, TypeError, "ids must be int64, got torch.float32"),
        (torch.ones(3, 2), torch.arange(3), torch.ones(3).bool(), TypeError, "labels must be int64, got torch.bool"),
        (torch.ones(3, 2), torch.arange(3), torch.tensor([0, -2, 1]), ValueError, "-1 for unlabelled, got -2"),
        (torch.tensor([[1.0], [torch.inf]]), torch.arange(2), None, ValueError, "must be finite"),
    ],
)
def test_features_refuse(rows, ids, labels, error, match) -> None:
    with pytest.raises(error, match=match):
        Features.from_rows(rows, ids, labels)


def test_the_constructor_wants_sorted_float32_rows() -> None:
    with pytest.raises(ValueError, match=r"strictly ascending; build the features with Features.from_rows"):
        Features(torch.ones(2, 1), torch.tensor([1, 0]))
    with pytest.raises(TypeError, match=r"features must be float32, got torch.float64; Features.from_rows casts"):
        Features(torch.ones(2, 1).double(), torch.tensor([0, 1]))


def test_labelled_rows() -> None:
    features = Features.from_rows(torch.arange(4.0)[:, None], torch.arange(4), torch.tensor([2, -1, 0, -1]))
    assert features.labelled().ids.tolist() == [0, 2]
    assert repr(features) == "Features(4 rows, 1 features, 2 labelled)"
    nameless = Features.from_rows(torch.ones(2, 1), torch.arange(2), torch.tensor([-1, -1]))
    with pytest.raises(ValueError, match="needs labels, and none of the 2 rows has one"):
        nameless.labelled()
    assert not FeatureSplits(features, nameless).has_labels


def test_splits_check_each_other() -> None:
    narrow = Features.from_rows(torch.ones(2, 1), torch.arange(2), torch.tensor([0, 1]))
    wide = Features.from_rows(torch.ones(2, 3), torch.arange(2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="train has 1 features, test 3"):
        FeatureSplits(narrow, wide)
    with pytest.raises(ValueError, match=r"one shape: got \(2, 1\) and \(3, 1\)"):
        FeatureSplits(narrow, narrow, (torch.ones(2, 1), torch.ones(3, 1)))
    other = Features.from_rows(torch.ones(2, 1), torch.arange(1, 3), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"1 ids have two labels, first \[1\]; give the test source ids of its own"):
        FeatureSplits(narrow, other)


def test_strided_tensors_are_made_contiguous() -> None:
    every_other = torch.arange(8)[::2]
    features = Features(torch.rand(4, 4).T, every_other, every_other)
    assert all(held.is_contiguous() for held in (features.rows, features.ids, features.labels))
    assert features.positions(torch.tensor([4, 5])).tolist() == [2, -1]
