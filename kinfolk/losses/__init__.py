"""The objectives: each a function giving one value per anchor, and a module around it.

Importing this room needs torch and numpy only.
"""

from kinfolk.losses.cacr import CACRLoss as CACRLoss
from kinfolk.losses.clip import CLIPLoss as CLIPLoss
from kinfolk.losses.dcl import DCLLoss as DCLLoss
from kinfolk.losses.graph_contrastive import GraphContrastiveLoss as GraphContrastiveLoss
from kinfolk.losses.info_nce import InfoNCELoss as InfoNCELoss
from kinfolk.losses.nt_xent import NTXentLoss as NTXentLoss
from kinfolk.losses.sup_con import SupConLoss as SupConLoss
from kinfolk.losses.x_sample import XSampleLoss as XSampleLoss

__all__ = [
    "CACRLoss",
    "CLIPLoss",
    "DCLLoss",
    "GraphContrastiveLoss",
    "InfoNCELoss",
    "NTXentLoss",
    "SupConLoss",
    "XSampleLoss",
]
