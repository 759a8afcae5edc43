"""The objectives: each a function giving one value per anchor, and a module around it.

Importing this room needs torch and numpy only.
"""

from kinfolk.losses.align_uniform import AlignUniformLoss as AlignUniformLoss
from kinfolk.losses.balanced_softmax import BalancedSoftmaxLoss as BalancedSoftmaxLoss
from kinfolk.losses.bregman import BregmanLoss as BregmanLoss
from kinfolk.losses.cacr import CACRLoss as CACRLoss
from kinfolk.losses.clip import CLIPLoss as CLIPLoss
from kinfolk.losses.cmc import CMCLoss as CMCLoss
from kinfolk.losses.dcl import DCLLoss as DCLLoss
from kinfolk.losses.debiased import DebiasedInfoNCELoss as DebiasedInfoNCELoss
from kinfolk.losses.e_sup_con import ESupConLoss as ESupConLoss
from kinfolk.losses.eps_sup import EpsSupConLoss as EpsSupConLoss
from kinfolk.losses.eps_sup import EpsSupInfoNCELoss as EpsSupInfoNCELoss
from kinfolk.losses.fair_kl import FairKLLoss as FairKLLoss
from kinfolk.losses.fnc import FNCLoss as FNCLoss
from kinfolk.losses.graph_contrastive import GraphContrastiveLoss as GraphContrastiveLoss
from kinfolk.losses.hard_negatives import HardNegativeInfoNCELoss as HardNegativeInfoNCELoss
from kinfolk.losses.info_nce import InfoNCELoss as InfoNCELoss
from kinfolk.losses.inter_clr import InterCLRLoss as InterCLRLoss
from kinfolk.losses.mmcl import MMCLLoss as MMCLLoss
from kinfolk.losses.mochi import MoCHiLoss as MoCHiLoss
from kinfolk.losses.nnclr import NNCLRLoss as NNCLRLoss
from kinfolk.losses.nt_xent import NTXentLoss as NTXentLoss
from kinfolk.losses.open_con import OpenConLoss as OpenConLoss
from kinfolk.losses.pa_co import PaCoLoss as PaCoLoss
from kinfolk.losses.relic import ReLICLoss as ReLICLoss
from kinfolk.losses.renyi_cl import RenyiCLLoss as RenyiCLLoss
from kinfolk.losses.res_com import ResComLoss as ResComLoss
from kinfolk.losses.sce import SCELoss as SCELoss
from kinfolk.losses.sig_lip import SigLIPLoss as SigLIPLoss
from kinfolk.losses.spectral import SpectralContrastiveLoss as SpectralContrastiveLoss
from kinfolk.losses.sup_con import SupConLoss as SupConLoss
from kinfolk.losses.uni_con import UniConLoss as UniConLoss
from kinfolk.losses.unpaired_mmcl import UnpairedMMCLLoss as UnpairedMMCLLoss
from kinfolk.losses.x_sample import XSampleLoss as XSampleLoss

__all__ = [
    "AlignUniformLoss",
    "BalancedSoftmaxLoss",
    "BregmanLoss",
    "CACRLoss",
    "CLIPLoss",
    "CMCLoss",
    "DCLLoss",
    "DebiasedInfoNCELoss",
    "ESupConLoss",
    "EpsSupConLoss",
    "EpsSupInfoNCELoss",
    "FNCLoss",
    "FairKLLoss",
    "GraphContrastiveLoss",
    "HardNegativeInfoNCELoss",
    "InfoNCELoss",
    "InterCLRLoss",
    "MMCLLoss",
    "MoCHiLoss",
    "NNCLRLoss",
    "NTXentLoss",
    "OpenConLoss",
    "PaCoLoss",
    "ReLICLoss",
    "RenyiCLLoss",
    "ResComLoss",
    "SCELoss",
    "SigLIPLoss",
    "SpectralContrastiveLoss",
    "SupConLoss",
    "UniConLoss",
    "UnpairedMMCLLoss",
    "XSampleLoss",
]
