"""Digests of memory, at the speed of reading it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit

Words = NDArray[np.uint64]

BLOCK = 1024
"""Words that are added with keys of their own."""
PIECE = 2**16
"""Words that a thread reads at a time."""
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
ODD, SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)


@njit(nogil=True)
def _sums(words: Words, keys: Words, others: Words) -> tuple[np.uint64, np.uint64]:
    one = two = np.uint64(0)
    for i in range(words.shape[0]):
        low, high = words[i] & LOW, words[i] >> HALF
        one += ((low + keys[i]) & LOW) * ((high + (keys[i] >> HALF)) & LOW)
        two += ((low + others[i]) & LOW) * ((high + (others[i] >> HALF)) & LOW)
    return one, two


@njit(nogil=True)
def digest(words: Words, keys: Words, found: Words) -> None:
    """Two sums of 64 bits; other words have the same ones once in 2^64.

    NH of J. Black et al., "UMAC: fast and secure message authentication", CRYPTO 1999, section 4:
    the sum, modulo 2^64, of products of the two halves of every word, to each of which a random
    half is added modulo 2^32. Two different blocks have the same sum once in 2^32, whatever they
    are; a second one with the keys moved on makes it 2^64. Blocks are joined by a bijection of
    each, so that where only one differs the whole does.

    Args:
        words: (n,)
        keys: (BLOCK + 2,) random.
        found: (2,), written.
    """
    one = two = np.uint64(words.shape[0])
    for start in range(0, words.shape[0], BLOCK):
        block = words[start : start + BLOCK]
        first, second = _sums(block, keys[:BLOCK], keys[2:])
        one, two = (one ^ first) * ODD, (two ^ second) * ODD
        one, two = one ^ (one >> SHIFT), two ^ (two >> SHIFT)
    found[0], found[1] = one, two


@njit(nogil=True)
def digests(first: int, last: int, words: Words, keys: Words, found: Words) -> None:
    """:func:`digest` of pieces of :data:`PIECE` words, for several threads.

    Args:
        first: Pieces first..last are done.
        last: See ``first``.
        words: (n,)
        keys: See :func:`digest`.
        found: (⌈n/PIECE⌉, 2), written.
    """
    for k in range(first, last):
        digest(words[k * PIECE : (k + 1) * PIECE], keys, found[k])
