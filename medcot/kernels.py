"""The inner loops of deduplication: UTF-8 bytes → tokens → shingles → MinHash → bands, and the exact Jaccard similarity of pairs.

Plain functions of integers and pointers, without an allocation or an exception. medcot/compiled.py makes machine code of them; as
Python on numpy arrays they run too. Their readable twins in numpy are `shingles` (medcot/matching.py) and `signatures`
(medcot/minhash.py): the tests compare bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

PRIME = np.uint64(0x9E3779B97F4A7C15)
ONE, ZERO, HALF, SHIFT = np.uint64(1), np.uint64(0), np.uint64(32), np.uint64(33)
MIX1, MIX2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
PREMIX1, PREMIX2, S13, S16 = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35), np.uint32(13), np.uint32(16)
TOP = np.uint32(0xFFFFFFFF)
# An entry of the fold table: the folded code point in its lower 21 bits, above them what kind of character it is.
POINT_BITS, POINT_MASK = 21, (1 << 21) - 1
SEPARATOR, WORD, DIGIT, SINGLE, BETWEEN_DIGITS = range(5)


def mix(value: Any) -> Any:
    """MurmurHash3's 64-bit finaliser."""
    value = (value ^ (value >> SHIFT)) * MIX1
    value = (value ^ (value >> SHIFT)) * MIX2
    return value ^ (value >> SHIFT)


def decode(text: Any, at: int) -> Any:
    """The code point that begins at this byte, and the position after it; a lone surrogate stands as its three bytes."""
    byte = text[at] + 0
    if byte < 0x80:
        return byte, at + 1
    if byte < 0xE0:
        return (byte & 31) << 6 | (text[at + 1] & 63), at + 2
    if byte < 0xF0:
        return (byte & 15) << 12 | (text[at + 1] & 63) << 6 | (text[at + 2] & 63), at + 3
    return (byte & 7) << 18 | (text[at + 1] & 63) << 12 | (text[at + 2] & 63) << 6 | (text[at + 3] & 63), at + 4


def token_hashes(text: Any, start: int, end: int, table: Any, out: Any) -> Any:
    """Write one hash a token and return how many; a text without a token is one token, as it stands."""
    count, at, waiting = 0, start, 0  # waiting: a separator behind a digit, which counts if a digit follows
    in_word, after_digit = False, False
    value, power = ZERO, ONE
    while at < end:
        point, at = decode(text, at)
        entry = table[point] + 0
        kind, folded = entry >> POINT_BITS, entry & POINT_MASK
        if waiting != 0:
            if kind == DIGIT:
                power *= PRIME
                value += np.uint64(waiting + 1) * power
            else:
                out[count] = value
                count, in_word = count + 1, False
            waiting = 0
        if kind in (WORD, DIGIT):
            if not in_word:
                in_word, value, power = True, ZERO, ONE
            power *= PRIME
            value += np.uint64(folded + 1) * power
        elif kind == BETWEEN_DIGITS and in_word and after_digit:
            waiting = folded
        else:
            if in_word:
                out[count] = value
                count, in_word = count + 1, False
            if kind == SINGLE:
                out[count] = np.uint64(folded + 1) * PRIME
                count += 1
        after_digit = kind == DIGIT
    if in_word:
        out[count] = value
        count += 1
    if count == 0:
        value, power, at = ZERO, ONE, start
        while at < end:
            point, at = decode(text, at)
            power *= PRIME
            value += np.uint64(point + 1) * power
        out[0] = value
        count = 1
    for j in range(count):
        out[j] = mix(out[j])
    return count


def shingle_hashes(text: Any, start: int, end: int, table: Any, size: int, tokens: Any, out: Any) -> Any:
    """Write the hash of every run of `size` tokens and return how many; a shorter text is one shingle."""
    count = token_hashes(text, start, end, table, tokens)
    width = min(size, count)
    number = count - width + 1
    for j in range(number):
        out[j] = np.uint64(width)
    for offset in range(width):
        for j in range(number):
            out[j] = out[j] * PRIME + tokens[offset + j]
    for j in range(number):
        out[j] = mix(out[j])
    return number


def sign(
    text: Any, offsets: Any, first: int, last: int, table: Any, size: int, factors: Any, addends: Any, num_perm: int,
    bands: int, rows: int, num_texts: int, tokens: Any, hashes: Any, premixed: Any, signatures: Any, keys: Any, prints: Any,
) -> None:  # fmt: skip
    """Sign texts first…last: signatures (n, num_perm), band keys (bands, n), and the sum of each text's shingle hashes.

    tokens, hashes, premixed  scratch space, one element for each byte of the longest of these texts and one more
    """
    for i in range(first, last):
        number = shingle_hashes(text, offsets[i], offsets[i + 1], table, size, tokens, hashes)
        total = ZERO
        for j in range(number):
            total += hashes[j]
        prints[i] = total
        for j in range(number):
            low = np.uint32(hashes[j] >> HALF)
            low = np.uint32((low ^ (low >> S16)) * PREMIX1)
            low = np.uint32((low ^ (low >> S13)) * PREMIX2)
            premixed[j] = low ^ (low >> S16)
        for k in range(0, num_perm - num_perm % 4, 4):  # four at once: each hash is loaded once for all
            a0, a1, a2, a3 = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
            b0, b1, b2, b3 = addends[k], addends[k + 1], addends[k + 2], addends[k + 3]
            m0, m1, m2, m3 = TOP, TOP, TOP, TOP
            for j in range(number):
                value = premixed[j]
                m0 = min(m0, np.uint32(value * a0 + b0))
                m1 = min(m1, np.uint32(value * a1 + b1))
                m2 = min(m2, np.uint32(value * a2 + b2))
                m3 = min(m3, np.uint32(value * a3 + b3))
            at = i * num_perm + k
            signatures[at], signatures[at + 1], signatures[at + 2], signatures[at + 3] = m0, m1, m2, m3
        for k in range(num_perm - num_perm % 4, num_perm):
            lowest = TOP
            for j in range(number):
                lowest = min(lowest, np.uint32(premixed[j] * factors[k] + addends[k]))
            signatures[i * num_perm + k] = lowest
        for band in range(bands):
            key = ZERO
            for k in range(band * rows, band * rows + rows):
                key = mix(key ^ np.uint64(signatures[i * num_perm + k]))
            keys[band * num_texts + i] = key


def agree(sketches: Any, num_perm: int, pairs: Any, num_pairs: int, at_least: int, out: Any) -> None:
    """Mark the pairs (n, 2) of rows whose sketches, one byte a permutation, agree in at least so many places."""
    for p in range(num_pairs):
        one, other, equal = pairs[2 * p] * num_perm, pairs[2 * p + 1] * num_perm, 0
        for k in range(num_perm):
            equal += sketches[one + k] == sketches[other + k]
        out[p] = equal >= at_least


def fill(hashes: Any, number: int, slots: Any) -> Any:
    """Put hashes into an open-addressed set and return (its mask, how many are distinct); 0 marks an empty slot, and stands as 1."""
    mask = 15
    while mask < 2 * number:
        mask = 2 * mask + 1
    for s in range(mask + 1):
        slots[s] = ZERO
    distinct = 0
    for j in range(number):
        value = max(hashes[j], ONE)
        at = np.int64(value & np.uint64(mask))
        while slots[at] != ZERO and slots[at] != value:
            at = (at + 1) & mask
        if slots[at] == ZERO:
            slots[at] = value
            distinct += 1
    return mask, distinct


def jaccard_pairs(
    text: Any, offsets: Any, pairs: Any, first: int, last: int, table: Any, size: int, tokens: Any, hashes: Any, ours: Any, theirs: Any,
    out: Any,
) -> None:  # fmt: skip
    """Write the exact Jaccard similarity of the shingle sets of pairs first…last; quickest when equal first members are neighbours.

    tokens, hashes  scratch space as in `sign`; ours, theirs  scratch, four times that and 16 more
    """
    previous, mask, num_ours = -1, 0, 0
    for p in range(first, last):
        one, other = pairs[2 * p], pairs[2 * p + 1]
        if one != previous:
            number = shingle_hashes(text, offsets[one], offsets[one + 1], table, size, tokens, hashes)
            mask, num_ours = fill(hashes, number, ours)
            previous = one
        number = shingle_hashes(text, offsets[other], offsets[other + 1], table, size, tokens, hashes)
        their_mask, num_theirs = fill(hashes, number, theirs)
        shared = 0
        for s in range(their_mask + 1):
            value = theirs[s]
            if value != ZERO:
                at = np.int64(value & np.uint64(mask))
                while ours[at] != ZERO and ours[at] != value:
                    at = (at + 1) & mask
                shared += ours[at] == value
        out[p] = shared / (num_ours + num_theirs - shared)


def place(text: Any, offsets: Any, number: int, at: Any, out: Any) -> None:
    """Copy texts to where in `out` each shall begin."""
    for i in range(number):
        start, to = offsets[i], at[i]
        for j in range(offsets[i + 1] - start):
            out[to + j] = text[start + j]


def take(text: Any, offsets: Any, rows: Any, number: int, at: Any, out: Any) -> None:
    """Copy the texts of these rows, each to its place in `out`."""
    for i in range(number):
        start, to = offsets[rows[i]], at[i]
        for j in range(offsets[rows[i] + 1] - start):
            out[to + j] = text[start + j]


HELPERS = (mix, decode, token_hashes, shingle_hashes, fill)
# By numpy's codes: u1 is a byte, i8 a 64-bit integer; * a pointer to the first of many.
SIGNATURES = {
    sign: "u1* i8* i8 i8 u4* i8 u4* u4* i8 i8 i8 i8 u8* u8* u4* u4* u8* u8*",
    agree: "u1* i8 i8* i8 i8 u1*",
    jaccard_pairs: "u1* i8* i8* i8 i8 u4* i8 u8* u8* u8* u8* f8*",
    place: "u1* i8* i8 i8* u1*",
    take: "u1* i8* i8* i8 i8* u1*",
}
