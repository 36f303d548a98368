"""Baselines for SPD: dense decoders, simple sparse ones, and the literal transcription of the paper."""
