"""Predictions of a split, the metrics over them, and what they are scored by."""
