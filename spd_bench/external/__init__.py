"""Scores somebody else's predictions as a suite's own."""
