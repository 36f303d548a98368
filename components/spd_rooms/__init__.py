"""Procedurally rendered rooms: a data set that registers like anybody's plugin."""
