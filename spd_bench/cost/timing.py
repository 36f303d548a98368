""""""

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from spd_bench.api import Features, FrameId, PointDepthModel
from spd_bench.data.batches import ScoredImages
from spd_bench.data.views import FrozenFeatures, unit_range
from spd_bench.errors import SpdError, StateError
from spd_bench.model.compose import check_depth
from spd_bench.store import sealed

def now(device: torch.device) -> float:
    """Seconds of the monotonic clock, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


