# SPDX-License-Identifier: MIT OR Apache-2.0
"""Reads all vectors with other libraries than the code, by readers written from `protocol/FORMATS.md`.

Exits with 0 only when every good vector is read as it says and every bad one is refused. With `--self-test`, shows that
a vector with a flipped bit is noticed: of each good one every byte is flipped, of each file a good one is called bad.
"""

import datetime
import json
import pathlib
import re
import sys

from blake3 import blake3

import formats
import messages
from formats import Refused, need

PROTOCOL = pathlib.Path(__file__).resolve().parents[2] / "protocol"

RECORDS = {
    "Time": (formats.time, 9),
    "Project": (formats.project, 98),
    "Recipe": (formats.recipe, 50),
    "DigestField": (formats.digest, 34),
    "Catalog": (formats.CATALOG, 16384),
    **{kind: (reader, limit) for kind, (_, limit, reader) in formats.CLAIMS.items()},
    **messages.MESSAGES,
}


def time_text(millis):
    at = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=millis // 1000)
    return at.isoformat() + "Z"


def read_pieces(data, vector):
    value = formats.PIECE_LIST(formats.items(data, 33554464))
    read = {"value": value}
    if "digest" in vector:
        if "values" in value:
            need(formats.merge_pieces(value["values"]) == vector["digest"], "not the list of this Blob")
        # In a bad vector there is no Blob.
        digest, values = formats.hash_pieces(vector["length"])
        need(value.get("values", []) == values, "other chaining values")
        read.update({"digest": digest, "length": vector["length"]})
        need(value["size"] == vector["length"], "another size")
    return read


def read_filter(data, vector):
    value = formats.filter_of(data)
    read = {"value": value}
    if "members" in vector:
        found = [formats.probe(data, value, formats.numbered_id(n)) for n in range(vector["members"])]
        read["members"] = sum(found)
        strangers = range(10000, 20000)
        read["hits"] = [n for n in strangers if formats.probe(data, value, formats.numbered_id(n))]
    return read


def read_secret(data, vector):
    need(len(data) >= 16, "a secret of less than 16 bytes")
    material = bytes.fromhex(vector["material"])
    formats.material(material)
    return {"material": vector["material"], "id": formats.derive_action(material, data)}


def read_derived(data, vector):
    """Names that are made from other fields; the bytes are what is expected."""
    kind = vector["type"]
    part = {key: bytes.fromhex(vector[key]) for key in ("key", "signer", "digest", "network") if key in vector}
    if kind == "PrivateNetwork":
        made = formats.network("potluck 2026-11 private network id v1", part["key"])
    elif kind == "PublicNetwork":
        made = formats.network("potluck 2026-11 public network id v1", vector["public"].encode())
    elif kind == "CatalogKey":
        made = formats.dht_key("potluck 2026-11 dht catalog heads v1", part["signer"], vector["project"])
    elif kind == "HoldersKey":
        parts = (part["signer"], vector["project"], vector["group"])
        made = formats.dht_key("potluck 2026-11 dht entry holders v1", *parts)
    elif kind == "BlobKey":
        made = formats.derive_key("potluck 2026-11 dht blob holders v1", part["digest"])
    else:
        made = f"/potluck/{vector['network']}/{formats.PURPOSES[vector['purpose']]}".encode()
    need(data == made, "another name is made of this")
    return {key: vector[key] for key in vector if key not in ("name", "type", "hex")}


def read(data, vector):
    """What the bytes of a vector mean, under the names of the vector's own fields."""
    kind = vector["type"]
    if kind == "Material":
        return {"value": formats.material(data), "id": formats.derive_action(data)}
    if kind == "Secret":
        return read_secret(data, vector)
    if kind == "Digest":
        return {"digest": blake3(data).hexdigest()}
    if kind == "DigestText":
        return {"value": formats.name_of(32)(data)}
    if kind == "NetworkIdText":
        return {"value": formats.name_of(16)(data)}
    if kind == "PieceList":
        return read_pieces(data, vector)
    if kind == "Tree":
        return {"value": formats.tree(data), "digest": blake3(data).hexdigest()}
    if kind == "Segment":
        return {"value": formats.segment(data)}
    if kind == "Filter":
        return read_filter(data, vector)
    if kind == "HeadSet":
        heads = formats.head_set(data, vector["signer"], vector["project"])
        return {"value": heads, "signer": vector["signer"], "project": vector["project"]}
    if kind.startswith("Signed"):
        return formats.signed(data, kind.removeprefix("Signed"))
    if kind.endswith("Frame"):
        return {"value": messages.framed(data, kind.removesuffix("Frame"))}
    if kind in RECORDS:
        reader, limit = RECORDS[kind]
        value = reader(formats.items(data, limit))
        return {"value": value} | ({"text": time_text(value)} if kind == "Time" else {})
    return read_derived(data, vector)


def complain_of_good(vector):
    """Why a good vector is not what it says, or None."""
    try:
        found = read(bytes.fromhex(vector["hex"]), vector)
    except Refused as why:
        return f"refused: {why}"
    want = {key: vector[key] for key in vector if key not in ("name", "type", "hex")}
    # Compared as text, since Python takes True for 1.
    one, other = (json.dumps(value, sort_keys=True) for value in (found, want))
    return None if one == other else f"read {one}, not {other}"


def complain_of_bad(vector):
    """Why a bad vector is not as bad as it says, or None."""
    data = bytes.fromhex(vector["hex"])
    try:
        read(data, vector)
    except Refused:
        if vector.get("lax"):
            parts = formats.take_apart(data, vector["type"].removeprefix("Signed"))[:3]
            if not all(formats.fits(*each) for each in zip(*parts)):
                return "the equation does not hold, so the vector shows nothing"
        return None
    return "accepted"


def sheets():
    paths = sorted((PROTOCOL / "vectors").glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def complaints_of_document(found):
    """The examples of the document must be vectors: `hex FILE/NAME` opens one, `;` a comment in it."""
    document = (PROTOCOL / "FORMATS.md").read_text(encoding="utf-8")
    for name, vector, block in re.findall(r"^```hex (\w+)/(.+)\n([^`]*)^```$", document, re.M):
        shown = "".join(line.split(";")[0] for line in block.splitlines())
        good = {good["name"]: good for good in found.get(name, {}).get("valid", [])}
        same = vector in good and "".join(shown.split()) == good[vector]["hex"]
        yield f"FORMATS.md: {name}/{vector}", None if same else "the example is not the vector"


def check(found):
    for name, sheet in found.items():
        for vector in sheet["valid"]:
            yield f"{name}: {vector['name']}", complain_of_good(vector)
        for vector in sheet["invalid"]:
            yield f"{name}: {vector['name']}", complain_of_bad(vector)
    yield from complaints_of_document(found)


def self_test(found):
    for name, sheet in found.items():
        for vector in sheet["valid"]:
            data = bytes.fromhex(vector["hex"])
            missed = []
            for at in range(len(data)):
                flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
                if complain_of_good(vector | {"hex": flipped.hex()}) is None:
                    missed.append(at)
            yield f"{name}: {vector['name']}, flipped", f"unnoticed at {missed}" if missed else None
            if vector is sheet["valid"][0]:
                noticed = complain_of_bad(vector)
                yield f"{name}: {vector['name']}, called bad", None if noticed else "unnoticed"


def main():
    arguments = sys.argv[1:]
    if arguments not in ([], ["--self-test"]):
        sys.exit("usage: check.py [--self-test]")
    found = sheets()
    passed, failed = 0, 0
    for name, complaint in (self_test if arguments else check)(found):
        if complaint is None:
            passed += 1
        else:
            failed += 1
            print(f"FAILED {name}: {complaint[:1000]}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
