"""IFND's clusterings and what they leave out, against the algorithm written out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from kinfolk.losses import InfoNCELoss
from kinfolk.methods import IFNDConfig, MoCoConfig, TrainingPlan
from kinfolk.nn import HeadConfig, SphericalClusters, spherical_k_means

HEAD = HeadConfig(hidden=16, out_dim=8)


def plain(**settings):
    given = {"head": HEAD, "queue_size": 60, "momentum": 0.8, "clusters": (3, 8), "start": 0.25, "cluster_every": 0.25}
    return IFNDConfig(**given | settings)


def step(method, batch, optimizer=None):
    terms = method(batch)
    if optimizer is not None:
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    method.after_step()
    return {name: term.item() for name, term in terms.items()}


@pytest.fixture
def begun(build, source):
    """Return `begun(config, steps=8)`: a method on the first 200 digits, which counts how often it looks at them."""
    chosen = source.ids[:200].sort().values
    images = source.fetch(torch.arange(200))["images"].float() / 255
    order = source.ids[:200].argsort()

    def make(config, *, steps=8, double=False):
        method = build(config, norm="group")
        looks = []

        @torch.no_grad()
        def features(module):
            looks.append(1)
            return module(images[order].double() if double else images[order])

        method.begin(TrainingPlan(steps, 2, chosen, features))
        method.looks, method.all_images = looks, images[order]
        return method.double() if double else method

    return make


@pytest.fixture
def batch_of(source):
    """Return `batch_of(step)`: 24 of the first 200 digits in two noisy views."""

    def make(step, *, n=24):
        generator = torch.Generator().manual_seed(step)
        data = source.fetch(torch.randperm(200, generator=generator)[:n])
        images = data["images"].float() / 255
        views = [(images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(0, 1) for _ in range(2)]
        return {"views": views, "ids": data["ids"], "labels": data["labels"]}

    return make


def pseudo_labels(key_encoder, images, ids, *, share):
    """Labels by id of both clusterings, those of the surest share of the images only."""
    found = []
    for level, count in enumerate((3, 8)):
        centroids = spherical_k_means(key_encoder(images), count, seed=level).centroids
        likely = (F.normalize(key_encoder(images)) @ centroids.T / 0.2).softmax(1)
        surest = likely.max(1).values.argsort(descending=True)[: round(share * len(ids))].tolist()
        found.append({int(ids[i]): int(likely[i].argmax()) for i in surest})
    return found


def test_it_follows_the_algorithm_as_published(begun, batch_of):
    """MoCo, and from a quarter of training on, clusters every quarter, of which the surest share is believed."""
    method = begun(plain(), double=True)
    query = torch.nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.head))
    key = copy.deepcopy(query).requires_grad_(False)
    queue, queue_ids = F.normalize(method.queue.snapshot().features), [-1] * 60
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.3) for m in (method, query)]
    labels, eliminated = [{}, {}], 0
    for number in range(8):
        batch = batch_of(number)
        batch["views"] = [view.double() for view in batch["views"]]
        ids = batch["ids"].tolist()

        q, k = F.normalize(query(batch["views"][0])), F.normalize(key(batch["views"][1]))
        losses = []
        for i in range(24):
            for of in labels:
                negatives = [
                    j
                    for j, other in enumerate(queue_ids)
                    if other != ids[i] and not (ids[i] in of and other in of and of[ids[i]] == of[other])
                ]
                eliminated += 60 - len(negatives)
                logits = torch.cat([(q[i] @ k[i])[None], queue[negatives] @ q[i]]) / 0.1
                losses.append(logits.logsumexp(0) - logits[0])
        loss = torch.stack(losses).mean()
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        queue, queue_ids = torch.cat([queue, k])[-60:], (queue_ids + ids)[-60:]
        for mine, theirs in zip(key.parameters(), query.parameters(), strict=True):
            mine.copy_(0.8 * mine + 0.2 * theirs.detach())
        if number + 1 in (2, 4, 6):
            labels = pseudo_labels(key[0], method.all_images.double(), method.ids, share=(number + 1) / 8)

        assert step(method, batch, optimizers[0])["loss"] == pytest.approx(loss.item(), abs=1e-9)
    assert eliminated > 1000
    assert len(method.looks) == 3


def test_before_the_first_clustering_it_is_moco_bitwise(begun, build, batch_of):
    moco = build(MoCoConfig(head=HEAD, queue_size=60, momentum=0.8), norm="group")
    late, never = begun(plain()), begun(plain(start=1.0))
    for number in range(4):
        expected = step(moco, batch_of(number))["loss"]
        assert step(never, batch_of(number))["loss"] == expected
        found = step(late, batch_of(number))["loss"]
        assert found == expected if number < 2 else found < expected
    assert (len(never.looks), len(late.looks)) == (0, 2)


def test_clusters_that_nobody_believes_leave_moco(begun, build, batch_of):
    moco = build(MoCoConfig(head=HEAD, queue_size=60, momentum=0.8), norm="group")
    method = begun(plain(start=0.0, cluster_every=1.0), steps=10_000)  # 200 images, of which 0.0001 are believed
    for number in range(4):
        assert step(method, batch_of(number))["loss"] == pytest.approx(step(moco, batch_of(number))["loss"], abs=1e-6)
    assert len(method.looks) == 1
    assert not method.accepted.any()


def test_the_share_that_is_believed_rises_and_is_the_surest(begun, batch_of, monkeypatch):
    confidence = torch.linspace(0, 1, 200).roll(77)

    def clusters(rows, count, **_):
        return SphericalClusters(rows[:count], torch.arange(200) % count, confidence)

    monkeypatch.setattr("kinfolk.methods.ifnd.spherical_k_means", clusters)
    method, all_at_once = begun(plain()), begun(plain(incremental=False))
    shares = [step(method, batch_of(number))["accepted_share"] for number in range(8)]
    assert shares == pytest.approx([0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75])
    assert method.accepted[0].equal(confidence >= confidence.sort().values[50])
    assert [step(all_at_once, batch_of(number))["accepted_share"] for number in range(3)] == [0, 0, 1]


def test_the_newest_clustering_judges_all_rows_of_the_queue(begun, batch_of, monkeypatch):
    """Renamed clusters are the same clusters, also for rows that came in under the old names."""
    losses = []
    for rename in (False, True):
        calls = []

        def clusters(rows, count, calls=calls, rename=rename, **_):
            calls.append(count)
            labels = torch.arange(200) % count
            labels = (labels + len(calls)) % count if rename else labels
            return SphericalClusters(rows[:count], labels, torch.ones(200))

        monkeypatch.setattr("kinfolk.methods.ifnd.spherical_k_means", clusters)
        method = begun(plain(incremental=False))
        losses.append([step(method, batch_of(number))["loss"] for number in range(8)])
        assert len(calls) == 6
    assert losses[0] == losses[1]


def test_one_cluster_of_all_leaves_nothing_to_tell_apart(begun, batch_of):
    method = begun(plain(clusters=(1,), incremental=False, start=0.5))
    for number in range(4):
        step(method, batch_of(number))
    terms = method(batch_of(4))
    terms["loss"].backward()
    assert terms["loss"].item() == 0
    assert terms["excluded_share"] > 0.8  # all but the own earlier keys
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_random_rows_of_a_new_queue_are_in_no_cluster(begun, batch_of):
    method = begun(plain(clusters=(1,), incremental=False, start=0.125, cluster_every=1.0))
    batch = batch_of(0)
    step(method, batch)
    queue = method.queue.snapshot()
    q, k = method.head(method.encoder(batch["views"][0])), method.twin(batch["views"][1])
    expected = InfoNCELoss(temperature=0.1)(q, k, queue.features[queue.ids < 0])  # all images are one cluster
    torch.testing.assert_close(method(batch)["loss"], expected)


def test_own_earlier_keys_stay_out_whether_their_cluster_is_believed_or_not(begun, batch_of):
    batch = batch_of(0)
    for exclude_own in (True, False):
        method = begun(plain(exclude_own=exclude_own, start=0.125, cluster_every=1.0))
        step(method, batch)
        assert method.accepted.sum(1).tolist() == [25, 25]
        queue = method.queue.snapshot()
        q = method.head(method.encoder(batch["views"][0]))
        k = method.twin(batch["views"][1])
        place = torch.searchsorted(method.ids, batch["ids"])
        masks = []
        for groups, accepted in zip(method.groups, method.accepted, strict=True):
            same = (groups[place][:, None] == groups[place]) & accepted[place][:, None] & accepted[place]
            same = same | torch.eye(24, dtype=torch.bool) if exclude_own else same
            masks.append(torch.cat([same, torch.zeros(24, 36, dtype=torch.bool)], 1))
        expected = InfoNCELoss(temperature=0.1)(q, k, queue.features, exclude=masks)
        torch.testing.assert_close(method(batch)["loss"], expected)


def test_health_counts_what_was_left_out_and_how_rightly(begun, batch_of):
    method = begun(plain(incremental=False))
    for number in range(3):
        step(method, batch_of(number))
    batch, queue = batch_of(3), method.queue.snapshot()
    left_out = right = 0
    for groups in method.groups.tolist():
        group = dict(zip(method.ids.tolist(), groups, strict=True))
        for mine, label in zip(batch["ids"].tolist(), batch["labels"].tolist(), strict=True):
            for other, its in zip(queue.ids.tolist(), queue.labels.tolist(), strict=True):
                if other != mine and other >= 0 and group[other] == group[mine]:
                    left_out, right = left_out + 1, right + (label == its)
    terms = method(batch)
    assert terms["excluded_share"].item() == pytest.approx(left_out / (2 * 24 * 60))
    assert terms["same_label"].item() == pytest.approx(right / left_out)
    assert right / left_out > 0.15  # a tenth by chance
    assert "same_label" not in method({"views": batch["views"], "ids": batch["ids"]})


def test_a_resumed_run_has_its_clusters_and_looks_at_no_image_for_them(begun, batch_of):
    method = begun(plain())
    for number in range(3):
        step(method, batch_of(number))
    resumed = begun(plain())
    resumed.load_state_dict(method.state_dict())
    assert resumed.reached == 1
    for number in (3, 4, 5):
        assert step(resumed, batch_of(number)) == step(method, batch_of(number))
    assert (len(method.looks), len(resumed.looks)) == (3, 2)
    assert torch.equal(method.groups, resumed.groups)


def test_restoring_a_checkpoint_of_other_images_leaves_the_plan_alone(build):
    ids = [torch.arange(first, first + 4) for first in (0, 10)]
    methods = [build(plain()) for _ in ids]
    for method, known in zip(methods, ids, strict=True):
        method.begin(TrainingPlan(8, 2, known, torch.nn.Identity()))
    methods[1].load_state_dict(methods[0].state_dict())
    assert ids[1].tolist() == [10, 11, 12, 13]


def test_passes_without_gradient_leave_no_trace_and_cluster_nothing(begun, batch_of):
    method = begun(plain(start=0.0))
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        method(batch_of(0))
    method.after_step()
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert not method.looks


def test_errors_say_what_is_wrong(begun, build, batch_of, digits):
    batch = batch_of(0)
    with pytest.raises(ValueError, match=r"call method.begin\(TrainingPlan"):
        plain().build(build(plain()).encoder)(batch)
    with pytest.raises(ValueError, match="a stream does not say which"):
        build(plain()).begin(TrainingPlan(4, 2, None, torch.nn.Identity()))
    with pytest.raises(ValueError, match=r"finds an image's cluster by its id; found batch keys \['views'\]"):
        begun(plain())({"views": batch["views"]})
    method = begun(plain(start=0.0))
    step(method, batch)
    with pytest.raises(
        ValueError, match="1 of 24 samples are not among those that were clustered, the first has id 99"
    ):
        method(batch | {"ids": torch.cat([torch.tensor([10**6 - 1]), batch["ids"][1:]])})
    with pytest.raises(ValueError, match="IFND takes exactly 2 views of each image, found 3"):
        begun(plain())(digits(0, views=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clusters": ()}, r"clusters must name one number above 0 at least, found \(\)"),
        ({"clusters": (5, 0)}, r"found \(5, 0\)"),
        ({"cluster_temperature": 0.0}, "cluster_temperature must be positive, found 0"),
        ({"cluster_every": 0.0}, "cluster_every must be a share of training, above 0 and at most 1, found 0"),
        ({"start": 1.5}, "start must be a share of training, 0 to 1, found 1.5"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        plain(**settings)


def test_a_smoke_run_has_few_clusters_and_seldom_makes_them():
    small = plain(clusters=(100, 10), cluster_every=0.01).smoke()
    assert (small.clusters, small.cluster_every, small.queue_size) == ((20, 10), 0.25, 128)
