"""Counter-based randomness: every random number is a function of what it is for, never of call order.

A key such as ("augmentation", seed, epoch, frame) is hashed; the hash keys a Philox counter generator. So the
same frame gets the same augmentation and the same queries in any process, worker and order.
"""

import hashlib

import numpy as np


def key_digest(*key: str | int) -> bytes:
    """SHA-256 of the parts of a key. Each part enters with its type and length, so no two keys are confused.

    Raises:
        ValueError: a part is neither a string nor an integer.
    """
    sha256 = hashlib.sha256()
    for part in key:
        kind, text = ("s", part) if isinstance(part, str) else ("i", f"{part:d}")
        raw = text.encode()
        sha256.update(f"{kind}{len(raw)}:".encode() + raw)
    return sha256.digest()


def generator(*key: str | int) -> np.random.Generator:
    """A fresh generator for this key: Philox with the first 128 bits of the key's SHA-256."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key_digest(*key)[:16], "little")))


def torch_seed(*key: str | int) -> int:
    """A 63-bit seed for `torch.Generator.manual_seed`, 0 <= seed < 2**63."""
    return int.from_bytes(key_digest(*key)[:8], "little") >> 1
