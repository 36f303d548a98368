"""Slot `routing`: rules that choose the anchors of each query (§6.3)."""
