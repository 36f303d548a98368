"""Procedurally rendered rooms: a data set that registers like any plugin."""
