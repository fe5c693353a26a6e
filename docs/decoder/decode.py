#!/usr/bin/env python3
"""Reads the golden vectors of format version 1 with nothing but the standard library.

Checks object ids, extent ids, shard names, the key schedule, the key commitment, text checksums and
the structure of manifests and layouts. Prints what it checked; exits with 1 on any difference.

    python3 docs/decoder/decode.py [folder of the golden vectors]
"""

import base64
import pathlib
import sys

sys.dont_write_bytecode = True

from blake3 import blake3, derive_key  # noqa: E402

CONTEXT = "datamesh 2026-11 v1 "
LAYOUT_FIELDS = ("version", "code", "k", "m", "shard_len", "segments", "last_shard_len", "placement",
                 "removal", "shards")
PUBLIC_FIELDS = ("version", "suite", "code", "k", "m", "segment_len", "salt", "commitment", "removal",
                 "layout", "extents")
TAG_LEN = 16
KINDS = {"dmv1": (1, 32), "dmr1": (2, 64), "dmo1": (3, 64)}

failures = []


def check(what, have, want):
    """Prints one line for each thing that was compared."""
    same = have == want
    print(("ok    " if same else "WRONG ") + what)
    if not same:
        failures.append(what)
        print(f"      have {show(have)}\n      want {show(want)}")


def show(value):
    return value.hex() if isinstance(value, bytes) else repr(value)


def read_head(data, at):
    """The major type and number of a CBOR item, and where its content begins; shortest forms only."""
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if info < 24:
        return major, info, at
    width = {24: 1, 25: 2, 26: 4, 27: 8}[info]
    number = int.from_bytes(data[at:at + width], "big")
    least = {1: 24, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}[width]
    if number < least or at + width > len(data):
        raise ValueError(f"a number at {at} is not in its shortest form")
    return major, number, at + width


def read_value(data, at):
    """A number or a byte string: all that layouts and manifests are made of."""
    major, number, at = read_head(data, at)
    if major == 0:
        return number, at
    if major == 2 and at + number <= len(data):
        return data[at:at + number], at + number
    raise ValueError(f"unexpected CBOR type {major} or length at {at}")


def read_map(data, names):
    """A map with ascending number keys, as a dictionary by name."""
    major, count, at = read_head(data, 0)
    if major != 5:
        raise ValueError("not a map")
    fields, last = {}, -1
    for _ in range(count):
        key, at = read_value(data, at)
        if not last < key < len(names):
            raise ValueError(f"key {key} is unknown or out of order")
        fields[names[key]], at = read_value(data, at)
        last = key
    if at != len(data) or fields.get("version") != 1:
        raise ValueError("bytes follow the map, or its version is not 1")
    return fields


def chunks(data, length):
    return [data[i:i + length] for i in range(0, len(data), length)]


class Golden:
    """The folder of golden vectors."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.keys = {}
        for line in self.lines("keys.txt"):
            name, value = line.split()
            self.keys[name] = bytes.fromhex(value)

    def lines(self, name):
        return (self.folder / name).read_text("ascii").split("\n")[:-1]

    def hex(self, name):
        return [bytes.fromhex(line) for line in self.lines(name)]


def check_keys(keys):
    def derived(name, context, material):
        check(f"{name} is derived as specified", keys[name], derive_key(CONTEXT + context, material))

    derived("read_key", "read key", keys["owner_secret"])
    derived("removal_secret", "removal secret", keys["owner_secret"])
    derived("removal_hash", "removal hash", keys["removal_secret"])
    derived("key_commitment", "key commitment", keys["read_key"])
    derived("placement_key_of_extent_0", "placement key", keys["salt"] + bytes(8))
    derived("network_name", "network name", keys["mesh_key"])


def check_layout(golden):
    encoded, = golden.hex("layout.hex")
    layout = read_map(encoded, LAYOUT_FIELDS)
    keys, total = golden.keys, layout["k"] + layout["m"]
    check("the extent id is the hash of the layout", blake3(encoded), keys["extent_id"])
    check("the layout's placement key", layout["placement"], keys["placement_key_of_extent_0"])
    check("the layout's removal hash", layout["removal"], keys["removal_hash"])
    shards = golden.hex("shards.hex")
    names = chunks(layout["shards"], 32)
    check("the layout's count of shards", len(names), layout["segments"] * total)
    for number, (shard, name) in enumerate(zip(shards, names)):
        last = number // total == layout["segments"] - 1
        check(f"shard {number} is named by its hash", blake3(shard), name)
        check(f"shard {number}'s length", len(shard), layout["last_shard_len" if last else "shard_len"])
    for number, segment in enumerate(golden.hex("segments.hex")):
        data = b"".join(shards[number * total:number * total + layout["k"]])
        check(f"segment {number} is its data shards without the padding", data[:len(segment)], segment)
        check(f"segment {number}'s padding is zero", any(data[len(segment):]), False)
    return encoded


def check_manifest(golden, kind, layout):
    encoded, = golden.hex(f"manifest_{kind}.hex")
    check(f"{kind}: the object id is the hash of the manifest", blake3(encoded), golden.keys[f"object_id_{kind}"])
    manifest = read_map(encoded, ("version", "public", "sealed"))
    public = read_map(manifest["public"], PUBLIC_FIELDS)
    check(f"{kind}: the read key is the manifest's", public["commitment"],
          derive_key(CONTEXT + "key commitment", golden.keys["read_key"]))
    check(f"{kind}: removal hash", public["removal"], golden.keys["removal_hash"])
    check(f"{kind}: salt", public["salt"], golden.keys["salt"])
    check(f"{kind}: the sealed part has a tag", len(manifest["sealed"]) > TAG_LEN, True)
    check(f"{kind}: the layout inside", public.get("layout"), layout if kind == "single" else None)
    check(f"{kind}: extents", len(public.get("extents", b"")) // 32, 3 if kind == "many" else 0)


def unarmour(prefix, text):
    body = text[len(prefix):].upper()
    data = base64.b32decode(body + "=" * (-len(body) % 8))
    payload, checksum = data[:-4], data[-4:]
    want = derive_key(CONTEXT + "text checksum", prefix.encode() + payload)[:4]
    check(f"{prefix}: the text's checksum", checksum, want)
    return payload


def check_texts(golden):
    keys = golden.keys
    secrets = {"dmo1": keys["owner_secret"], "dmr1": keys["read_key"], "dmv1": b""}
    for text, binary in zip(golden.lines("capabilities.txt"), golden.hex("capabilities.hex")):
        prefix = text[:4]
        code, length = KINDS[prefix]
        payload = unarmour(prefix, text)
        check(f"{prefix}: the payload's length", len(payload), length)
        check(f"{prefix}: id and secret", payload, keys["object_id_single"] + secrets[prefix])
        check(f"{prefix}: the byte form", binary, bytes([1, code]) + payload)
    ticket, = golden.lines("ticket.txt")
    payload = unarmour("dmt1", ticket)
    head = bytes.fromhex("a30001015820")
    check("dmt1: version and mesh key", payload[:38], head + keys["mesh_key"])


def check_hash(keys):
    """Published values and one of five chunks, so that the hash itself is not in question."""
    check("BLAKE3 of nothing", blake3(b"").hex(),
          "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")
    check("BLAKE3 of abc", blake3(b"abc").hex(),
          "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85")
    check("BLAKE3 of 5000 bytes", blake3(bytes(i & 255 for i in range(5000))), keys["hash_of_5000_bytes"])


def main():
    default = pathlib.Path(__file__).resolve().parents[2] / "datamesh-core" / "tests" / "golden"
    golden = Golden(sys.argv[1] if len(sys.argv) > 1 else default)
    check_hash(golden.keys)
    check_keys(golden.keys)
    layout = check_layout(golden)
    for kind in ("inline", "single", "many"):
        check_manifest(golden, kind, layout)
    check_texts(golden)
    print(f"{len(failures)} differences")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
