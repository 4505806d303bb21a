// SPDX-License-Identifier: MIT OR Apache-2.0
//! Vectors of signed claims: the envelope, Entries, Heads and sets of them, Revocations, Successions.

use curve25519_dalek::Scalar;
use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::edwards::EdwardsPoint;
use ed25519_dalek::Sha512;
use ed25519_dalek::hazmat::ExpandedSecretKey;
use potluck_keys::pair::{Pair, Signer};
use potluck_keys::signed::{Claim, Signed};
use potluck_keys::standing::{Revocation, Succession};
use potluck_keys::time::Time;
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::codec::{Text, encode};
use potluck_protocol::digest::{Digest, MAX_BLOB_BYTES};
use potluck_protocol::entry::{BlobOutput, Entry, Labels, MAX_LIFE, Output, TreeOutput};
use potluck_protocol::head::{CATALOG, Head, HeadSet, Instance};
use serde_json::json;

use super::Sheet;
use super::kinds::{accept, message};
use super::shape::{Item, NULL, bent, text, with};
use super::show::{Show, hex};

pub(crate) fn sheets() -> Vec<Sheet> {
    vec![signed(), entry(), head(), head_set(), revocation(), succession()]
}

const NOON: Time = Time::from_millis(1_795_262_400_000);

/// The pair of a seed of 32 equal bytes.
fn pair(seed: u8) -> Pair {
    Pair::from_seed(&[seed; 32], "")
}

pub(crate) fn plain_entry() -> Entry {
    Entry {
        project: Project::new("acme/web").unwrap(),
        recipe: Recipe::new("rustc@1").unwrap(),
        action: ActionId::from_bytes([0xac; 32]),
        output: Output::Blob(BlobOutput { digest: Digest::of(b"hello"), size: 5 }),
        labels: Labels::default(),
        taints: Vec::new(),
        issued: NOON,
        not_after: Time::from_millis(NOON.as_millis() + 86_400_000),
        replaces: None,
    }
}

fn full_entry() -> Entry {
    Entry {
        output: Output::Tree(TreeOutput {
            digest: Digest::of(b"tree"),
            size: 300,
            members: 4,
            total: 70_000,
        }),
        labels: Labels {
            tool: Text::new("rustc"),
            toolchain: Text::new("1.95.0"),
            platform: Text::new("x86_64-unknown-linux-gnu"),
            cost_ms: Some(12_345),
        },
        taints: ["network", "time"].into_iter().filter_map(Text::new).collect(),
        replaces: Some(Digest::of(b"an older entry")),
        ..plain_entry()
    }
}

fn catalog_head(instance: u8, sequence: u64) -> Head {
    Head {
        project: Project::new("acme/web").unwrap(),
        name: Text::new(CATALOG).unwrap(),
        recipe: None,
        instance: Instance::from_bytes([instance; 16]),
        sequence,
        root: Digest::of(b"catalog"),
        size: 512,
        issued: NOON,
        not_after: Time::from_millis(NOON.as_millis() + 3_600_000),
    }
}

/// A signed claim with all that can be read from it.
fn good<T: Claim + Show>(sheet: &mut Sheet, name: &str, claim: &T, seeds: &[u8]) -> Vec<u8> {
    let kind = match T::CONTEXT {
        Entry::CONTEXT => "SignedEntry",
        Head::CONTEXT => "SignedHead",
        Revocation::CONTEXT => "SignedRevocation",
        _ => "SignedSuccession",
    };
    let pairs: Vec<_> = seeds.iter().map(|seed| pair(*seed)).collect();
    let signed = Signed::sign(claim, &pairs.iter().collect::<Vec<_>>()).unwrap();
    let bytes = signed.bytes().to_vec();
    let (_, read) = accept(&json!({ "type": kind }), &bytes).expect("just signed");
    let mut vector = json!({ "name": name, "type": kind, "hex": hex(&bytes) });
    vector.as_object_mut().unwrap().extend(read.as_object().unwrap().clone());
    sheet.push(vector);
    bytes
}

/// A protected header as no honest signer writes it, perhaps.
fn header(key: &[u8], context: &str) -> Item {
    Item::Map(vec![
        (Item::Uint(1), Item::Negative(7)),
        (Item::Uint(4), Item::Bytes(key.to_vec())),
        (Item::Uint(16), text(context)),
    ])
}

/// An envelope with one signature, of any parts.
fn envelope(protected: Vec<u8>, payload: &[u8], signature: &[u8]) -> Vec<u8> {
    let parts = vec![
        Item::Bytes(protected),
        Item::Map(Vec::new()),
        Item::Bytes(payload.to_vec()),
        Item::Bytes(signature.to_vec()),
    ];
    Item::Tag(18, Box::new(Item::List(parts))).bytes()
}

/// The payload under a proper signature of the pair of `seed`, whatever it holds.
fn endorsed<T: Claim>(payload: &[u8], seed: u8) -> Vec<u8> {
    let key = ExpandedSecretKey::from(&[seed; 32]);
    let signer = pair(seed).signer();
    let public = ed25519_dalek::VerifyingKey::from_bytes(signer.as_bytes()).unwrap();
    let signed = message::<T>(&signer, payload);
    let signature = ed25519_dalek::hazmat::raw_sign::<Sha512>(&key, &signed, &public);
    envelope(header(signer.as_bytes(), T::CONTEXT).bytes(), payload, &signature.to_bytes())
}

/// Changes the four parts of a signed claim.
fn parts(good: &[u8], bend: impl FnOnce(&mut Vec<Item>)) -> Vec<u8> {
    let Item::Tag(18, mut inner) = Item::of(good) else { panic!("a claim is tagged") };
    bend(inner.items());
    Item::Tag(18, inner).bytes()
}

fn signed() -> Sheet {
    let mut sheet = Sheet::new(
        "signed",
        "Signed claims. `hex` is the envelope, `messages` what each of `signers` signed, `digest` the name of the \
         claim and `value` the claim. Keys come from seeds of 32 equal bytes (RFC 8032, section 5.1.5). Where \
         `lax` is true, a check that does not ask for the orders of points accepts the signature.",
    );
    let (key, next) = (pair(1).signer(), pair(2).signer());
    let claim = Succession { old: key, new: next, issued: NOON };
    let one = good(&mut sheet, "one signature", &claim, &[1]);
    let two = good(&mut sheet, "two signatures", &claim, &[1, 2]);
    let all: Vec<u8> = (1..=16).collect();
    let most = good(&mut sheet, "sixteen signatures", &claim, &all);
    let kind = "SignedSuccession";
    sheet.spoil(kind, &one, &[]);
    let protected = |item: Item| parts(&one, |parts| parts[0] = Item::Bytes(item.bytes()));
    let honest = header(key.as_bytes(), Succession::CONTEXT);
    let flip = |part: usize, at: usize| {
        parts(&one, |parts| match &mut parts[part] {
            Item::Bytes(bytes) => bytes[at] ^= 1,
            _ => panic!("this part is bytes"),
        })
    };
    let of_key = |key: &Signer| header(key.as_bytes(), Succession::CONTEXT);
    let mut bad = vec![
        ("no tag", one[1..].to_vec()),
        ("another tag", [&[0xd1], &one[1..]].concat()),
        ("the tag twice", [&[0xd2], &one[..]].concat()),
        ("a bit of R is flipped", flip(3, 0)),
        ("a bit of s is flipped", flip(3, 32)),
        ("a bit of the payload is flipped", flip(2, 80)),
        ("a signature of 63 bytes", parts(&one, |parts| parts[3] = Item::Bytes(vec![1; 63]))),
        ("a signature of 65 bytes", parts(&one, |parts| parts[3] = Item::Bytes(vec![1; 65]))),
        ("a signature of zeros", parts(&one, |parts| parts[3] = Item::Bytes(vec![0; 64]))),
        ("the payload is detached", parts(&one, |parts| parts[2] = NULL)),
        ("s is not reduced", unreduced(&one)),
        ("the context of another kind", protected(header(key.as_bytes(), "potluck/entry/1"))),
        ("the context of another version", protected(header(key.as_bytes(), "potluck/succession/2"))),
        ("another key", protected(of_key(&next))),
        ("a key of 31 bytes", protected(header(&[1; 31], Succession::CONTEXT))),
        ("a key that is no point", protected(header(&[2; 32], Succession::CONTEXT))),
        ("another algorithm", protected(bend(&honest, |pairs| pairs[0].1 = Item::Negative(6)))),
        ("no algorithm", protected(bend(&honest, |pairs| drop(pairs.remove(0))))),
        ("no key", protected(bend(&honest, |pairs| drop(pairs.remove(1))))),
        ("no context", protected(bend(&honest, |pairs| drop(pairs.pop())))),
        ("an unknown parameter", protected(bend(&honest, |pairs| pairs.push((Item::Uint(23), NULL))))),
        ("parameters out of order", protected(bend(&honest, |pairs| pairs.swap(1, 2)))),
        ("a protected header that is not in bytes", parts(&one, |parts| parts[0] = honest.clone())),
        ("an empty protected header", parts(&one, |parts| parts[0] = Item::Bytes(Vec::new()))),
        ("an unknown unprotected parameter", unprotected(&one, Item::Uint(4), Item::Bytes(vec![1]))),
        ("no further signatures, but their list", unprotected(&one, FURTHER, Item::List(Vec::new()))),
    ];
    bad.extend(bad_companies(&two, &most, &claim));
    for (why, bytes) in bad {
        sheet.bad(kind, why, &bytes);
    }
    let as_entry = one.clone();
    sheet.bad("SignedEntry", "it is a claim of another kind", &as_entry);
    weak(&mut sheet, &claim);
    sheet
}

const FURTHER: Item = Item::Negative(65_536);

fn bend(header: &Item, bend: impl FnOnce(&mut Vec<(Item, Item)>)) -> Item {
    let mut header = header.clone();
    bend(header.pairs());
    header
}

fn unprotected(good: &[u8], parameter: Item, value: Item) -> Vec<u8> {
    parts(good, |parts| parts[1] = Item::Map(vec![(parameter, value)]))
}

/// Adds the order of the group to s, which a lax verifier takes for the same number.
fn unreduced(good: &[u8]) -> Vec<u8> {
    // L - 1, least significant byte first; the carry that goes in adds the one.
    let order = (-Scalar::ONE).to_bytes();
    parts(good, |parts| {
        let Item::Bytes(signature) = &mut parts[3] else { panic!("a signature is bytes") };
        let mut carry = 1;
        for (byte, of_order) in signature[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(of_order) + carry;
            (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
        }
    })
}

/// Claims with several signatures that do not go together.
fn bad_companies(two: &[u8], most: &[u8], claim: &Succession) -> Vec<(&'static str, Vec<u8>)> {
    let further = |good: &[u8], change: &dyn Fn(&mut Vec<Item>)| {
        parts(good, |parts| change(parts[1].pairs()[0].1.items()))
    };
    let Item::Tag(18, mut inner) = Item::of(two) else { panic!("a claim is tagged") };
    let first_as_further = {
        let parts = inner.items();
        Item::List(vec![parts[0].clone(), Item::Map(Vec::new()), NULL, parts[3].clone()])
    };
    let swapped = parts(two, |parts| {
        let further = parts[1].pairs()[0].1.items()[0].items().clone();
        parts[1].pairs()[0].1.items()[0] = first_as_further.clone();
        parts[0] = further[0].clone();
        parts[3] = further[3].clone();
    });
    let entry = header(pair(2).signer().as_bytes(), "potluck/entry/1").bytes();
    let one_more = Signed::sign(claim, &[&pair(17)]).unwrap();
    let Item::Tag(18, mut last) = Item::of(one_more.bytes()) else { panic!("a claim is tagged") };
    let last = last.items().clone();
    vec![
        ("signatures out of the order of their keys", swapped),
        ("the first key twice", further(two, &|list| list.insert(0, first_as_further.clone()))),
        (
            "a further key twice",
            further(two, &|list| {
                let again = list[0].clone();
                list.push(again);
            }),
        ),
        (
            "a bit of a further signature is flipped",
            further(two, &|list| match &mut list[0].items()[3] {
                Item::Bytes(bytes) => bytes[5] ^= 1,
                _ => panic!("a signature is bytes"),
            }),
        ),
        (
            "a further signature of another kind",
            further(two, &|list| list[0].items()[0] = Item::Bytes(entry.clone())),
        ),
        (
            "a further signature with a payload",
            further(two, &|list| list[0].items()[2] = Item::Bytes(vec![1])),
        ),
        (
            "a further signature with parameters",
            further(two, &|list| list[0].items()[1] = Item::Map(vec![(Item::Uint(4), NULL)])),
        ),
        (
            "a further signature under a tag",
            further(two, &|list| {
                let inner = list[0].clone();
                list[0] = Item::Tag(18, Box::new(inner));
            }),
        ),
        (
            "seventeen signatures",
            further(most, &|list| {
                list.push(Item::List(vec![last[0].clone(), Item::Map(Vec::new()), NULL, last[3].clone()]));
            }),
        ),
        (
            "two unprotected parameters",
            parts(two, |parts| parts[1].pairs().insert(0, (Item::Uint(4), Item::Bytes(vec![1])))),
        ),
    ]
}

/// Signatures that fit the equation and are refused for the orders of their points.
fn weak(sheet: &mut Sheet, claim: &Succession) {
    let payload = encode(claim);
    let mut push = |why: &str, key: &[u8; 32], nonce: &[u8; 32], s: &[u8; 32]| {
        let header = header(key, Succession::CONTEXT).bytes();
        let bytes = envelope(header, &payload, &[&nonce[..], s].concat());
        sheet.bad("SignedSuccession", why, &bytes);
        sheet.given(&json!({ "lax": true }));
    };
    let challenge = |nonce: &[u8; 32], key: &[u8; 32]| {
        let message = message::<Succession>(&Signer::from_bytes(*key), &payload);
        Scalar::hash_from_bytes::<Sha512>(&[&nonce[..], key, &message].concat())
    };
    let base = EdwardsPoint::mul_base;
    let neutral = EIGHT_TORSION[0].compress().to_bytes();
    // s B = R + k A with A the neutral element: any R = s B will do.
    push("a key of order 1", &neutral, &base(&Scalar::ONE).compress().to_bytes(), &Scalar::ONE.to_bytes());
    let secret = ExpandedSecretKey::from(&[1; 32]).scalar;
    let honest = base(&secret).compress().to_bytes();
    // R the neutral element: s = k a.
    let s = challenge(&neutral, &honest) * secret;
    push("a nonce point of order 1", &honest, &neutral, &s.to_bytes());
    // A = a B + T with T of order 2: fits whenever k is even.
    let mixed = (base(&secret) + EIGHT_TORSION[4]).compress().to_bytes();
    for nonce in 1_u64.. {
        let nonce = Scalar::from(nonce);
        let point = base(&nonce).compress().to_bytes();
        let k = challenge(&point, &mixed);
        if k.to_bytes()[0] & 1 == 0 {
            push("a key of mixed order", &mixed, &point, &(nonce + k * secret).to_bytes());
            break;
        }
    }
}

/// Payloads that are signed as they should be and yet wrong.
fn refuse<T: Claim>(sheet: &mut Sheet, kind: &str, signed_kind: &str, bad: Vec<(&str, Vec<u8>)>) {
    for (index, (why, payload)) in bad.into_iter().enumerate() {
        sheet.bad(kind, why, &payload);
        // One of them under a signature shows that it makes no difference.
        if index == 0 {
            sheet.bad(signed_kind, why, &endorsed::<T>(&payload, 1));
        }
    }
}

fn entry() -> Sheet {
    let mut sheet = Sheet::new(
        "entry",
        "Entries: of an Entry, `hex` is the payload; of a SignedEntry, it is the envelope, and the other fields are \
         as in signed.json.",
    );
    let least = sheet.good("Entry", "a blob", &plain_entry());
    let full = sheet.good("Entry", "every field", &full_entry());
    let longest = Entry { not_after: plain_entry().issued.plus(MAX_LIFE), ..plain_entry() };
    sheet.good("Entry", "two years", &longest);
    let beginning = Entry { issued: Time::from_millis(0), not_after: Time::from_millis(1), ..plain_entry() };
    sheet.good("Entry", "a millisecond of 1970", &beginning);
    good(&mut sheet, "a blob, signed", &plain_entry(), &[1]);
    good(&mut sheet, "every field, signed twice", &full_entry(), &[1, 2]);
    let noon = NOON.as_millis();
    let life = u64::try_from(MAX_LIFE.as_millis()).unwrap();
    let taints = |taints: &[&str]| Item::List(taints.iter().map(|taint| text(taint)).collect());
    let numbered: Vec<_> = (10..27).map(|n| n.to_string()).collect();
    let many: Vec<_> = numbered.iter().map(String::as_str).collect();
    let bad = vec![
        ("it ends when it begins", with(&least, &[8], Item::Uint(noon))),
        ("it ends before it begins", with(&least, &[8], Item::Uint(noon - 1))),
        ("it holds for more than two years", with(&least, &[8], Item::Uint(noon + life + 1))),
        ("it ends beyond the year 9999", with(&least, &[8], Item::Uint(Time::MAX.as_millis() + 1))),
        ("an action of 31 bytes", with(&least, &[3], Item::Bytes(vec![1; 31]))),
        ("a bad project", with(&least, &[1], text("acme//web"))),
        ("a bad recipe", with(&least, &[2], text("rustc@01"))),
        ("a project that is not UTF-8", with(&least, &[1], Item::Text(vec![0xff]))),
        ("an unknown output", with(&least, &[4, 0], Item::Uint(2))),
        ("a blob called a tree", with(&least, &[4, 0], Item::Uint(1))),
        ("an output of three", bent(&least, &[4], |output| output.items().push(NULL))),
        ("a blob beyond 1 TiB", with(&least, &[4, 1, 2], Item::Uint(MAX_BLOB_BYTES + 1))),
        ("a tree beyond 1 TiB", with(&full, &[4, 1, 4], Item::Uint(MAX_BLOB_BYTES + 1))),
        ("a list of members beyond 1 TiB", with(&full, &[4, 1, 2], Item::Uint(MAX_BLOB_BYTES + 1))),
        ("too many members", with(&full, &[4, 1, 3], Item::Uint(1_000_001))),
        (
            "no labels",
            bent(&least, &[], |entry| entry.pairs().retain(|(key, _)| !matches!(key, Item::Uint(5)))),
        ),
        ("an unknown label", bent(&least, &[5], |labels| labels.pairs().push((Item::Uint(5), text("x"))))),
        ("an empty label", with(&full, &[5, 1], text(""))),
        ("a label of 65 bytes", with(&full, &[5, 1], text(&"t".repeat(65)))),
        ("a label with a control character", with(&full, &[5, 1], text("a\u{7}"))),
        ("a label with a control character beyond ASCII", with(&full, &[5, 1], text("a\u{9b}"))),
        ("taints out of order", with(&full, &[6], taints(&["time", "network"]))),
        ("a taint twice", with(&full, &[6], taints(&["time", "time"]))),
        ("an empty list of taints", with(&full, &[6], taints(&[]))),
        ("seventeen taints", with(&full, &[6], taints(&many))),
        ("a taint of 65 bytes", with(&full, &[6], taints(&[&"t".repeat(65)]))),
        ("what it replaces is null", with(&full, &[9], NULL)),
    ];
    refuse::<Entry>(&mut sheet, "Entry", "SignedEntry", bad);
    sheet.spoil_record("Entry", &least, &[]);
    sheet
}

fn head() -> Sheet {
    let mut sheet = Sheet::new(
        "head",
        "Heads: of a Head, `hex` is the payload; of a SignedHead, it is the envelope, and the other fields are as in \
         signed.json.",
    );
    let catalog = sheet.good("Head", "a catalog", &catalog_head(0x1a, 1));
    let named = Head {
        name: Text::new("manifest").unwrap(),
        recipe: Some(Recipe::new("ccache@1").unwrap()),
        sequence: u64::MAX,
        size: MAX_BLOB_BYTES,
        ..catalog_head(0x1a, 1)
    };
    let other = sheet.good("Head", "another name", &named);
    good(&mut sheet, "a catalog, signed", &catalog_head(0x1a, 1), &[1]);
    let noon = NOON.as_millis();
    let bad = vec![
        ("sequence 0", with(&catalog, &[5], Item::Uint(0))),
        (
            "a sequence of more than 64 bits",
            with(&catalog, &[5], Item::Raw(vec![0xc2, 0x49, 1, 0, 0, 0, 0, 0, 0, 0, 0])),
        ),
        ("an instance of 15 bytes", with(&catalog, &[4], Item::Bytes(vec![1; 15]))),
        ("an instance of 17 bytes", with(&catalog, &[4], Item::Bytes(vec![1; 17]))),
        (
            "a catalog with a recipe",
            bent(&catalog, &[], |head| head.pairs().insert(2, (Item::Uint(3), text("rustc@1")))),
        ),
        ("another name without a recipe", with(&catalog, &[2], text("manifest"))),
        ("an empty name", with(&other, &[2], text(""))),
        ("a name of 129 bytes", with(&other, &[2], text(&"n".repeat(129)))),
        ("a name with a line end", with(&other, &[2], text("a\nb"))),
        ("a name that is not UTF-8", with(&other, &[2], Item::Text(vec![0xc3, 0x28]))),
        ("a size beyond 1 TiB", with(&catalog, &[7], Item::Uint(MAX_BLOB_BYTES + 1))),
        ("it ends when it begins", with(&catalog, &[9], Item::Uint(noon))),
        ("it holds for more than two years", with(&catalog, &[9], Item::Uint(noon + 63_244_800_001))),
    ];
    refuse::<Head>(&mut sheet, "Head", "SignedHead", bad);
    sheet.spoil_record("Head", &catalog, &[]);
    sheet
}

fn head_set() -> Sheet {
    let mut sheet =
        Sheet::new("head_set", "Sets of Catalog Heads of `signer` in `project`; `value` holds the Heads.");
    let project = Project::new("acme/web").unwrap();
    let context = json!({ "signer": pair(1).signer().show(), "project": "acme/web" });
    let sign = |head: &Head| Signed::sign(head, &[&pair(1)]).unwrap();
    for (name, instances) in [("no heads", vec![]), ("one head", vec![1]), ("three heads", vec![1, 2, 0xff])]
    {
        let mut set = HeadSet::new(pair(1).signer(), project.clone());
        for instance in &instances {
            set.add(sign(&catalog_head(*instance, 7 + u64::from(*instance)))).unwrap();
        }
        let heads: Vec<_> = instances
            .iter()
            .map(|instance| catalog_head(*instance, 7 + u64::from(*instance)).show())
            .collect();
        let mut vector =
            json!({ "name": name, "type": "HeadSet", "hex": hex(&set.encode()), "value": heads });
        vector.as_object_mut().unwrap().extend(context.as_object().unwrap().clone());
        sheet.push(vector);
    }
    let list = |heads: &[&[u8]]| {
        let heads = heads.iter().map(|head| Item::Bytes(head.to_vec())).collect();
        Item::Map(vec![(Item::Uint(1), Item::List(heads))]).bytes()
    };
    let (one, two) = (sign(&catalog_head(1, 1)), sign(&catalog_head(2, 1)));
    let both = list(&[one.bytes(), two.bytes()]);
    for (why, bytes) in super::shape::spoil(&both, &[]) {
        sheet.bad("HeadSet", why, &bytes);
        sheet.given(&context);
    }
    let later = sign(&catalog_head(1, 2));
    let stranger = Signed::sign(&catalog_head(1, 1), &[&pair(2)]).unwrap();
    let shared = Signed::sign(&catalog_head(1, 1), &[&pair(1), &pair(2)]).unwrap();
    let elsewhere = sign(&Head { project: Project::default(), ..catalog_head(1, 1) });
    let named = Head {
        name: Text::new("manifest").unwrap(),
        recipe: Some(Recipe::new("ccache@1").unwrap()),
        ..catalog_head(1, 1)
    };
    let mut forged = one.bytes().to_vec();
    forged[220] ^= 1;
    let many: Vec<_> = (1..=17).map(|instance| sign(&catalog_head(instance, 1))).collect();
    let many: Vec<_> = many.iter().map(Signed::bytes).collect();
    for (why, bytes) in [
        ("an empty list of heads", list(&[])),
        ("heads out of the order of their instances", list(&[two.bytes(), one.bytes()])),
        ("an instance twice", list(&[one.bytes(), later.bytes()])),
        ("a head of another signer", list(&[stranger.bytes()])),
        ("a head of two signers", list(&[shared.bytes()])),
        ("a head of another project", list(&[elsewhere.bytes()])),
        ("a head of another name", list(&[sign(&named).bytes()])),
        ("a head whose signature does not fit", list(&[&forged])),
        ("a head that is none", list(&[&[0]])),
        ("a head of more than 500 bytes", list(&[&[0; 501]])),
        ("seventeen heads", list(&many)),
    ] {
        sheet.bad("HeadSet", why, &bytes);
        sheet.given(&context);
    }
    let foreign = json!({ "signer": pair(2).signer().show(), "project": "acme/web" });
    sheet.bad("HeadSet", "it is the set of another signer", &both);
    sheet.given(&foreign);
    sheet
}

fn revocation() -> Sheet {
    let mut sheet = Sheet::new(
        "revocation",
        "Revocations: of a Revocation, `hex` is the payload; of a SignedRevocation, it is the envelope, and the other \
         fields are as in signed.json.",
    );
    let at = Time::from_millis(NOON.as_millis() - 86_400_000);
    let plain = Revocation { key: pair(1).signer(), at, issued: NOON, reason: None };
    let least = sheet.good("Revocation", "no reason", &plain);
    let told =
        Revocation { reason: Text::new("The laptop was stolen. Schade, aber è così."), ..plain.clone() };
    let full = sheet.good("Revocation", "a reason", &told);
    good(&mut sheet, "by the key itself", &told, &[1]);
    good(&mut sheet, "by another key", &plain, &[9]);
    let bad = vec![
        ("an empty reason", with(&full, &[4], text(""))),
        ("a reason of 201 bytes", with(&full, &[4], text(&"r".repeat(201)))),
        ("a reason with a line end", with(&full, &[4], text("a\nb"))),
        ("a reason that is not UTF-8", with(&full, &[4], Item::Text(vec![0xff]))),
        ("a key of 33 bytes", with(&least, &[1], Item::Bytes(vec![1; 33]))),
        ("an instant that is text", with(&least, &[2], text("2026-11-21T06:00:00Z"))),
    ];
    refuse::<Revocation>(&mut sheet, "Revocation", "SignedRevocation", bad);
    sheet.spoil_record("Revocation", &least, &[]);
    sheet
}

fn succession() -> Sheet {
    let mut sheet = Sheet::new(
        "succession",
        "Successions: of a Succession, `hex` is the payload; of a SignedSuccession, it is the envelope, and the other \
         fields are as in signed.json.",
    );
    let claim = Succession { old: pair(1).signer(), new: pair(2).signer(), issued: NOON };
    let payload = sheet.good("Succession", "one key follows another", &claim);
    good(&mut sheet, "by both keys", &claim, &[1, 2]);
    let bad = vec![
        (
            "a key that follows itself",
            with(&payload, &[2], Item::Bytes(pair(1).signer().as_bytes().to_vec())),
        ),
        ("a key of 31 bytes", with(&payload, &[2], Item::Bytes(vec![1; 31]))),
        ("a negative instant", with(&payload, &[3], Item::Negative(0))),
    ];
    refuse::<Succession>(&mut sheet, "Succession", "SignedSuccession", bad);
    sheet.spoil_record("Succession", &payload, &[]);
    sheet
}
