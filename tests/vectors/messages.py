# SPDX-License-Identifier: MIT OR Apache-2.0
"""Readers of messages and frames, written from sections 9 to 11 of `protocol/FORMATS.md` alone."""

from formats import (
    LABELS, MIB, OUTPUT, TIB, action_id, boolean, choice, code, digest, instance, items, need, octets, project, recipe,
    record, signer, text, u32, u64, uint,
)

ID = ("id", "one", u64)
PLAIN = record({1: ID})


def check_packing(value):
    packed = len(value["bytes"]) // 2
    fits = packed == value["size"] if value["packing"] == "Raw" else packed < value["size"]
    need(fits, "the size does not fit the packing")


def check_run(value):
    need(value["first"] + value["count"] <= 1048576, "beyond the largest Blob")


def check_have(value):
    pieces = max(1, -(-value["size"] // MIB))
    need("bitmap" not in value or len(value["bitmap"]) // 2 == -(-pieces // 8), "not a bit a piece")


def check_values(value):
    count, part = divmod(len(value["values"]) // 2, 32)
    need(count > 0 and part == 0, "no values, or a part of one")
    need(value["first"] + count <= 1048576, "beyond the largest Blob")


def check_publish(value):
    taints = [taint.encode() for taint in value.get("taints", [])]
    need(all(one < other for one, other in zip(taints, taints[1:])), "taints out of order")


def check_read(value):
    need(value["offset"] + value.get("len", 0) <= TIB, "beyond the largest Blob")


TOPIC = record({1: ("signer", "one", signer), 2: ("project", "one", project)})
HELLO = record({1: ("agent", "opt", text(64)), 2: ("holds", 256, TOPIC), 3: ("follows", 256, TOPIC)})
KNOWN = record({1: ("instance", "one", instance), 2: ("sequence", "one", u64)})
TOPIC_STATE = record({1: ("topic", "one", TOPIC), 2: ("known", 16, KNOWN)})
HEADS = choice({
    0: ("Push", record({1: ("heads", 256, octets(500))})),
    1: ("Pull", record({1: ID, 2: ("topics", 256, TOPIC_STATE)})),
    2: ("Given", record({1: ID, 2: ("heads", 256, octets(500))})),
})

PACKING = code(["Raw", "Zstd"])
INLINE = record({
    1: ("digest", "one", digest), 2: ("size", "one", uint(MIB)), 3: ("packing", "one", PACKING),
    4: ("bytes", "one", octets(65536)),
}, check_packing)
FOUND = record({
    1: ("action", "one", action_id), 2: ("entries", 16, octets(4672)), 3: ("heads", 16, octets(3136)),
    4: ("blobs", 256, INLINE),
})
ASK = choice({
    0: ("Question", record({
        1: ID, 2: ("project", "one", project), 3: ("actions", 1024, action_id), 4: ("inline", "one", u64),
    })),
    1: ("Answer", record({1: ID, 2: ("found", 1024, FOUND), 3: ("last", "one", boolean)})),
})

RUN = record({1: ("first", "one", u64), 2: ("count", "one", uint(least=1))}, check_run)
BLOBS = choice({
    0: ("Want", record({1: ID, 2: ("digest", "one", digest), 3: ("values", "one", boolean), 4: ("pieces", 64, RUN)})),
    1: ("Have", record({1: ID, 2: ("size", "one", uint(TIB)), 3: ("bitmap", "opt", octets(131072))}, check_have)),
    2: ("Values", record({1: ID, 2: ("first", "one", u64), 3: ("values", "one", octets(1048576))}, check_values)),
    3: ("Piece", record({
        1: ID, 2: ("index", "one", u64), 3: ("size", "one", uint(MIB)), 4: ("packing", "one", PACKING),
        5: ("bytes", "one", octets(1048576)),
    }, check_packing)),
    4: ("End", record({1: ID, 2: ("no", "opt", code(["NotHere", "Busy", "Stopped"]))})),
    5: ("Stop", PLAIN),
    6: ("Several", record({1: ID, 2: ("digests", 256, digest)})),
    7: ("Small", record({1: ID, 2: ("blobs", 256, INLINE)})),
})

DATA = record({1: ID, 2: ("bytes", "one", octets(262144)), 3: ("last", "one", boolean)})
MISSING = record({1: ID, 2: ("digests", 1024, digest)})
BLOB = ("digest", "one", digest)
FILE_AT = record({1: ("path", "one", octets(4096)), 2: ("device", "one", u64), 3: ("inode", "one", u64)})
JOB = choice({
    0: ("Collect", record({
        1: ("keep", "opt", u64), 2: ("toolchain", "opt", text(64)), 3: ("project", "opt", text(256)),
        4: ("dry", "one", boolean),
    })),
    1: ("Verify", record({1: ("digest", "opt", digest), 2: ("repair", "one", boolean)})),
    2: ("Pin", record({1: BLOB, 2: ("reason", "one", text(256))})),
    3: ("Unpin", record({1: BLOB})),
    4: ("Pins", record({1: ("digest", "opt", digest)})),
    5: ("Restore", record({
        1: BLOB, 2: ("folder", "one", octets(4096)), 3: ("name", "one", octets(255)), 4: ("device", "one", u64),
        5: ("inode", "one", u64), 6: ("umask", "opt", u32), 7: ("replace", "one", boolean),
        8: ("modified_ms", "opt", u64),
    })),
    6: ("Alias", record({1: ("digests", 256, digest)})),
    7: ("Find", record({1: ("sha256", "one", digest)})),
    8: ("Claims", record({
        1: ("project", "one", project), 2: ("recipe", "one", recipe), 3: ("keys", 128, octets(64)),
        4: ("ask", "one", boolean),
    })),
    9: ("Doubt", record({
        1: ("entry", "one", digest), 2: ("action", "one", action_id), 3: ("reason", "opt", text(256)),
    })),
    10: ("Audit", record({1: ("project", "opt", text(256))})),
})
REQUEST = choice({
    0: ("Greeting", record({1: ("version", "one", u64), 2: ("client", "one", text(64))})),
    1: ("Status", PLAIN),
    2: ("Stop", PLAIN),
    3: ("Lookup", record({
        1: ID, 2: ("project", "one", project), 3: ("recipe", "one", recipe), 4: ("keys", 1024, octets(65536)),
        5: ("deadline_ms", "opt", u32),
    })),
    4: ("Missing", MISSING),
    5: ("Read", record({
        1: ID, 2: ("digest", "one", digest), 3: ("offset", "one", u64), 4: ("len", "opt", u64),
    }, check_read)),
    6: ("Write", DATA),
    7: ("Publish", record({
        1: ID, 2: ("project", "one", project), 3: ("recipe", "one", recipe), 4: ("key", "one", octets(65536)),
        5: ("output", "one", OUTPUT), 6: ("labels", "one", LABELS), 7: ("taints", 16, text(64)),
    }, check_publish)),
    8: ("Forget", PLAIN),
    9: ("Work", record({1: ID, 2: ("job", "one", JOB)})),
    10: ("Export", record({1: ID, 2: ("project", "opt", text(256)), 3: ("toolchain", "opt", text(64))})),
    11: ("Import", DATA),
    12: ("Refresh", PLAIN),
    13: ("Why", record({1: ID, 2: ("action", "opt", action_id)})),
    14: ("Take", record({1: ID, 2: ("file", "one", FILE_AT)})),
    15: ("Give", record({1: ID, 2: BLOB, 3: ("file", "one", FILE_AT)})),
    16: ("Note", record({
        1: ("build", "one", text(160)), 2: ("pid", "one", u64), 3: ("project", "one", project),
        4: ("unit", "one", text(160)), 5: ("recipe", "one", recipe), 6: ("key", "one", octets(64)),
        7: ("plan", "opt", octets(64)),
    })),
})
MISS = code(["Unclaimed", "Refused", "Undeliverable", "Late", "NotWorthIt", "Broken"])
ANSWER = choice({0: ("Hit", OUTPUT), 1: ("Miss", MISS)})
FAILURE = code(["Failed", "Usage", "NotFound", "Refused"], first=1)
REPLY = choice({
    0: ("Welcome", record({1: ("version", "one", u64), 2: ("pid", "one", u64)})),
    1: ("Report", record({1: ID, 2: ("json", "one", octets(1048576))})),
    2: ("Stopping", PLAIN),
    3: ("Answers", record({1: ID, 2: ("answers", 1024, ANSWER)})),
    4: ("Missing", MISSING),
    5: ("Data", DATA),
    6: ("Written", record({1: ID, 2: ("digest", "one", digest), 3: ("size", "one", u64)})),
    7: ("Published", record({1: ID, 2: ("entry", "one", digest)})),
    8: ("Failed", record({
        1: ID, 2: ("kind", "one", FAILURE), 3: ("message", "one", text(512)), 4: ("hint", "opt", text(512)),
    })),
    9: ("Progress", record({1: ID, 2: ("json", "one", octets(1048576))})),
})

# Reader and largest encoding.
MESSAGES = {
    "Hello": (HELLO, 82048),
    "Heads": (HEADS, 172096),
    "Ask": (ASK, 1048576),
    "Blobs": (BLOBS, 1048640),
    "Request": (REQUEST, 1048576),
    "Reply": (REPLY, 1048640),
}


def framed(data, kind):
    reader, limit = MESSAGES[kind]
    need(len(data) >= 4, "no header")
    length = int.from_bytes(data[:4], "big")
    need(length <= limit, "beyond the bound")
    need(len(data) == 4 + length, "not as long as the header says")
    return reader(items(data[4:], limit))
