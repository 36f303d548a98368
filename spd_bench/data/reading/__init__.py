"""Reads files that may be damaged or hostile: images, archives, HDF5."""
