// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every codec on values of every shape: what is encoded reads back as it was, and nothing shorter does. (Pieces and
//! Trees have their own, beside the code.)

use std::fmt::Debug;

use potluck_keys::codec::{Bytes, Text, Wire, decode, encode};
use potluck_keys::pair::Signer;
use potluck_keys::policy::Scoped;
use potluck_keys::signed::Signed;
use potluck_keys::standing::{Revocation, Succession};
use potluck_keys::time::Time;
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::catalog::{Catalog, Filter, Row, RowKind, Segment, SegmentRef};
use potluck_protocol::control::{self, Answer as Known, Failure, Miss, Reply, Request};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{BlobOutput, Entry, Labels, MAX_LIFE, Output, TreeOutput};
use potluck_protocol::head::{CATALOG, Head, HeadSet, Instance};
use potluck_protocol::peer::{self, Ask, Blobs, Heads, Hello, Packing, Topic};
use potluck_tests::samples::pair;
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

/// The property itself.
fn check<T: Wire + PartialEq + Debug>(value: &T) -> Result<(), TestCaseError> {
    let bytes = encode(value);
    prop_assert_eq!(&decode::<T>(&bytes, bytes.len()).unwrap(), value);
    prop_assert!(decode::<T>(&bytes, bytes.len() - 1).is_err(), "longer than allowed");
    for len in 0..bytes.len() {
        prop_assert!(decode::<T>(&bytes[..len], bytes.len()).is_err(), "a prefix of {} bytes", len);
    }
    prop_assert!(decode::<T>(&[&bytes[..], &[0]].concat(), bytes.len() + 1).is_err(), "a byte more");
    Ok(())
}

fn project() -> impl Strategy<Value = Project> {
    "[a-z0-9_-]{1,8}(/[a-z0-9._-]{1,7}x){0,3}".prop_map(|name| Project::new(&name).unwrap())
}

fn recipe() -> impl Strategy<Value = Recipe> {
    ("[a-z0-9._-]{1,9}", 1..u32::MAX)
        .prop_map(|(name, version)| Recipe::new(&format!("{name}@{version}")).unwrap())
}

fn text<const MAX: usize>() -> impl Strategy<Value = Text<MAX>> {
    "[a-zäß€ ]{1,12}".prop_map(|text| Text::new(text).unwrap())
}

fn bytes<const MAX: usize>() -> impl Strategy<Value = Bytes<MAX>> {
    vec(any::<u8>(), 0..40).prop_map(|bytes| Bytes::new(bytes).unwrap())
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

fn action() -> impl Strategy<Value = ActionId> {
    any::<[u8; 32]>().prop_map(ActionId::from_bytes)
}

fn signer() -> impl Strategy<Value = Signer> {
    any::<[u8; 32]>().prop_map(Signer::from_bytes)
}

fn instance() -> impl Strategy<Value = Instance> {
    any::<[u8; 16]>().prop_map(Instance::from_bytes)
}

/// When something begins and ends.
fn life() -> impl Strategy<Value = (Time, Time)> {
    let longest = u64::try_from(MAX_LIFE.as_millis()).unwrap();
    (0..Time::MAX.as_millis() - longest, 1..=longest)
        .prop_map(|(start, span)| (Time::from_millis(start), Time::from_millis(start + span)))
}

fn output() -> impl Strategy<Value = Output> {
    let sizes = (digest(), 0..1_u64 << 40, 0..=1_000_000_u64, 0..=1_u64 << 40);
    prop_oneof![
        (digest(), 0..=1_u64 << 40).prop_map(|(digest, size)| Output::Blob(BlobOutput { digest, size })),
        sizes.prop_map(|(digest, size, members, total)| Output::Tree(TreeOutput {
            digest,
            size,
            members,
            total
        })),
    ]
}

fn labels() -> impl Strategy<Value = Labels> {
    (option::of(text()), option::of(text()), option::of(text()), option::of(any::<u64>()))
        .prop_map(|(tool, toolchain, platform, cost_ms)| Labels { tool, toolchain, platform, cost_ms })
}

fn entry() -> impl Strategy<Value = Entry> {
    let question = (project(), recipe(), action());
    let taints = btree_set(text(), 0..4).prop_map(|taints| taints.into_iter().collect());
    (question, output(), labels(), taints, life(), option::of(digest())).prop_map(
        |((project, recipe, action), output, labels, taints, (issued, not_after), replaces)| Entry {
            project,
            recipe,
            action,
            output,
            labels,
            taints,
            issued,
            not_after,
            replaces,
        },
    )
}

fn head() -> impl Strategy<Value = Head> {
    let name = prop_oneof![
        Just((Text::new(CATALOG).unwrap(), None)),
        (text(), recipe()).prop_map(|(name, recipe)| (name, Some(recipe))),
    ];
    (project(), name, instance(), 1..u64::MAX, digest(), 0..=1_u64 << 40, life()).prop_map(
        |(project, (name, recipe), instance, sequence, root, size, (issued, not_after))| Head {
            project,
            name,
            recipe,
            instance,
            sequence,
            root,
            size,
            issued,
            not_after,
        },
    )
}

fn catalog() -> impl Strategy<Value = Catalog> {
    let segment =
        (digest(), 1..=1_u64 << 20, digest(), 0..=31_u32).prop_map(|(digest, rows, filter, tier)| {
            SegmentRef { digest, size: rows * 65, rows, filter, filter_size: rows * 3, tier }
        });
    (project(), vec(segment, 0..9)).prop_map(|(project, mut segments)| {
        segments.sort_by_key(|segment| segment.tier);
        Catalog { project, segments }
    })
}

fn topic() -> impl Strategy<Value = Topic> {
    (signer(), project()).prop_map(|(signer, project)| Topic { signer, project })
}

fn hello() -> impl Strategy<Value = Hello> {
    (option::of(text()), vec(topic(), 0..4), vec(topic(), 0..4)).prop_map(|(agent, holds, follows)| Hello {
        agent,
        holds,
        follows,
    })
}

fn heads() -> impl Strategy<Value = Heads> {
    let known =
        (instance(), any::<u64>()).prop_map(|(instance, sequence)| peer::Known { instance, sequence });
    let state = (topic(), vec(known, 0..4)).prop_map(|(topic, known)| peer::TopicState { topic, known });
    prop_oneof![
        vec(bytes(), 0..4).prop_map(|heads| Heads::Push(peer::Push { heads })),
        (any::<u64>(), vec(state, 0..4)).prop_map(|(id, topics)| Heads::Pull(peer::Pull { id, topics })),
        (any::<u64>(), vec(bytes(), 0..4)).prop_map(|(id, heads)| Heads::Given(peer::Given { id, heads })),
    ]
}

/// A packing with a size that fits so many bytes.
fn packing(len: usize) -> impl Strategy<Value = (Packing, u64)> {
    prop_oneof![
        Just((Packing::Raw, len as u64)),
        (len as u64 + 1..=1 << 20).prop_map(|size| (Packing::Zstd, size)),
    ]
}

fn inline() -> impl Strategy<Value = peer::Inline> {
    bytes().prop_flat_map(|bytes| {
        let len = bytes.len();
        (digest(), packing(len), Just(bytes)).prop_map(|(digest, (packing, size), bytes)| peer::Inline {
            digest,
            size,
            packing,
            bytes,
        })
    })
}

fn ask() -> impl Strategy<Value = Ask> {
    let found = (action(), vec(bytes(), 0..3), vec(bytes(), 0..3), vec(inline(), 0..3))
        .prop_map(|(action, entries, heads, blobs)| peer::Found { action, entries, heads, blobs });
    let question = (any::<u64>(), project(), vec(action(), 0..5), any::<u64>());
    prop_oneof![
        question.prop_map(|(id, project, actions, inline)| {
            Ask::Question(peer::Question { id, project, actions, inline })
        }),
        (any::<u64>(), vec(found, 0..3), any::<bool>())
            .prop_map(|(id, found, last)| Ask::Answer(peer::Answer { id, found, last })),
    ]
}

fn blobs() -> impl Strategy<Value = Blobs> {
    let id = any::<u64>;
    let run = (0..1_u64 << 19, 1..=1_u64 << 19).prop_map(|(first, count)| peer::Run { first, count });
    let piece = bytes().prop_flat_map(move |bytes| {
        let len = bytes.len();
        (id(), id(), packing(len), Just(bytes)).prop_map(|(id, index, (packing, size), bytes)| {
            Blobs::Piece(peer::Piece { id, index, size, packing, bytes })
        })
    });
    prop_oneof![
        (id(), digest(), any::<bool>(), vec(run, 0..4))
            .prop_map(|(id, digest, values, pieces)| Blobs::Want(peer::Want { id, digest, values, pieces })),
        (id(), 0..40_u64 << 20, option::of(any::<u8>())).prop_map(|(id, size, bits)| {
            let bytes = usize::try_from(size.div_ceil(1 << 20).max(1).div_ceil(8)).unwrap();
            let bitmap = bits.map(|bits| Bytes::new(vec![bits; bytes]).unwrap());
            Blobs::Have(peer::Have { id, size, bitmap })
        }),
        (id(), 0..1000_u64, vec(any::<[u8; 32]>(), 1..4)).prop_map(|(id, first, values)| {
            let values = Bytes::new(values.concat()).unwrap();
            Blobs::Values(peer::Values { id, first, values })
        }),
        piece,
        (id(), option::of(proptest::sample::select(peer::No::ALL)))
            .prop_map(|(id, no)| Blobs::End(peer::End { id, no })),
        id().prop_map(|id| Blobs::Stop(peer::Stop { id })),
        (id(), vec(digest(), 0..4)).prop_map(|(id, digests)| Blobs::Several(peer::Several { id, digests })),
        (id(), vec(inline(), 0..3)).prop_map(|(id, blobs)| Blobs::Small(peer::Small { id, blobs })),
    ]
}

fn data() -> impl Strategy<Value = control::Data> {
    (any::<u64>(), bytes(), any::<bool>()).prop_map(|(id, bytes, last)| control::Data { id, bytes, last })
}

fn missing() -> impl Strategy<Value = control::Missing> {
    (any::<u64>(), vec(digest(), 0..5)).prop_map(|(id, digests)| control::Missing { id, digests })
}

fn request() -> impl Strategy<Value = Request> {
    let id = any::<u64>;
    let plain = move || id().prop_map(|id| control::Plain { id });
    let lookup = (id(), project(), recipe(), vec(bytes(), 0..4), option::of(any::<u32>()));
    let publish = (id(), (project(), recipe(), bytes()), output(), labels(), btree_set(text(), 0..4));
    prop_oneof![
        (id(), text()).prop_map(|(version, client)| Request::Greeting(control::Greeting { version, client })),
        plain().prop_map(Request::Status),
        plain().prop_map(Request::Stop),
        plain().prop_map(Request::Forget),
        lookup.prop_map(|(id, project, recipe, keys, deadline_ms)| {
            Request::Lookup(control::Lookup { id, project, recipe, keys, deadline_ms })
        }),
        missing().prop_map(Request::Missing),
        (id(), digest(), 0..1_u64 << 39, option::of(0..1_u64 << 39))
            .prop_map(|(id, digest, offset, len)| Request::Read(control::Read { id, digest, offset, len })),
        data().prop_map(Request::Write),
        publish.prop_map(|(id, (project, recipe, key), output, labels, taints)| {
            let taints = taints.into_iter().collect();
            Request::Publish(control::Publish { id, project, recipe, key, output, labels, taints })
        }),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    let id = any::<u64>;
    let answer = prop_oneof![
        output().prop_map(Known::Hit),
        proptest::sample::select(Miss::ALL).prop_map(Known::Miss),
    ];
    let failed = (id(), proptest::sample::select(Failure::ALL), text(), option::of(text()));
    prop_oneof![
        (id(), id()).prop_map(|(version, pid)| Reply::Welcome(control::Welcome { version, pid })),
        (id(), bytes()).prop_map(|(id, json)| Reply::Report(control::Report { id, json })),
        id().prop_map(|id| Reply::Stopping(control::Plain { id })),
        (id(), vec(answer, 0..5)).prop_map(|(id, answers)| Reply::Answers(control::Answers { id, answers })),
        missing().prop_map(Reply::Missing),
        data().prop_map(Reply::Data),
        (id(), digest(), id())
            .prop_map(|(id, digest, size)| { Reply::Written(control::Written { id, digest, size }) }),
        (id(), digest()).prop_map(|(id, entry)| Reply::Published(control::Published { id, entry })),
        failed.prop_map(|(id, kind, message, hint)| {
            Reply::Failed(control::Failed { id, kind, message, hint })
        }),
    ]
}

/// Signs, damages every byte, and demands that all damage is noticed.
fn check_signed<T: Scoped + Clone + PartialEq + Debug>(
    claim: &T,
    keys: &[u8],
    flip: u8,
) -> Result<(), TestCaseError> {
    let keys: Vec<_> = keys.iter().map(|seed| pair(*seed)).collect();
    let signed = Signed::sign(claim, &keys.iter().collect::<Vec<_>>()).unwrap();
    let bytes = signed.bytes();
    let read = |bytes: &[u8]| Signed::<T>::decode(bytes).and_then(|signed| signed.authentic().cloned());
    prop_assert_eq!(&read(bytes).unwrap(), claim);
    for at in 0..bytes.len() {
        prop_assert!(Signed::<T>::decode(&bytes[..at]).is_err(), "a prefix of {} bytes", at);
        let mut bad = bytes.to_vec();
        bad[at] ^= flip;
        prop_assert!(read(&bad).is_err(), "byte {} flipped", at);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn claims(entry in entry(), head in head()) {
        check(&entry)?;
        check(&head)?;
    }

    #[test]
    fn claims_about_keys(key in signer(), other in signer(), life in life(), reason in option::of(text())) {
        check(&Revocation { key, at: life.1, issued: life.0, reason })?;
        prop_assume!(key != other);
        check(&Succession { old: key, new: other, issued: life.0 })?;
    }

    #[test]
    fn catalogs(catalog in catalog()) {
        check(&catalog)?;
    }

    #[test]
    fn messages_of_peers(hello in hello(), heads in heads(), ask in ask(), blobs in blobs()) {
        check(&hello)?;
        check(&heads)?;
        check(&ask)?;
        check(&blobs)?;
    }

    #[test]
    fn messages_of_the_daemon(request in request(), reply in reply()) {
        check(&request)?;
        check(&reply)?;
    }

    #[test]
    fn segments_and_filters(actions in btree_set(any::<[u8; 32]>(), 1..50), withdrawn: u8) {
        let row = |(at, action): (usize, &[u8; 32])| {
            let action = ActionId::from_bytes(*action);
            match at % 256 == usize::from(withdrawn) {
                true => Row::withdrawn(action),
                false => Row { action, claim: Digest::of(action.as_bytes()), kind: RowKind::Entry },
            }
        };
        let segment = Segment::new(actions.iter().enumerate().map(row).collect()).unwrap();
        prop_assert_eq!(&Segment::decode(segment.bytes().to_vec()).unwrap(), &segment);
        let filter = segment.filter().unwrap().encode();
        let read = Filter::decode(&filter).unwrap();
        prop_assert_eq!(&read.encode(), &filter);
        prop_assert!(segment.rows().all(|row| read.contains(&row.action)));
        for len in 0..segment.bytes().len() {
            prop_assert!(Segment::decode(segment.bytes()[..len].to_vec()).is_err());
        }
        prop_assert!((0..filter.len()).all(|len| Filter::decode(&filter[..len]).is_err()));
    }
}

proptest! {
    // Each case verifies hundreds of signatures.
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn signed_claims(entry in entry(), head in head(), flip in 1..=u8::MAX) {
        check_signed(&entry, &[1], flip)?;
        check_signed(&head, &[2, 3], flip)?;
    }

    #[test]
    fn sets_of_heads(heads in vec(head(), 1..4)) {
        let signer = pair(1).signer();
        let mut set = HeadSet::new(signer, Project::default());
        for head in heads {
            let (project, name) = (Project::default(), Text::new(CATALOG).unwrap());
            let head = Head { project, name, recipe: None, ..head };
            set.add(Signed::sign(&head, &[&pair(1)]).unwrap()).unwrap();
        }
        let bytes = set.encode();
        let read = |bytes: &[u8]| HeadSet::decode(bytes, signer, Project::default());
        prop_assert_eq!(read(&bytes).unwrap().encode(), bytes.clone());
        prop_assert!((0..bytes.len()).all(|len| read(&bytes[..len]).is_err()));
    }
}
