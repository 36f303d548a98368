"""Depth at the points that somebody asks for: a trained run as a model that answers for any image."""
