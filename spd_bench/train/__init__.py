"""Training: the loop over shared batches, and the losses (§7)."""
