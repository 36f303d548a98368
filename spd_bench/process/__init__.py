"""Runs a call in another process and survives its end; knows no command."""
