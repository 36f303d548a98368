"""The identity that each field of a suite belongs to, or why it belongs to none (docs/adr/0003-identity.md)."""

from collections.abc import Mapping

from spd_bench.suite.schema import MODEL_SLOTS, WITHOUT_EFFECT, Augment, Axes, Evaluation, Train

FORMAT = 1
"""Version of the harness's own computation. Raise it when the same configuration gives other numbers."""
TRAINING, EVALUATION = "training", "evaluation"
_JOBS = "lists the jobs; each job's identity holds its own content"
_MERGED = "merged into the values, which have their own entries"
_REPORT = "computed from stored predictions"
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
    "data.cache_limit_gb": "a limit that is checked before encoding",
    **{f"train.{name}": TRAINING for name in Train.model_fields if name not in WITHOUT_EFFECT},
    "train.validations": "validation changes neither weights nor random numbers",
    "train.workers": "processes that read data; they change no number",
    **{f"eval.{name}": EVALUATION for name in Evaluation.model_fields},
    "seeds": TRAINING,
    **{f"axes.{name}": _JOBS for name in Axes.model_fields},
    "baselines": _JOBS,
    "steps": _JOBS,
    "report.primary.metric": _REPORT,
    "report.primary.k": _REPORT,
    "report.family": _REPORT,
    "report.equivalence": _REPORT,
    "report.pictures.rows": _REPORT,
    "report.pictures.columns": _REPORT,
    "profiles": _MERGED,
    "fallback.profile": _MERGED,
}
"""Field of a suite → "training", "evaluation", or the reason why it belongs to neither. The evaluation's identity
includes the training's. Every option of a component counts except those in its `places`."""
