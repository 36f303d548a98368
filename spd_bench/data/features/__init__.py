"""Frozen features on disk: shards, the shelf that holds them, and the cache that all suites share."""
