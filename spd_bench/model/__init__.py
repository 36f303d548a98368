"""A composition built into a model: composing, checking, matching widths, describing, diagnosing."""
