"""From a suite file to a list of compositions. No module here imports torch."""
