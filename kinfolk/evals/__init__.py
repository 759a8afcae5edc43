"""Evaluation on frozen features: every protocol beside raw pixels and an untrained encoder."""

from kinfolk.evals.assignment import adjusted_rand_index as adjusted_rand_index
from kinfolk.evals.assignment import hungarian_accuracy as hungarian_accuracy
from kinfolk.evals.assignment import matched_classes as matched_classes
from kinfolk.evals.assignment import normalised_mutual_information as normalised_mutual_information
from kinfolk.evals.attribution import AttributionQuality as AttributionQuality
from kinfolk.evals.attribution_maps import Attribution as Attribution
from kinfolk.evals.background_shift import BackgroundShift as BackgroundShift
from kinfolk.evals.baselines import CentredRawPixels as CentredRawPixels
from kinfolk.evals.baselines import RawPixels as RawPixels
from kinfolk.evals.bias_accuracy import BiasAccuracy as BiasAccuracy
from kinfolk.evals.calibration import Calibration as Calibration
from kinfolk.evals.clustering import Clustering as Clustering
from kinfolk.evals.clustering import KMeans as KMeans
from kinfolk.evals.confidence import expected_calibration_error as expected_calibration_error
from kinfolk.evals.confidence import fit_temperature as fit_temperature
from kinfolk.evals.config import EvaluationConfig as EvaluationConfig
from kinfolk.evals.corruption import CorruptionRobustness as CorruptionRobustness
from kinfolk.evals.cross_retrieval import CrossRetrieval as CrossRetrieval
from kinfolk.evals.evaluate import Evaluation as Evaluation
from kinfolk.evals.evaluate import evaluate as evaluate
from kinfolk.evals.extraction import extract as extract
from kinfolk.evals.extraction import extract_views as extract_views
from kinfolk.evals.feature_cache import FeatureCache as FeatureCache
from kinfolk.evals.features import Features as Features
from kinfolk.evals.features import FeatureSplits as FeatureSplits
from kinfolk.evals.few_label_probe import FewLabelProbe as FewLabelProbe
from kinfolk.evals.geometry import Geometry as Geometry
from kinfolk.evals.graph_agreement import GraphAgreement as GraphAgreement
from kinfolk.evals.knn import KNN as KNN
from kinfolk.evals.linear_probe import LinearHead as LinearHead
from kinfolk.evals.linear_probe import LinearProbe as LinearProbe
from kinfolk.evals.open_world import OpenWorld as OpenWorld
from kinfolk.evals.open_world import OpenWorldAccuracy as OpenWorldAccuracy
from kinfolk.evals.open_world import open_world_accuracy as open_world_accuracy
from kinfolk.evals.own_classifier import OwnClassifier as OwnClassifier
from kinfolk.evals.pgd import PGD as PGD
from kinfolk.evals.protocol import Evaluator as Evaluator
from kinfolk.evals.protocol import FeatureEvaluator as FeatureEvaluator
from kinfolk.evals.protocol import Measurement as Measurement
from kinfolk.evals.protocol import SubjectEvaluator as SubjectEvaluator
from kinfolk.evals.records import Record as Record
from kinfolk.evals.retrieval import Retrieval as Retrieval
from kinfolk.evals.sgd_probe import SGDProbe as SGDProbe
from kinfolk.evals.shot_accuracy import ShotAccuracy as ShotAccuracy
from kinfolk.evals.subject import Subject as Subject
from kinfolk.evals.table import format_table as format_table
from kinfolk.evals.table import markdown_table as markdown_table
from kinfolk.evals.text_retrieval import TextRetrieval as TextRetrieval
from kinfolk.evals.towers import Towers as Towers
from kinfolk.evals.transfer import Transfer as Transfer
from kinfolk.evals.zero_shot import ZeroShot as ZeroShot

__all__ = [
    "KNN",
    "PGD",
    "Attribution",
    "AttributionQuality",
    "BackgroundShift",
    "BiasAccuracy",
    "Calibration",
    "CentredRawPixels",
    "Clustering",
    "CorruptionRobustness",
    "CrossRetrieval",
    "Evaluation",
    "EvaluationConfig",
    "Evaluator",
    "FeatureCache",
    "FeatureEvaluator",
    "FeatureSplits",
    "Features",
    "FewLabelProbe",
    "Geometry",
    "GraphAgreement",
    "KMeans",
    "LinearHead",
    "LinearProbe",
    "Measurement",
    "OpenWorld",
    "OpenWorldAccuracy",
    "OwnClassifier",
    "RawPixels",
    "Record",
    "Retrieval",
    "SGDProbe",
    "ShotAccuracy",
    "Subject",
    "SubjectEvaluator",
    "TextRetrieval",
    "Towers",
    "Transfer",
    "ZeroShot",
    "adjusted_rand_index",
    "evaluate",
    "expected_calibration_error",
    "extract",
    "extract_views",
    "fit_temperature",
    "format_table",
    "hungarian_accuracy",
    "markdown_table",
    "matched_classes",
    "normalised_mutual_information",
    "open_world_accuracy",
]
