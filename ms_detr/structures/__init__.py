"""The records that travel between the rooms of a detector.

Shape letters, used in every docstring of the package:

=====  =====================================================================
``B``  images of a batch
``C``  channels of a token (``embed_dim``)
``G``  objects of an image, padded to the largest count of the batch
``K``  classes
``L``  decoder layers (the leading axis of predictions and assignments)
``Q``  queries; for the encoder's proposals the tokens ``S`` take their place
``S``  tokens of all feature levels together
``T``  queries assigned to one object (1 for one-to-one supervision)
``V``  feature levels
=====  =====================================================================

Boxes are ``(cx, cy, w, h)`` in fractions of the unpadded image unless a name says otherwise.
A padding mask is True where there is padding.
"""

from .assignment import Assignment
from .candidates import NO_CANDIDATES, Candidates
from .geometry import FeaturePyramid, Memory, TokenGrid, stride_of, unpadded_sizes, valid_ratio
from .losses import CountedLosses
from .precision import at_least_single
from .predictions import DECODER, ENCODER, Predictions, PredictionSet, QueryMasks, Source
from .queries import GroupQueries, PositionFunction, Queries, SpatialFunction
from .rows import HasRows, Rows
from .shown import output_scale, output_size, shown_part, shown_size
from .targets import Step, Targets

__all__ = [
    "DECODER",
    "ENCODER",
    "NO_CANDIDATES",
    "Assignment",
    "Candidates",
    "CountedLosses",
    "FeaturePyramid",
    "GroupQueries",
    "HasRows",
    "Memory",
    "PositionFunction",
    "PredictionSet",
    "Predictions",
    "Queries",
    "QueryMasks",
    "Rows",
    "Source",
    "SpatialFunction",
    "Step",
    "Targets",
    "TokenGrid",
    "at_least_single",
    "output_scale",
    "output_size",
    "shown_part",
    "shown_size",
    "stride_of",
    "unpadded_sizes",
    "valid_ratio",
]
