"""Learning rate over a run, in fractions of its length."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
)

# A tenth after 11 of 12 epochs.
step_12ep = L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[11], num_updates=12)
# A tenth after 40 of 50 epochs.
step_50ep = L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[40], num_updates=50)

warmup_cosine = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_factor=0.01,
    warmup_length=0.05,
    warmup_method="linear",
)
