"""Data sets, augmentation and query sampling."""
