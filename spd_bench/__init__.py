"""The harness around sparse query-point depth: composition, training, protocol, statistics."""
