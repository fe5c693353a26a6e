"""BLAKE3 in plain Python: the hash and the derive_key mode, 32 bytes out.

Written from the specification (github.com/BLAKE3-team/BLAKE3-specs), for checking and not for speed.
"""

import struct

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
# The columns and then the diagonals of the 4 x 4 state.
LANES = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
DERIVE_KEY_CONTEXT, DERIVE_KEY_MATERIAL = 32, 64
CHUNK_LEN, BLOCK_LEN = 1024, 64
MASK = 0xFFFFFFFF


def _rotate(word, bits):
    return ((word >> bits) | (word << (32 - bits))) & MASK


def _mix(state, lane, x, y):
    a, b, c, d = (state[i] for i in lane)
    a = (a + b + x) & MASK
    d = _rotate(d ^ a, 16)
    c = (c + d) & MASK
    b = _rotate(b ^ c, 12)
    a = (a + b + y) & MASK
    d = _rotate(d ^ a, 8)
    c = (c + d) & MASK
    b = _rotate(b ^ c, 7)
    for i, word in zip(lane, (a, b, c, d)):
        state[i] = word


def _compress(chaining, block, counter, length, flags):
    words = list(struct.unpack("<16I", block.ljust(BLOCK_LEN, b"\0")))
    state = list(chaining) + list(IV[:4]) + [counter & MASK, counter >> 32, length, flags]
    for _ in range(7):
        for number, lane in enumerate(LANES):
            _mix(state, lane, words[2 * number], words[2 * number + 1])
        words = [words[i] for i in PERMUTATION]
    return [state[i] ^ state[i + 8] for i in range(8)]


def _chunk(key, data, counter, flags, root):
    blocks = [data[i:i + BLOCK_LEN] for i in range(0, len(data), BLOCK_LEN)] or [b""]
    chaining = key
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        block_flags = flags | (CHUNK_START if number == 0 else 0)
        block_flags |= (CHUNK_END | root) if last else 0
        chaining = _compress(chaining, block, counter, len(block), block_flags)
    return chaining


def _tree(key, data, counter, flags, root):
    if len(data) <= CHUNK_LEN:
        return _chunk(key, data, counter, flags, root)
    chunks = (len(data) - 1) // CHUNK_LEN
    left = CHUNK_LEN << (chunks.bit_length() - 1)
    words = _tree(key, data[:left], counter, flags, 0)
    words += _tree(key, data[left:], counter + left // CHUNK_LEN, flags, 0)
    return _compress(key, struct.pack("<16I", *words), 0, BLOCK_LEN, flags | PARENT | root)


def blake3(data):
    """The BLAKE3 hash of bytes."""
    return struct.pack("<8I", *_tree(list(IV), data, 0, 0, ROOT))


def derive_key(context, material):
    """BLAKE3 derive_key: a key for one purpose, which the context text names."""
    key = _tree(list(IV), context.encode(), 0, DERIVE_KEY_CONTEXT, ROOT)
    return struct.pack("<8I", *_tree(key, material, 0, DERIVE_KEY_MATERIAL, ROOT))
