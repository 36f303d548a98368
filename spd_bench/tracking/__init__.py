"""MLflow: a copy of the run folders to browse, made at no run's expense.

`entry` says what one MLflow run holds, `folders` makes such entries from a run root, `mlflow_store` writes them and
alone imports MLflow, `tracker` does so beside a run that goes on, and for `spd-bench sync`.
"""
