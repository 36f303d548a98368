"""Files below a run root: atomic writes, sealed records, and the differences between two records."""
