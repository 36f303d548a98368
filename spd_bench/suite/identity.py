"""Which identity each field of a suite is part of, or why it is part of none (docs/adr/0003-identity.md)."""

from collections.abc import Mapping

from spd_bench.suite.schema import MODEL_SLOTS, WITHOUT_EFFECT, Augment, Axes, Evaluation, Train

FORMAT = 1
"""Raise it when the harness itself computes something else from the same configuration."""
TRAINING, EVALUATION = "training", "evaluation"
_JOBS = "says which jobs there are; each counts by what it is"
_MERGED = "merged before anything is run; the values themselves count"
_REPORT = "computed anew from what was scored"
IDENTITY: Mapping[str, str] = {
    "suite": "a name, for people",
    "description": "for people",
    "extends": _MERGED,
    "base.name": "a name, for people",
    **{f"base.{slot}": TRAINING for slot in MODEL_SLOTS},
    "data.dataset": TRAINING,
    "data.test": TRAINING,
    "data.image_size": TRAINING,
    "data.query_sampler": TRAINING,
    **{f"data.augment.{name}": TRAINING for name in Augment.model_fields},
    "data.cache": TRAINING,
    "data.cache_limit_gb": "says whether there is room, before anything is encoded",
    **{f"train.{name}": TRAINING for name in Train.model_fields if name not in WITHOUT_EFFECT},
    "train.validations": "validation changes neither weights nor random numbers",
    "train.workers": "processes that read data; the numbers do not depend on it",
    **{f"eval.{name}": EVALUATION for name in Evaluation.model_fields},
    "seeds": TRAINING,
    **{f"axes.{name}": _JOBS for name in Axes.model_fields},
    "baselines": _JOBS,
    "steps": _JOBS,
    "report.primary.metric": _REPORT,
    "report.primary.k": _REPORT,
    "report.family": _REPORT,
    "report.equivalence": _REPORT,
    "profiles": _MERGED,
    "fallback.profile": _MERGED,
}
"""Every field of a suite → the identity that it is part of, else why it is part of neither. What trains counts in the
evaluation too. Of a component every option counts but those in its `places`."""
