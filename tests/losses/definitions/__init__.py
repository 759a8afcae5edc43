"""Every loss as its definition reads: double loops over pairs of rows, one value per anchor, in float64.

The scalars are float64 tensors, so that autograd gives the definition's own gradient; nothing here is vectorised over
pairs and nothing is shared with the library. Each function returns (values [anchors], valid): `valid` says which
anchors have a target; an anchor without one has the value 0. A loss that is one number for the batch has one "anchor".
"""

from definitions.graphs import class_table_weights as class_table_weights
from definitions.graphs import graph_contrastive as graph_contrastive
from definitions.graphs import kernel_weights as kernel_weights
from definitions.graphs import xsample as xsample
from definitions.labels import supcon as supcon
from definitions.loops import Loops as Loops
from definitions.loops import finite_difference as finite_difference
from definitions.loops import mean as mean
from definitions.modalities import clip as clip
from definitions.pairs import dcl as dcl
from definitions.pairs import ntxent as ntxent
from definitions.queue import infonce as infonce
from definitions.views import cacr as cacr
from definitions.views import cacr_halves as cacr_halves
