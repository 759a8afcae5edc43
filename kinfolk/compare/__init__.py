"""Which objective is better here: methods x seeds x settings at one budget, in one table, plots and a page."""

from kinfolk.compare.comparison import compare as compare
from kinfolk.compare.comparison import describe_plan as describe_plan
from kinfolk.compare.comparison import read_config as read_config
from kinfolk.compare.config import ComparisonConfig as ComparisonConfig
from kinfolk.compare.config import Contender as Contender
from kinfolk.compare.config import Variation as Variation
from kinfolk.compare.config import contender as contender
from kinfolk.compare.results import Comparison as Comparison
from kinfolk.compare.results import Cost as Cost
from kinfolk.compare.results import Result as Result

__all__ = [
    "Comparison",
    "ComparisonConfig",
    "Contender",
    "Cost",
    "Result",
    "Variation",
    "compare",
    "contender",
    "describe_plan",
    "read_config",
]
