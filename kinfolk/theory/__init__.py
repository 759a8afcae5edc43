"""What is known in closed form about two modalities: cross-covariances, their SVD solution, matching without pairs."""

from kinfolk.theory.cross_covariance import Phi as Phi
from kinfolk.theory.cross_covariance import Psi as Psi
from kinfolk.theory.cross_covariance import checked_form as checked_form
from kinfolk.theory.cross_covariance import contrastive_cross_covariance as contrastive_cross_covariance
from kinfolk.theory.descent import Descent as Descent
from kinfolk.theory.descent import descend as descend
from kinfolk.theory.matching import Match as Match
from kinfolk.theory.matching import match as match
from kinfolk.theory.sinkhorn import Plan as Plan
from kinfolk.theory.sinkhorn import sinkhorn as sinkhorn
from kinfolk.theory.spiked import SpikedModel as SpikedModel
from kinfolk.theory.spiked import SpikedPairs as SpikedPairs
from kinfolk.theory.subspaces import masked_solution as masked_solution
from kinfolk.theory.subspaces import sin_theta as sin_theta
from kinfolk.theory.subspaces import svd_solution as svd_solution
from kinfolk.theory.top_pairs import top_pairs as top_pairs
from kinfolk.theory.unpaired import UnpairedFit as UnpairedFit
from kinfolk.theory.unpaired import fit_unpaired as fit_unpaired
from kinfolk.theory.unpaired import match_precision as match_precision

__all__ = [
    "Descent",
    "Match",
    "Plan",
    "SpikedModel",
    "SpikedPairs",
    "UnpairedFit",
    "contrastive_cross_covariance",
    "descend",
    "fit_unpaired",
    "masked_solution",
    "match",
    "match_precision",
    "sin_theta",
    "sinkhorn",
    "svd_solution",
    "top_pairs",
]
