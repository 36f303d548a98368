"""Slot `depth_head`: depth in metres from the query vector (§6.5)."""
