"""Seeds derived by name, so that every random choice depends on its purpose and not on when it is made."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on all parts, in order; the same on every machine.

    Example: ``derive_seed(run_seed, "train", step, prompt.uid)``.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
