"""Costs of a model: time, multiply-adds and memory."""
