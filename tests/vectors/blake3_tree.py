# SPDX-License-Identifier: MIT OR Apache-2.0
"""BLAKE3's tree, from its specification: chaining values of pieces, and how they merge.

The `blake3` package shows only whole hashes. Here all chunks of a piece are compressed at once: a word of many chunks
is one big integer of 64-bit lanes, of which the upper halves catch the carries.
"""

import array
import sys

IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
PERMUTATION = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
BLOCK, CHUNK, PIECE = 64, 1024, 1 << 20


def lanes(words):
    """Many words of 32 bits as one integer."""
    return int.from_bytes(b"".join(word.to_bytes(8, "little") for word in words), "little")


def compress(chaining, block, counters, length, flags, count):
    """The compression function in `count` lanes; gives the new chaining value, eight words."""
    ones = int.from_bytes(b"\1\0\0\0\0\0\0\0" * count, "little")
    mask = ones * 0xFFFFFFFF
    low = lanes([counter & 0xFFFFFFFF for counter in counters])
    high = lanes([counter >> 32 for counter in counters])
    v = chaining + [ones * word for word in IV[:4]] + [low, high, ones * length, ones * flags]
    m = block

    def turn(x, n):
        return ((x >> n) | (x << (32 - n))) & mask

    def mix(a, b, c, d, x, y):
        v[a] = (v[a] + v[b] + x) & mask
        v[d] = turn(v[d] ^ v[a], 16)
        v[c] = (v[c] + v[d]) & mask
        v[b] = turn(v[b] ^ v[c], 12)
        v[a] = (v[a] + v[b] + y) & mask
        v[d] = turn(v[d] ^ v[a], 8)
        v[c] = (v[c] + v[d]) & mask
        v[b] = turn(v[b] ^ v[c], 7)

    for _ in range(7):
        mix(0, 4, 8, 12, m[0], m[1])
        mix(1, 5, 9, 13, m[2], m[3])
        mix(2, 6, 10, 14, m[4], m[5])
        mix(3, 7, 11, 15, m[6], m[7])
        mix(0, 5, 10, 15, m[8], m[9])
        mix(1, 6, 11, 12, m[10], m[11])
        mix(2, 7, 8, 13, m[12], m[13])
        mix(3, 4, 9, 14, m[14], m[15])
        m = [m[at] for at in PERMUTATION]
    return [v[at] ^ v[at + 8] for at in range(8)]


def unlane(words, count):
    """Eight words in lanes as `count` chaining values of 32 bytes."""
    columns = [word.to_bytes(8 * count, "little") for word in words]
    return [b"".join(column[8 * at : 8 * at + 4] for column in columns) for at in range(count)]


def words_of(data):
    words = array.array("I", data)
    assert words.itemsize == 4
    if sys.byteorder == "big":
        words.byteswap()
    return words


def lane_column(words):
    column = array.array("Q", words)
    if sys.byteorder == "big":
        column.byteswap()
    return int.from_bytes(column.tobytes(), "little")


def whole_chunks(data, first):
    """The chaining values of chunks of 1024 bytes, the first with the counter `first`."""
    count = len(data) // CHUNK
    words = words_of(data)
    ones = int.from_bytes(b"\1\0\0\0\0\0\0\0" * count, "little")
    value = [ones * word for word in IV]
    counters = range(first, first + count)
    for at in range(16):
        block = [lane_column(words[16 * at + word :: 256]) for word in range(16)]
        flags = (CHUNK_START if at == 0 else 0) | (CHUNK_END if at == 15 else 0)
        value = compress(value, block, counters, BLOCK, flags, count)
    return unlane(value, count)


def short_chunk(data, counter):
    """The chaining value of a chunk of less than 1024 bytes."""
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)] or [b""]
    value = list(IV)
    for at, block in enumerate(blocks):
        flags = (CHUNK_START if at == 0 else 0) | (CHUNK_END if at == len(blocks) - 1 else 0)
        padded = list(words_of(block.ljust(BLOCK, b"\0")))
        value = compress(value, padded, [counter], len(block), flags, 1)
    return unlane(value, 1)[0]


def merge(values, root=False):
    """One chaining value for neighbours: the left subtree takes the largest power of two that is less than all.

    Pairing neighbours level by level, an odd one out going up as it is, makes just these subtrees.
    """
    while len(values) > 1:
        pairs = b"".join(values[: len(values) & ~1])
        count = len(values) // 2
        words = words_of(pairs)
        block = [lane_column(words[word::16]) for word in range(16)]
        ones = int.from_bytes(b"\1\0\0\0\0\0\0\0" * count, "little")
        flags = PARENT | (ROOT if root and len(values) == 2 else 0)
        merged = compress([ones * word for word in IV], block, [0] * count, BLOCK, flags, count)
        values = unlane(merged, count) + values[2 * count :]
    return values[0]


def piece_value(data, index):
    """The chaining value of piece `index` of a Blob with several."""
    whole = len(data) // CHUNK * CHUNK
    first = PIECE // CHUNK * index
    values = whole_chunks(data[:whole], first) if whole else []
    if whole < len(data) or not data:
        values.append(short_chunk(data[whole:], first + whole // CHUNK))
    return merge(values)
