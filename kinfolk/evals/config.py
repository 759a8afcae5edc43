"""Which protocols run, with which parameters, on how much of the data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from kinfolk.evals.attribution import AttributionQuality
from kinfolk.evals.attribution_maps import Attribution
from kinfolk.evals.background_shift import BackgroundShift
from kinfolk.evals.bias_accuracy import BiasAccuracy
from kinfolk.evals.calibration import Calibration
from kinfolk.evals.clustering import Clustering, KMeans
from kinfolk.evals.corruption import CorruptionRobustness
from kinfolk.evals.cross_retrieval import CrossRetrieval
from kinfolk.evals.few_label_probe import FewLabelProbe
from kinfolk.evals.geometry import Geometry
from kinfolk.evals.graph_agreement import GraphAgreement
from kinfolk.evals.knn import KNN
from kinfolk.evals.linear_probe import LinearProbe
from kinfolk.evals.open_world import OpenWorld
from kinfolk.evals.own_classifier import OwnClassifier
from kinfolk.evals.pgd import PGD
from kinfolk.evals.protocol import FeatureEvaluator, SubjectEvaluator
from kinfolk.evals.retrieval import Retrieval
from kinfolk.evals.sgd_probe import SGDProbe
from kinfolk.evals.shot_accuracy import ShotAccuracy
from kinfolk.evals.text_retrieval import TextRetrieval
from kinfolk.evals.transfer import Transfer
from kinfolk.evals.zero_shot import ZeroShot

# The names of EvaluationConfig's fields, in the order of its documentation.
Protocol = Literal[
    "knn",
    "linear_probe",
    "sgd_probe",
    "few_label_probe",
    "retrieval",
    "cross_retrieval",
    "clustering",
    "open_world",
    "geometry",
    "graph_agreement",
    "calibration",
    "own_classifier",
    "shot_accuracy",
    "bias_accuracy",
    "pgd",
    "corruptions",
    "background_shift",
    "attribution",
    "transfer",
    "zero_shot",
    "text_retrieval",
]


@dataclass(frozen=True)
class EvaluationConfig:
    """Which protocols run, with which parameters, on how much of the data.

    Args:
        protocols: the protocols to run, by the names of the fields below, in the order of the table.
        knn: weighted nearest neighbours.
        linear_probe: the linear probe in closed form.
        sgd_probe: the linear probe by SGD on augmented images.
        few_label_probe: the probe on few labels.
        retrieval: by class.
        cross_retrieval: across hands, for sources with groups and bias labels.
        clustering: k-means against the classes.
        open_world: seen and novel classes, for open-world sets.
        geometry: diagnostics of how features lie on the sphere.
        graph_agreement: rank correlation with a target graph.
        calibration: expected calibration error, before and after temperature scaling.
        own_classifier: the classifier of a method that learns one: accuracy, shots, calibration.
        shot_accuracy: many, medium and few shots, for imbalanced sets.
        bias_accuracy: bias-aligned against bias-conflicting, for sources with bias labels.
        pgd: adversarial robustness.
        corruptions: robustness to 15 corruptions at 5 severities.
        background_shift: other backgrounds, for sources with masks.
        attribution: does the classifier look at the object? For sources with masks.
        transfer: probes on other sources, which its `targets` name.
        zero_shot: the nearest class name, for methods with a text tower.
        text_retrieval: images among captions and captions among images, for methods with a text tower.
        batch_size: images per forward pass.
        baselines: whether raw pixels and an untrained encoder are measured beside the trained one.
        max_train_rows: training samples in use, a seeded subset; None takes all.
        max_test_rows: test samples in use, a seeded subset; None takes all.
        subset_seed: of both subsets.

    Raises:
        ValueError: for an unknown or repeated protocol, or sizes below 1.

    Example:
        >>> EvaluationConfig(protocols=("knn",), knn=KNN(k=20)).evaluators()
        (KNN(k=20, temperature=0.07),)
    """

    protocols: tuple[Protocol, ...] = ("knn", "linear_probe", "few_label_probe", "retrieval", "geometry")
    knn: KNN = field(default_factory=KNN)
    linear_probe: LinearProbe = field(default_factory=LinearProbe)
    sgd_probe: SGDProbe = field(default_factory=SGDProbe)
    few_label_probe: FewLabelProbe = field(default_factory=FewLabelProbe)
    retrieval: Retrieval = field(default_factory=Retrieval)
    cross_retrieval: CrossRetrieval = field(default_factory=CrossRetrieval)
    clustering: Clustering = field(default_factory=Clustering)
    open_world: OpenWorld = field(default_factory=OpenWorld)
    geometry: Geometry = field(default_factory=Geometry)
    graph_agreement: GraphAgreement = field(default_factory=GraphAgreement)
    calibration: Calibration = field(default_factory=Calibration)
    own_classifier: OwnClassifier = field(default_factory=OwnClassifier)
    shot_accuracy: ShotAccuracy = field(default_factory=ShotAccuracy)
    bias_accuracy: BiasAccuracy = field(default_factory=BiasAccuracy)
    pgd: PGD = field(default_factory=PGD)
    corruptions: CorruptionRobustness = field(default_factory=CorruptionRobustness)
    background_shift: BackgroundShift = field(default_factory=BackgroundShift)
    attribution: AttributionQuality = field(default_factory=AttributionQuality)
    transfer: Transfer = field(default_factory=Transfer)
    zero_shot: ZeroShot = field(default_factory=ZeroShot)
    text_retrieval: TextRetrieval = field(default_factory=TextRetrieval)
    batch_size: int = 256
    baselines: bool = True
    max_train_rows: int | None = None
    max_test_rows: int | None = None
    subset_seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocols", tuple(self.protocols))  # as YAML reads them
        known = get_args(Protocol)
        if not set(self.protocols) <= set(known) or len(set(self.protocols)) < len(self.protocols):
            raise ValueError(f"protocols must name each of {', '.join(known)} at most once, got {self.protocols}.")
        for name in ("batch_size", "max_train_rows", "max_test_rows"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}.")

    @classmethod
    def smoke(cls) -> EvaluationConfig:
        """The usual protocols, and every other one if asked for, on a few hundred samples: seconds altogether."""
        probe = LinearProbe(l2=(1e-3, 1e-1), max_steps=50)
        return cls(
            knn=KNN(k=20),
            linear_probe=probe,
            sgd_probe=SGDProbe(epochs=2, learning_rates=(1.0, 10.0)),
            few_label_probe=FewLabelProbe(labels_per_class=(1, 5), shares=(0.1,), seeds=(0, 1)),
            clustering=Clustering(k_means=KMeans(starts=2)),
            open_world=OpenWorld(k_means=KMeans(starts=2), probe=probe),
            geometry=Geometry(alignment_samples=64),
            graph_agreement=GraphAgreement(rows=100),
            calibration=Calibration(probe=probe),
            shot_accuracy=ShotAccuracy(probe=probe),
            bias_accuracy=BiasAccuracy(probe=probe),
            pgd=PGD(steps=2, max_rows=32, sanity_rows=8, sanity_steps=4, probe=probe),
            corruptions=CorruptionRobustness(severities=(3,), max_rows=32, probe=probe),
            background_shift=BackgroundShift(variants=("original", "mixed-rand"), probe=probe),
            attribution=AttributionQuality(Attribution(samples=2), removal_steps=4, max_rows=32, probe=probe),
            transfer=Transfer(max_train_rows=300, max_test_rows=150, probe=probe, knn=KNN(k=20)),
            batch_size=64,
            max_train_rows=300,
            max_test_rows=150,
        )

    def of(self, *protocols: Protocol) -> EvaluationConfig:
        """The same settings with other protocols.

        Example:
            >>> EvaluationConfig(max_test_rows=500).of("pgd").protocols
            ('pgd',)
        """
        return replace(self, protocols=protocols)

    def evaluators(self) -> tuple[FeatureEvaluator | SubjectEvaluator, ...]:
        """The chosen evaluators, in order."""
        return tuple(getattr(self, name) for name in self.protocols)
