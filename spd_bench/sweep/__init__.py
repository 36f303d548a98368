"""`spd-bench sweep`: an Optuna study over a suite, its trials, tables and figures."""
