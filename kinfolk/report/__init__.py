"""What a run learnt, to look at: pictures, each a function of plain arrays, and one self-contained page."""

from kinfolk.report.bars import Bar as Bar
from kinfolk.report.bars import draw_bars as draw_bars
from kinfolk.report.curves import draw_curves as draw_curves
from kinfolk.report.curves import series_of as series_of
from kinfolk.report.embedding_map import draw_map as draw_map
from kinfolk.report.embedding_map import embed_2d as embed_2d
from kinfolk.report.neighbours import draw_neighbours as draw_neighbours
from kinfolk.report.neighbours import nearest as nearest
from kinfolk.report.overview import draw_overview as draw_overview
from kinfolk.report.overview import overview as overview
from kinfolk.report.reliability import write_reliability as write_reliability
from kinfolk.report.report import write_report as write_report
from kinfolk.report.similarities import draw_similarities as draw_similarities
from kinfolk.report.similarities import rank_agreement as rank_agreement
from kinfolk.report.weights import draw_weights as draw_weights

__all__ = [
    "Bar",
    "draw_bars",
    "draw_curves",
    "draw_map",
    "draw_neighbours",
    "draw_overview",
    "draw_similarities",
    "draw_weights",
    "embed_2d",
    "nearest",
    "overview",
    "rank_agreement",
    "series_of",
    "write_reliability",
    "write_report",
]
