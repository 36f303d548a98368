"""A trained run as a model that returns depth at given points of any image."""
