""""""

import time

import torch


def now(device: torch.device) -> float:
    """Seconds of the monotonic clock, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
