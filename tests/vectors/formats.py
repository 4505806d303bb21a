# SPDX-License-Identifier: MIT OR Apache-2.0
"""Readers of every format, written from `protocol/FORMATS.md` alone. Each gives what it read, or raises Refused."""

import functools
import re
from collections.abc import Mapping

import cbor2
from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

import blake3_tree
import edwards

MIB, TIB = 1 << 20, 1 << 40
MAX_TIME = 253402300799999


class Refused(Exception):
    """What was read is not of its format."""


def need(condition, why):
    if not condition:
        raise Refused(why)


def derive_key(context, material):
    return blake3(material, derive_key_context=context).digest()


# Section 1: encoding


def items(data, limit):
    """The one value of these bytes, when they are its one encoding."""
    need(len(data) <= limit, f"more than {limit} bytes")
    try:
        value = cbor2.loads(data)
        again = cbor2.dumps(value, canonical=True)
    except RecursionError as error:
        raise Refused("nested too deeply") from error
    except Exception as error:  # cbor2 raises what Python raises, such as OverflowError for absurd lengths.
        raise Refused(f"not CBOR: {error}") from error
    need(again == data, "not the canonical encoding")
    need(depth(value) <= 12, "nested too deeply")
    return value


def depth(value):
    if isinstance(value, Mapping):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, (list, tuple)):
        return 1 + max(map(depth, value), default=0)
    return 0


def uint(limit=2**64 - 1, least=0):
    def read(value):
        need(type(value) is int and least <= value <= limit, f"not a uint from {least} to {limit}")
        return value

    return read


def boolean(value):
    need(type(value) is bool, "not a bool")
    return value


def raw(value, limit):
    need(type(value) is bytes and len(value) <= limit, f"not at most {limit} bytes")
    return value


def octets(limit):
    return lambda value: raw(value, limit).hex()


def fixed(length):
    def read(value):
        need(len(raw(value, length)) == length, f"not {length} bytes")
        return value.hex()

    return read


def string(value, limit):
    need(type(value) is str and len(value.encode()) <= limit, f"not text of at most {limit} bytes")
    return value


DECEIVES = "[\0-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"


def text(limit):
    def read(value):
        string(value, limit)
        need(value and not re.search(DECEIVES, value), "empty, or a character that deceives")
        return value

    return read


def record(fields, check=None):
    """`fields` maps numbers to (name, kind, type), the kind being one, opt or the most values of a list."""

    def read(value):
        need(type(value) is dict, "not a map")
        need(all(type(key) is int and key in fields for key in value), "an unknown field")
        result = {}
        for number, (name, kind, reader) in fields.items():
            if number not in value:
                need(kind != "one", f"{name} is missing")
            elif kind in ("one", "opt"):
                result[name] = reader(value[number])
            else:
                members = value[number]
                need(type(members) is list and 1 <= len(members) <= kind, f"not 1 to {kind} of {name}")
                result[name] = [reader(member) for member in members]
        if check:
            check(result)
        return result

    return read


def choice(variants):
    def read(value):
        need(type(value) is list and len(value) == 2, "not a list of two")
        need(type(value[0]) is int and value[0] in variants, "an unknown variant")
        name, reader = variants[value[0]]
        return {name: reader(value[1])}

    return read


def code(names, first=0):
    def read(value):
        need(type(value) is int and 0 <= value - first < len(names), "an unknown code")
        return names[value - first]

    return read


u64, u32 = uint(), uint(2**32 - 1)
size = uint(TIB)
time = uint(MAX_TIME)
signer = digest = action_id = fixed(32)
instance = fixed(16)


def name_of(length):
    def read(data):
        try:
            shown = data.decode()
        except UnicodeDecodeError as error:
            raise Refused("not UTF-8") from error
        need(re.fullmatch("[0-9a-f]*", shown) and len(shown) == 2 * length, "not the text of a name")
        return shown

    return read


# Section 2: questions


def project(value):
    string(value, 96)
    need(re.fullmatch(r"[a-z0-9._-]+(/[a-z0-9._-]+)*", value), "not a Project")
    need(not {".", ".."} & set(value.split("/")), "a dot is not a part")
    return value


def recipe(value):
    string(value, 48)
    need(re.fullmatch(r"[a-z0-9._-]+@[1-9][0-9]*", value), "not a Recipe")
    need(int(value.split("@")[1]) < 2**32, "a version of more than 32 bits")
    return value


def material(data):
    value = items(data, 96 + 48 + 65536 + 16)
    need(type(value) is list and len(value) == 3, "not a list of three")
    return {"project": project(value[0]), "recipe": recipe(value[1]), "key": octets(65536)(value[2])}


def derive_action(data, secret=None):
    identity = derive_key("potluck 2026-11 action id v1", data)
    if secret is None:
        return identity.hex()
    need(len(secret) >= 16, "a secret of less than 16 bytes")
    return blake3(identity, key=derive_key("potluck 2026-11 project secret v1", secret)).hexdigest()


# Section 3: pieces


def count_pieces(length):
    return max(1, -(-length // MIB))


def check_list(value):
    pieces = count_pieces(value["size"])
    want = 0 if pieces == 1 else pieces
    need(len(value.get("values", "")) == 64 * want, "not a value a piece")
    need(want or "values" not in value, "values for one piece")
    if want:
        value["values"] = re.findall("." * 64, value["values"])


PIECE_LIST = record({1: ("size", "one", size), 2: ("values", "opt", octets(32 * MIB))}, check_list)


def pattern(length):
    period = bytes((i * 7 + i // 251) % 256 for i in range(251 * 256))
    return (period * (length // len(period) + 1))[:length]


@functools.lru_cache(maxsize=None)
def hash_pieces(length):
    """The Digest of a Blob of the vectors, and the chaining values of its pieces."""
    data = pattern(length)
    values = []
    if length > MIB:
        parts = [data[at : at + MIB] for at in range(0, length, MIB)]
        values = [blake3_tree.piece_value(part, index).hex() for index, part in enumerate(parts)]
    return blake3(data).hexdigest(), values


def merge_pieces(values):
    return blake3_tree.merge([bytes.fromhex(value) for value in values], root=True).hex()


# Section 4: Trees


def tree_path(value):
    string(value, 4096)
    parts = value.split("/")
    need("\0" not in value and len(parts) <= 128, "a NUL, or too many components")
    need(all(1 <= len(part.encode()) <= 255 and part not in (".", "..") for part in parts), "a bad component")
    return value


def tree_target(value, path):
    string(value, 4096)
    parts = value.split("/")
    need("\0" not in value and not {"", "."} & set(parts), "a bad target")
    up = 0
    while up < len(parts) and parts[up] == "..":
        up += 1
    need(".." not in parts[up:] and up <= path.count("/"), "a target that may lead outside")
    return value


def tree_member(value):
    need(type(value) is list and 2 <= len(value) <= 4, "not a member")
    path = tree_path(value[0])
    kind = value[1]
    need(type(kind) is int and (kind, len(value)) in ((0, 4), (1, 4), (2, 3), (3, 2)), "not a kind of member")
    if kind == 2:
        return {"path": path, "target": tree_target(value[2], path)}
    if kind == 3:
        return {"path": path}
    return {"path": path, "digest": digest(value[2]), "size": size(value[3]), "executable": kind == 1}


def tree(data):
    value = items(data, 128 * MIB)
    members = record({1: ("members", 1000000, tree_member)})(value).get("members", [])
    for before, after in zip(members, members[1:]):
        one, other = ([part.encode() for part in member["path"].split("/")] for member in (before, after))
        need(one < other, "paths out of order")
        need(other[: len(one)] != one, "a path below a member")
    total = sum(member.get("size", 0) for member in members)
    need(total <= TIB, "files beyond 1 TiB")
    return {"members": members, "total": total}


# Section 5: claims


def check_life(value):
    need(0 < value["not_after"] - value["issued"] <= 63244800000, "not a life of up to two years")


def check_entry(value):
    taints = [taint.encode() for taint in value.get("taints", [])]
    need(all(one < other for one, other in zip(taints, taints[1:])), "taints out of order")
    check_life(value)


def check_head(value):
    need(("recipe" not in value) == (value["name"] == "catalog"), "a Recipe just when it is no catalog")
    check_life(value)


BLOB_OUTPUT = record({1: ("digest", "one", digest), 2: ("size", "one", size)})
TREE_OUTPUT = record({
    1: ("digest", "one", digest), 2: ("size", "one", size), 3: ("members", "one", uint(1000000)),
    4: ("total", "one", size),
})
OUTPUT = choice({0: ("Blob", BLOB_OUTPUT), 1: ("Tree", TREE_OUTPUT)})
LABELS = record({
    1: ("tool", "opt", text(64)), 2: ("toolchain", "opt", text(64)), 3: ("platform", "opt", text(64)),
    4: ("cost_ms", "opt", u64),
})
ENTRY = record({
    1: ("project", "one", project), 2: ("recipe", "one", recipe), 3: ("action", "one", action_id),
    4: ("output", "one", OUTPUT), 5: ("labels", "one", LABELS), 6: ("taints", 16, text(64)),
    7: ("issued", "one", time), 8: ("not_after", "one", time), 9: ("replaces", "opt", digest),
}, check_entry)
HEAD = record({
    1: ("project", "one", project), 2: ("name", "one", text(128)), 3: ("recipe", "opt", recipe),
    4: ("instance", "one", instance), 5: ("sequence", "one", uint(least=1)), 6: ("root", "one", digest),
    7: ("size", "one", size), 8: ("issued", "one", time), 9: ("not_after", "one", time),
}, check_head)
REVOCATION = record({
    1: ("key", "one", signer), 2: ("at", "one", time), 3: ("issued", "one", time), 4: ("reason", "opt", text(200)),
})


def check_succession(value):
    need(value["old"] != value["new"], "a key that follows itself")


SUCCESSION = record(
    {1: ("old", "one", signer), 2: ("new", "one", signer), 3: ("issued", "one", time)}, check_succession
)

# Context, largest payload, reader.
CLAIMS = {
    "Entry": ("potluck/entry/1", 2048, ENTRY),
    "Head": ("potluck/head/1", 512, HEAD),
    "Revocation": ("potluck/revocation/1", 320, REVOCATION),
    "Succession": ("potluck/succession/1", 128, SUCCESSION),
}


def head_set(data, whose, where):
    listed = record({1: ("heads", 16, octets(500))})(items(data, 8064)).get("heads", [])
    heads = []
    for listed_head in listed:
        read = signed(bytes.fromhex(listed_head), "Head")
        head = read["value"]
        need(read["signers"] == [whose], "not of this Signer alone")
        need(head["project"] == where and head["name"] == "catalog", "not a Catalog of this Project")
        need(not heads or heads[-1]["instance"] < head["instance"], "instances out of order")
        heads.append(head)
    return heads


# Section 6: signatures


def protected(value, context):
    header = items(raw(value, 96), 96)
    need(type(header) is dict and set(header) == {1, 4, 16}, "not a protected header")
    need(type(header[1]) is int and header[1] == -8, "another algorithm")
    need(type(header[16]) is str and header[16] == context, "another context")
    return signer(header[4])


@functools.lru_cache(maxsize=None)
def prime_order(key):
    point = edwards.decode(bytes.fromhex(key))
    return point is not None and edwards.has_prime_order(point)


def fits(key, message, signature):
    """The equation alone, as a common library checks it."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, message)
        return True
    except (InvalidSignature, ValueError):
        return False


def verify(key, message, signature):
    need(prime_order(key), "a key that has not prime order")
    need(int.from_bytes(signature[32:], "little") < edwards.L, "s is not reduced")
    nonce = edwards.decode(signature[:32])
    need(nonce is not None and not edwards.has_small_order(nonce), "R is no point or of small order")
    need(fits(key, message, signature), "a bad signature")


def take_apart(data, kind):
    """Signers, what they signed, their signatures, and the payload; nothing is verified."""
    context, limit, _ = CLAIMS[kind]
    tagged = items(data, limit + 2624)
    need(isinstance(tagged, cbor2.CBORTag) and tagged.tag == 18, "not tagged as a COSE_Sign1")
    parts = tagged.value
    need(isinstance(parts, (list, tuple)) and len(parts) == 4, "not four parts")
    header, unprotected, payload, signature = parts
    raw(payload, limit)
    found = [(header, signature)]
    need(isinstance(unprotected, Mapping), "the unprotected header is no map")
    if unprotected:
        need(set(unprotected) == {-65537}, "an unknown unprotected parameter")
        more = unprotected[-65537]
        need(isinstance(more, (list, tuple)) and 1 <= len(more) <= 15, "not 1 to 15 further signatures")
        for each in more:
            need(isinstance(each, (list, tuple)) and len(each) == 4, "not four parts")
            need(isinstance(each[1], Mapping) and not each[1] and each[2] is None, "not a detached signature")
            found.append((each[0], each[3]))
    signers, messages, signatures = [], [], []
    for header, signature in found:
        signers.append(protected(header, context))
        messages.append(cbor2.dumps(["Signature1", header, b"", payload]))
        signatures.append(bytes.fromhex(fixed(64)(signature)))
    need(all(one < other for one, other in zip(signers, signers[1:])), "signers out of order")
    return signers, messages, signatures, payload


def signed(data, kind):
    _, limit, reader = CLAIMS[kind]
    signers, messages, signatures, payload = take_apart(data, kind)
    for key, message, signature in zip(signers, messages, signatures):
        verify(key, message, signature)
    return {
        "signers": signers,
        "messages": [message.hex() for message in messages],
        "payload": payload.hex(),
        "digest": blake3(payload).hexdigest(),
        "value": reader(items(payload, limit)),
    }


# Section 7: Catalogs


def check_catalog(value):
    segments = value.get("segments", [])
    tiers = [segment["tier"] for segment in segments]
    need(tiers == sorted(tiers), "tiers descend")
    need(len({segment["digest"] for segment in segments}) == len(segments), "a segment twice")


def check_segment_ref(value):
    need(value["size"] <= 64 + 65 * value["rows"], "a segment too large for its rows")
    need(value["filter_size"] <= 192 + 4 * value["rows"], "a filter too large for its rows")


SEGMENT_REF = record({
    1: ("digest", "one", digest), 2: ("size", "one", uint(68157504)), 3: ("rows", "one", uint(1048576, 1)),
    4: ("filter", "one", digest), 5: ("filter_size", "one", uint(67108864)), 6: ("tier", "one", uint(31)),
}, check_segment_ref)
CATALOG = record({1: ("project", "one", project), 2: ("segments", 64, SEGMENT_REF)}, check_catalog)
COLUMNS = record({
    1: ("actions", "one", octets(32 * MIB)), 2: ("claims", "one", octets(32 * MIB)), 3: ("kinds", "one", octets(MIB)),
})
ROW_KINDS = ["Entry", "Head", "Withdrawn"]


def segment(data):
    columns = COLUMNS(items(data, 68157504))
    actions, claims = (re.findall("." * 64, columns[column]) for column in ("actions", "claims"))
    kinds = bytes.fromhex(columns["kinds"])
    need(1 <= len(kinds) <= 1048576, "no rows, or too many")
    need(all(len(columns[c]) == 64 * len(kinds) for c in ("actions", "claims")), "columns of other lengths")
    need(all(one < other for one, other in zip(actions, actions[1:])), "actions out of order")
    need(all(kind < 3 for kind in kinds), "an unknown kind")
    need(all((kind == 2) == (claim == "0" * 64) for kind, claim in zip(kinds, claims)), "withdrawn, or not")
    rows = zip(actions, claims, kinds)
    return {"rows": [{"action": a, "claim": c, "kind": ROW_KINDS[k]} for a, c, k in rows]}


def filter_of(data):
    need(64 <= len(data) <= 67108864 and data[:8] == b"potfuse\1", "not a filter")
    need(blake3(data[:-32]).digest() == data[-32:], "a bad checksum")
    keys, seed, length, count = (
        int.from_bytes(data[at:end], "little") for at, end in ((8, 16), (16, 24), (24, 28), (28, 32))
    )
    slots = count + 2 * length
    need(4 <= length <= 262144 and length & (length - 1) == 0, "a bad segment length")
    need(count >= length and count % length == 0, "a bad segment count length")
    need(keys <= 16777216 and keys <= slots <= 2 * keys + 64, "a bad number of keys")
    need(len(data) == 64 + 2 * slots, "a bad length")
    return {
        "keys": keys, "seed": seed, "segment_length": length, "segment_count_length": count, "fingerprints": slots,
    }


def probe(data, parameters, action):
    mask = 2**64 - 1
    length, count = parameters["segment_length"], parameters["segment_count_length"]

    def fingerprint(at):
        return int.from_bytes(data[32 + 2 * at : 34 + 2 * at], "little")

    h = int.from_bytes(action[:8], "little") + parameters["seed"] & mask
    h = (h ^ h >> 33) * 0xFF51AFD7ED558CCD & mask
    h = (h ^ h >> 33) * 0xC4CEB9FE1A85EC53 & mask
    h = h ^ h >> 33
    first = h * count >> 64
    second = first + length ^ h >> 18 & length - 1
    third = first + 2 * length ^ h & length - 1
    found = fingerprint(first) ^ fingerprint(second) ^ fingerprint(third)
    return parameters["keys"] > 0 and (h ^ h >> 32) % 65536 == found


def numbered_id(n):
    return blake3(n.to_bytes(8, "little")).digest()


# Section 8: names


def network(context, material_bytes):
    return derive_key(context, material_bytes)[:16]


def dht_key(context, *parts):
    return derive_key(context, cbor2.dumps(list(parts), canonical=True))


PURPOSES = {"Kademlia": "kad/1", "Hello": "hello/1", "Heads": "heads/1", "Ask": "ask/1", "Blob": "blob/1"}
