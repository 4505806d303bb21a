// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nix and turbo on the wire: what fits together is kept and comes back, and what does not is refused.

use potluck_keys::nix::{Sig, public_key};
use potluck_keys::pair::Pair;
use potluck_node::front::nix::map::INFO;
use potluck_node::front::nix::narinfo::{MAX_BYTES, NarInfo, base32};
use potluck_node::front::turborepo::map::MAX_QUERY_BYTES;
use potluck_protocol::digest::Sha256;
use potluck_tests::program::Person;
use serde_json::{Value, json};
use sha2::Digest as _;

use super::wire::{Answer, ask, connect};

const HASH: &str = "3imvddpkp3np5kpfzyjqbk23lz2cs6l9";
const NAR: &[u8] = b"this would be an archive";

fn sha256(bytes: &[u8]) -> String {
    base32(&Sha256::from_bytes(sha2::Sha256::digest(bytes).into()))
}

/// What is said of an archive as it is packed.
fn narinfo(packing: &str, packed: &[u8]) -> NarInfo {
    let (suffix, file, nar) = (if packing == "none" { "" } else { ".zst" }, sha256(packed), sha256(NAR));
    let text = format!(
        "StorePath: /nix/store/{HASH}-dish\nURL: nar/{file}.nar{suffix}\nCompression: {packing}\n\
         FileHash: sha256:{file}\nFileSize: {}\nNarHash: sha256:{nar}\nNarSize: {}\nReferences: \n",
        packed.len(),
        NAR.len()
    );
    NarInfo::parse(text.as_bytes()).unwrap()
}

fn say(http: &str, line: &str, body: &[u8]) -> Answer {
    ask(&mut connect(http), line, &[], body)
}

#[test]
fn nix_keeps_what_fits_together_and_nothing_else() {
    let ann = Person::at_home();
    let up = ann.up(&[]);
    let http = &up.http();
    let put = |path: &str, body: &[u8]| say(http, &format!("PUT /nix/{path}"), body).status;
    let get = |path: &str| say(http, &format!("GET /nix/{path}"), b"");
    let path = format!("{HASH}.narinfo");
    assert_eq!(get("nix-cache-info").body, INFO.as_bytes());
    assert_eq!(get(&path).status, 404);

    let plain = narinfo("none", NAR);
    let text = plain.text();
    assert_eq!(put(&path, text.as_bytes()), 400, "its archive comes first");
    assert_eq!(put(plain.url(), b"another archive"), 400);
    assert_eq!(put(plain.url(), NAR), 201);
    assert_eq!(say(http, &format!("HEAD /nix/{}", plain.url()), b"").status, 200);
    assert_eq!(put(&format!("4{}.narinfo", &HASH[1..]), text.as_bytes()), 400, "of another path");
    let other = sha256(b"other");
    let wrong = |from: &str, to: &str| put(&path, text.replace(from, to).as_bytes());
    assert_eq!(wrong(&format!("NarHash: sha256:{}", sha256(NAR)), &format!("NarHash: sha256:{other}")), 400);
    assert_eq!(
        wrong(&format!("FileHash: sha256:{}", sha256(NAR)), &format!("FileHash: sha256:{other}")),
        400
    );
    assert_eq!(wrong(&format!("FileSize: {}", NAR.len()), "FileSize: 1"), 400);
    assert_eq!(wrong("URL: nar/", "URL: https://else.where/nar/"), 400);
    assert_eq!(put(&path, "x".repeat(MAX_BYTES + 1).as_bytes()), 400);
    assert_eq!(get(&path).status, 404, "none of that was kept");

    // One by a key that is not known here, a false one in the name of this node, and later one more.
    let (public, _) = public_key(ann.run(["key", "show", "me", "--nix"]).ok().trim()).unwrap();
    let [one, two] = [1, 2].map(|seed| Sig::sign(&Pair::from_seed(&[seed; 32], ""), &plain.fingerprint()));
    let forged: Sig = format!("{public}:{}", one.to_string().split_once(':').unwrap().1).parse().unwrap();
    assert_eq!(put(&path, plain.clone().with([one.clone(), forged]).text().as_bytes()), 201);
    assert_eq!(put(&path, plain.clone().with([two.clone()]).text().as_bytes()), 201);
    let shown = NarInfo::parse(&get(&path).body).unwrap();
    assert_eq!(shown.sigs().collect::<Vec<_>>(), [one, two]);
    assert_ne!(shown.url(), plain.url());
    assert_eq!(shown.clone().without(|_| true).at(plain.url()), plain, "all else is as it was put");
    assert_eq!(get(shown.url()).body, NAR);

    let extra = [(format!("{HASH}.ls"), "{\"version\":1}"), ("log/x-dish.drv".to_owned(), "it went well")];
    for (path, body) in &extra {
        assert_eq!(get(path).status, 404);
        assert_eq!((put(path, body.as_bytes()), get(path).body), (201, body.as_bytes().to_vec()));
    }
}

#[test]
fn an_archive_that_is_packed_is_the_one_that_it_is_said_to_be() {
    let ann = Person::at_home();
    let up = ann.up(&[]);
    let http = &up.http();
    let put = |path: &str, body: &[u8]| say(http, &format!("PUT /nix/{path}"), body).status;
    let path = format!("{HASH}.narinfo");
    // Another archive of the same size, a larger one, and no archive at all.
    let large = vec![0; 64 << 20];
    let packed = [&NAR.to_ascii_uppercase()[..], &large].map(|nar| zstd::encode_all(nar, 1).unwrap());
    for wrong in [&packed[0][..], &packed[1], b"not packed"] {
        let info = narinfo("zstd", wrong);
        assert_eq!(put(info.url(), wrong), 201, "it has its own name");
        assert_eq!(put(&path, info.text().as_bytes()), 400);
    }
    let packed = zstd::encode_all(NAR, 1).unwrap();
    let info = narinfo("zstd", &packed);
    assert_eq!((put(info.url(), &packed), put(&path, info.text().as_bytes())), (201, 201));
}

#[test]
fn turbo_gets_what_it_put_with_what_it_said_of_it() {
    let ann = Person::at_home();
    let up = ann.up(&[]);
    let http = &up.http();
    let sent = [
        "x-artifact-duration: 12",
        "x-artifact-tag: dGFn",
        "x-artifact-sha: 1f",
        "x-artifact-dirty-hash: 2e",
    ];
    let put = |hash: &str, headers: &[&str], body: &[u8]| {
        ask(&mut connect(http), &format!("PUT /turbo/v8/artifacts/{hash}?slug=acme"), headers, body).status
    };
    assert_eq!(say(http, "GET /turbo/v8/artifacts/status", b"").body, b"{\"status\":\"enabled\"}");
    assert_eq!((put("a1", &sent, b"one"), put("b2", &[], b"")), (202, 202));
    let large = vec![7; 3_000_000];
    assert_eq!(put("c3", &[], &large), 202);
    for verb in ["GET", "HEAD"] {
        let answer = say(http, &format!("{verb} /turbo/v8/artifacts/a1?slug=acme"), b"");
        assert_eq!((answer.status, answer.header("content-length")), (200, Some("3")));
        for (name, value) in sent.map(|header| header.split_once(": ").unwrap()) {
            assert_eq!(answer.header(name), Some(value), "{verb}");
        }
    }
    let get = |path: &str| say(http, &format!("GET /turbo/v8/artifacts/{path}"), b"");
    assert_eq!((get("a1?slug=acme").body, get("b2?slug=acme").body), (b"one".to_vec(), Vec::new()));
    assert!(get("c3?slug=acme").body == large);
    assert_eq!((get("a1").status, get("a1?slug=other").status), (404, 404));
    let asked = json!({ "hashes": ["a1", "none"] }).to_string();
    let answer = say(http, "POST /turbo/v8/artifacts?slug=acme", asked.as_bytes());
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(said, json!({ "a1": { "size": 3, "taskDurationMs": 12, "tag": "dGFn" }, "none": null }));
    let events = |body: &[u8]| say(http, "POST /turbo/v8/artifacts/events", body).status;
    assert_eq!(events(b"[]"), 200);
    assert_eq!(events(&vec![b' '; usize::try_from(MAX_QUERY_BYTES).unwrap() + 1]), 400);
    assert_eq!(say(http, "POST /turbo/v8/artifacts", b"{\"hashes\":[\"../x\"]}").status, 400);
}
