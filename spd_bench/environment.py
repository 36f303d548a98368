"""Environment variables that are set before libraries are imported, where the user has not set them."""

import os

DEFAULTS = {
    "DO_NOT_TRACK": "true",  # MLflow takes nothing else
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # with MLflow's own defaults a dead server holds a call for 4 minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MPLBACKEND": "Agg",
    # threads that spin at barriers stall for seconds as soon as another process wants a core (docs/adr/0004)
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""No telemetry, short waits for servers, no windows, threads that sleep."""


def set_defaults() -> None:
    """Sets each variable of `DEFAULTS` that is not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
