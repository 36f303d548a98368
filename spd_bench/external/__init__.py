"""Scores predictions of another program like a suite's own."""
