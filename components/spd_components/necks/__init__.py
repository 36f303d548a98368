"""Slot `neck`: the encoder's four maps to a pyramid (§4)."""
