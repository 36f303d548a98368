"""Scoring: a model's predictions, the metrics, and the data set and protocol that they are scored with."""
