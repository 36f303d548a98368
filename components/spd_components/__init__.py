"""SPD v13 and its variants, one component per file. Nothing here is imported by the harness: entry points only."""
