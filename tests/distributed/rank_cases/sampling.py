"""Losses of two views whose negatives are weighed or corrected."""

from __future__ import annotations

from kinfolk import losses
from rank_cases.pairs import two_views, two_views_with_ids

CASES = {
    "HardNegativeInfoNCE": two_views(losses.HardNegativeInfoNCELoss, beta=1.0),
    "HardNegativeInfoNCE, corrected, ids": two_views_with_ids(losses.HardNegativeInfoNCELoss, beta=0.5, tau_plus=0.05),
    "DebiasedInfoNCE": two_views(losses.DebiasedInfoNCELoss, tau_plus=0.1),
    "DebiasedInfoNCE, ids": two_views_with_ids(losses.DebiasedInfoNCELoss, tau_plus=0.4),
}

RING = list(CASES)
