"""Layouts of published indoor data sets, each with its own facts: unit, void values, registration, splits, scenes."""
