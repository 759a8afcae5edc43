"""Open-world accuracy: seen classes by name, novel ones by matching, each number with its own rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from kinfolk.evals.assignment import (
    adjusted_rand_index,
    hungarian_accuracy,
    matched_classes,
    normalised_mutual_information,
)
from kinfolk.evals.clustering import KMeans, cluster_details
from kinfolk.evals.linear_probe import LinearProbe
from kinfolk.evals.own_classifier import own_logits
from kinfolk.evals.protocol import Measurement, SubjectEvaluator, accuracy

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from kinfolk.evals.subject import Subject


@dataclass(frozen=True)
class OpenWorldAccuracy:
    """The numbers that papers call open-world accuracy; each is another question, never compare one with another.

    Args:
        all: all rows, clusters matched to classes once over all of them.
        seen: rows of seen classes whose predicted class is theirs, no matching; None without predictions or such rows.
        novel: rows of novel classes, clusters matched on these rows alone; None without such rows.
        single_seen: rows of seen classes, read off the matching of `all`.
        single_novel: rows of novel classes, read off the matching of `all`.
        novel_nmi: normalised mutual information on the rows of novel classes.
        novel_ari: adjusted Rand index on them.
    """

    all: float
    seen: float | None = None
    novel: float | None = None
    single_seen: float | None = None
    single_novel: float | None = None
    novel_nmi: float | None = None
    novel_ari: float | None = None


def open_world_accuracy(
    clusters: Int[Tensor, " n"],
    labels: Int[Tensor, " n"],
    seen_classes: Int[Tensor, " s"],
    *,
    direct: Int[Tensor, " n"] | None = None,
) -> OpenWorldAccuracy:
    """Every open-world number of some predictions; the matching is that of `matched_classes`.

    Args:
        clusters: cluster of every row; the numbers need not be classes. For a classifier with outputs for novel
            classes too, its argmax.
        labels: true class of every row, each at least 0.
        seen_classes: the classes of which training saw a label; all others are novel.
        direct: predicted class of every row, compared as it is on rows of seen classes. For a classifier whose first
            outputs are the seen classes this is its argmax again, and a row that it calls novel is an error.

    Raises:
        ValueError: for no rows, or shapes that differ; labels below 0.
        TypeError: for clusters or labels that are no integers.

    Reference: Cao, Brbić, Leskovec (2022), Open-world semi-supervised learning; Vaze, Han, Vedaldi, Zisserman (2022),
        Generalized category discovery (one matching); Sun, Li (2023), OpenCon: open-world contrastive learning.

    Example:
        >>> argmax = torch.tensor([0, 0, 2, 2, 1, 1])  # class 0 is seen; the outputs of 1 and 2 are swapped
        >>> found = open_world_accuracy(argmax, torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0]), direct=argmax)
        >>> found.all, found.seen, found.novel
        (1.0, 1.0, 1.0)
    """
    if direct is not None and direct.shape != labels.shape:
        raise ValueError(
            f"direct must have one predicted class per row: direct {tuple(direct.shape)}, labels {tuple(labels.shape)}."
        )
    matched = matched_classes(clusters, labels)
    seen = torch.isin(labels, seen_classes)
    novel = ~seen
    some_seen, some_novel = bool(seen.any()), bool(novel.any())
    return OpenWorldAccuracy(
        all=accuracy(matched, labels),
        seen=accuracy(direct[seen], labels[seen]) if direct is not None and some_seen else None,
        novel=hungarian_accuracy(clusters[novel], labels[novel]) if some_novel else None,
        single_seen=accuracy(matched[seen], labels[seen]) if some_seen else None,
        single_novel=accuracy(matched[novel], labels[novel]) if some_novel else None,
        novel_nmi=normalised_mutual_information(clusters[novel], labels[novel]) if some_novel else None,
        novel_ari=adjusted_rand_index(clusters[novel], labels[novel]) if some_novel else None,
    )


@dataclass(frozen=True)
class OpenWorld(SubjectEvaluator):
    """Open-world accuracy of frozen features: a linear head names seen classes, k-means finds the novel ones.

    Seen classes are those with a labelled training row, as `OpenWorldConfig` leaves them; a test class without one is
    novel. k-means runs over all labelled test rows. Every record says how its number came about, for papers mix
    them:

    - seen: the linear head's answer on rows of seen classes, no matching. It knows no other class, so that it cannot
      mistake a seen row for a novel one: an upper bound for methods that must tell them apart.
    - novel: clusters matched to classes on the test rows of novel classes only, with every cluster allowed.
    - all: one matching over all test rows.
    - all-single: rows of seen, and of novel, classes under that one matching.

    A method that learnt outputs for more than the seen classes, as OpenCon's prototypes are, has three numbers more:
    `own` seen, novel and all, by its own answers alone. These must tell seen from novel, and an error in that counts.

    Without a novel class there is nothing to discover and nothing is yielded.

    Args:
        clusters: how many; None takes the number of seen and novel classes together, as given. The record says which.
        k_means: how test rows are clustered.
        probe: the linear head for seen classes.

    Raises:
        ValueError: for fewer than one cluster.

    Reference: as `open_world_accuracy`.

    Example:
        >>> from kinfolk.data import ArraySource
        >>> from kinfolk.evals import RawPixels, Subject
        >>> pixels = torch.tensor([[250, 0, 0], [0, 250, 0], [0, 0, 250]], dtype=torch.uint8).repeat(4, 1)
        >>> test = ArraySource(pixels.reshape(12, 3, 1, 1), torch.arange(12) % 3)
        >>> labelled = test.subset((test.labels < 2).nonzero().flatten())
        >>> subject = Subject.of("raw pixels", RawPixels(channels=3, image_size=(1, 1)), train=labelled, test=test)
        >>> [(m.name, m.value) for m in OpenWorld().run(subject)][:3]
        [('accuracy, seen', 1.0), ('accuracy, novel', 1.0), ('accuracy, all', 1.0)]
    """

    clusters: int | None = None
    k_means: KMeans = field(default_factory=KMeans)
    probe: LinearProbe = field(default_factory=LinearProbe)

    protocol: ClassVar[str] = "open world"
    needs_labels: ClassVar[bool] = True
    normalisation: ClassVar[str] = "clusters: l2; head: standardised by training statistics"

    def __post_init__(self) -> None:
        if self.clusters is not None and self.clusters < 1:
            raise ValueError(f"clusters must be at least 1, or None for the number of classes, got {self.clusters}.")

    def missing(self, subject: Subject) -> str | None:
        """Say so where every test class has a labelled training row."""
        seen, in_test = (_classes(part.labels) for part in (subject.train, subject.test))
        return None if bool((~torch.isin(in_test, seen)).any()) else "no novel classes"

    def run(self, subject: Subject) -> Iterator[Measurement]:
        """Yield seen, novel, all and all-single accuracy, NMI and ARI on novel rows, then what its own outputs say.

        Raises:
            ValueError: when a split has no labelled row.
            ImportError: without scikit-learn.
        """
        test, seen = subject.features.test.labelled(), _classes(subject.features.train.labelled().labels)
        assert test.labels is not None
        classes = torch.cat([seen, test.labels]).unique()
        novel = ~torch.isin(test.labels, seen)
        if not bool(novel.any()):
            return
        wanted = len(classes) if self.clusters is None else self.clusters
        found = self.k_means.fit(test.rows, clusters=wanted)
        head = subject.head(self.probe)
        scores = open_world_accuracy(found.of_row, test.labels, seen, direct=head.predict(test.rows))
        sizes = {
            "seen_classes": len(seen),
            "novel_classes": len(classes) - len(seen),
            "seen_rows": int((~novel).sum()),
            "novel_rows": int(novel.sum()),
        }
        clustered = {**sizes, **cluster_details(found, wanted=wanted, given=self.clusters is not None)}
        by_head = {**sizes, **head.details}
        for name, value, how, details in (
            ("accuracy, seen", scores.seen, "argmax of a linear head over the seen classes, no matching", by_head),
            ("accuracy, novel", scores.novel, "matching on test rows of novel classes only", clustered),
            ("accuracy, all", scores.all, "one matching over all test rows", clustered),
            ("accuracy, all-single seen", scores.single_seen, "one matching over all test rows", clustered),
            ("accuracy, all-single novel", scores.single_novel, "one matching over all test rows", clustered),
            ("NMI, novel", scores.novel_nmi, "clusters of test rows of novel classes", clustered),
            ("ARI, novel", scores.novel_ari, "clusters of test rows of novel classes", clustered),
        ):
            if value is not None:
                yield Measurement(name, value, better="higher", details={"how": how, **details})
        yield from _own(subject, seen, sizes)


def _own(subject: Subject, seen: Int[Tensor, " s"], sizes: dict[str, Any]) -> Iterator[Measurement]:
    """What the outputs that training made say, where there are some for novel classes too."""
    found = own_logits(subject)
    if found is None or found.rows.shape[1] <= len(seen):
        return
    labels, answers = found.labels, found.rows.argmax(dim=1)
    assert labels is not None
    scores = open_world_accuracy(answers, labels, seen, direct=answers)
    details = {**sizes, "outputs": found.rows.shape[1], "outputs_used": len(answers.unique())}
    for name, value, how in (
        ("own accuracy, seen", scores.seen, "argmax of all its outputs, no matching"),
        ("own accuracy, novel", scores.novel, "matching on test rows of novel classes only"),
        ("own accuracy, all", scores.all, "one matching over all test rows"),
    ):
        if value is not None:
            yield Measurement(name, value, better="higher", details={"how": how, **details})


def _classes(labels: Tensor | None) -> Tensor:
    """The classes that have a row, ascending."""
    return torch.empty(0, dtype=torch.int64) if labels is None else labels[labels >= 0].unique()
