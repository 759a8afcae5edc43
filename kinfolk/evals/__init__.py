"""Evaluation on frozen features: every protocol beside raw pixels and an untrained encoder."""

from kinfolk.evals.baselines import CentredRawPixels as CentredRawPixels
from kinfolk.evals.baselines import RawPixels as RawPixels
from kinfolk.evals.cross_retrieval import CrossRetrieval as CrossRetrieval
from kinfolk.evals.evaluate import EvaluationConfig as EvaluationConfig
from kinfolk.evals.evaluate import evaluate as evaluate
from kinfolk.evals.evaluate import evaluation_notes as evaluation_notes
from kinfolk.evals.features import Features as Features
from kinfolk.evals.features import FeatureSplits as FeatureSplits
from kinfolk.evals.features import extract as extract
from kinfolk.evals.features import extract_views as extract_views
from kinfolk.evals.few_label_probe import FewLabelProbe as FewLabelProbe
from kinfolk.evals.geometry import Geometry as Geometry
from kinfolk.evals.knn import KNN as KNN
from kinfolk.evals.linear_probe import LinearHead as LinearHead
from kinfolk.evals.linear_probe import LinearProbe as LinearProbe
from kinfolk.evals.protocol import Evaluator as Evaluator
from kinfolk.evals.protocol import FeatureEvaluator as FeatureEvaluator
from kinfolk.evals.protocol import Measurement as Measurement
from kinfolk.evals.protocol import SubjectEvaluator as SubjectEvaluator
from kinfolk.evals.records import Record as Record
from kinfolk.evals.retrieval import Retrieval as Retrieval
from kinfolk.evals.subject import Subject as Subject
from kinfolk.evals.table import format_table as format_table
from kinfolk.evals.table import markdown_table as markdown_table

__all__ = [
    "KNN",
    "CentredRawPixels",
    "CrossRetrieval",
    "EvaluationConfig",
    "Evaluator",
    "FeatureEvaluator",
    "FeatureSplits",
    "Features",
    "FewLabelProbe",
    "Geometry",
    "LinearHead",
    "LinearProbe",
    "Measurement",
    "RawPixels",
    "Record",
    "Retrieval",
    "Subject",
    "SubjectEvaluator",
    "evaluate",
    "evaluation_notes",
    "extract",
    "extract_views",
    "format_table",
    "markdown_table",
]
