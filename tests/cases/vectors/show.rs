// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values as JSON: fields by their names, names of bytes as hexadecimal digits, instants as milliseconds.

use potluck_keys::pair::Signer;
use potluck_keys::standing::{Revocation, Succession};
use potluck_keys::time::Time;
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::catalog::{Catalog, RowKind, Segment, SegmentRef};
use potluck_protocol::codec::{Bytes, Text};
use potluck_protocol::digest::{Digest, Sha256};
use potluck_protocol::entry::{BlobOutput, Entry, Labels, Output, TreeOutput};
use potluck_protocol::head::{Head, Instance};
use potluck_protocol::names::{DhtKey, NetworkId};
use potluck_protocol::piece::PieceList;
use potluck_protocol::tree::{Kind, Tree};
use potluck_protocol::{control, peer};
use serde_json::{Map, Value, json};

/// Something with a form in JSON.
pub(crate) trait Show {
    /// The form, or nothing when it is left out of the record that holds it.
    fn show(&self) -> Option<Value>;
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of lower-case hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2) && !text.contains(|c: char| c.is_ascii_uppercase()), "{text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

macro_rules! as_json {
    ($($type:ty: |$value:ident| $form:expr;)+) => {
        $( impl Show for $type {
            fn show(&self) -> Option<Value> {
                let $value = self;
                Some(json!($form))
            }
        } )+
    };
}

as_json! {
    u64: |n| *n;
    u32: |n| *n;
    bool: |yes| *yes;
    Time: |time| time.as_millis();
    Signer: |signer| hex(signer.as_bytes());
    Digest: |digest| digest.to_string();
    Sha256: |sha256| sha256.to_string();
    ActionId: |id| id.to_string();
    Instance: |id| id.to_string();
    NetworkId: |id| id.to_string();
    DhtKey: |id| id.to_string();
    Project: |name| name.as_str();
    Recipe: |name| name.as_str();
    RowKind: |kind| format!("{kind:?}");
    peer::Packing: |code| format!("{code:?}");
    peer::No: |code| format!("{code:?}");
    control::Miss: |code| format!("{code:?}");
    control::Failure: |code| format!("{code:?}");
}

impl<const MAX: usize> Show for Bytes<MAX> {
    fn show(&self) -> Option<Value> {
        Some(hex(self).into())
    }
}

impl<const MAX: usize> Show for Text<MAX> {
    fn show(&self) -> Option<Value> {
        Some(json!(&**self))
    }
}

impl<T: Show> Show for Option<T> {
    fn show(&self) -> Option<Value> {
        self.as_ref()?.show()
    }
}

impl<T: Show> Show for Vec<T> {
    fn show(&self) -> Option<Value> {
        if self.is_empty() { None } else { Some(self.iter().filter_map(Show::show).collect()) }
    }
}

macro_rules! records {
    ($($type:path { $($field:ident),+ })+) => {
        $( impl Show for $type {
            fn show(&self) -> Option<Value> {
                // Taken apart without `..`, so that no field is forgotten here.
                let Self { $($field),+ } = self;
                let mut map = Map::new();
                $( if let Some(value) = $field.show() {
                    map.insert(stringify!($field).to_owned(), value);
                } )+
                Some(Value::Object(map))
            }
        } )+
    };
}

macro_rules! choices {
    ($($type:path { $($variant:ident),+ })+) => {
        $( impl Show for $type {
            fn show(&self) -> Option<Value> {
                match self {
                    $( Self::$variant(body) => Some(json!({ stringify!($variant): body.show() })), )+
                }
            }
        } )+
    };
}

records! {
    BlobOutput { digest, size }
    TreeOutput { digest, size, members, total }
    Labels { tool, toolchain, platform, cost_ms }
    Entry { project, recipe, action, output, labels, taints, issued, not_after, replaces }
    Head { project, name, recipe, instance, sequence, root, size, issued, not_after }
    Revocation { key, at, issued, reason }
    Succession { old, new, issued }
    SegmentRef { digest, size, rows, filter, filter_size, tier }
    Catalog { project, segments }
    peer::Topic { signer, project }
    peer::Hello { agent, holds, follows }
    peer::Known { instance, sequence }
    peer::TopicState { topic, known }
    peer::Push { heads }
    peer::Pull { id, topics }
    peer::Given { id, heads }
    peer::Question { id, project, actions, inline }
    peer::Inline { digest, size, packing, bytes }
    peer::Found { action, entries, heads, blobs }
    peer::Answer { id, found, last }
    peer::Run { first, count }
    peer::Want { id, digest, values, pieces }
    peer::Have { id, size, bitmap }
    peer::Values { id, first, values }
    peer::Piece { id, index, size, packing, bytes }
    peer::End { id, no }
    peer::Stop { id }
    peer::Several { id, digests }
    peer::Small { id, blobs }
    control::Greeting { version, client }
    control::Plain { id }
    control::Lookup { id, project, recipe, keys, deadline_ms }
    control::Missing { id, digests }
    control::Read { id, digest, offset, len }
    control::Data { id, bytes, last }
    control::Publish { id, project, recipe, key, output, labels, taints }
    control::Collect { keep, toolchain, project, dry }
    control::Verify { digest, repair }
    control::Pin { digest, reason }
    control::Unpin { digest }
    control::Pins { digest }
    control::Alias { digests }
    control::Find { sha256 }
    control::Claims { project, recipe, keys, ask }
    control::Doubt { entry, action, reason }
    control::Audit { project }
    control::Note { build, pid, project, unit, recipe, key, plan }
    control::Restore { digest, folder, name, device, inode, umask, replace, modified_ms }
    control::Work { id, job }
    control::Export { id, project, toolchain }
    control::Why { id, action }
    control::FileAt { path, device, inode }
    control::Take { id, file }
    control::Give { id, digest, file }
    control::Welcome { version, pid }
    control::Report { id, json }
    control::Answers { id, answers }
    control::Written { id, digest, size }
    control::Published { id, entry }
    control::Failed { id, kind, message, hint }
}

choices! {
    Output { Blob, Tree }
    peer::Heads { Push, Pull, Given }
    peer::Ask { Question, Answer }
    peer::Blobs { Want, Have, Values, Piece, End, Stop, Several, Small }
    control::Request { Greeting, Status, Stop, Lookup, Missing, Read, Write, Publish, Forget, Work, Export, Import, Refresh, Why, Take, Give, Note }
    control::Job { Collect, Verify, Pin, Unpin, Pins, Restore, Alias, Find, Claims, Doubt, Audit }
    control::Reply { Welcome, Report, Stopping, Answers, Missing, Data, Written, Published, Failed, Progress }
    control::Answer { Hit, Miss }
}

impl Show for PieceList {
    fn show(&self) -> Option<Value> {
        let mut value = json!({ "size": self.size });
        if !self.values.is_empty() {
            value["values"] = self.values.iter().map(|value| hex(value)).collect();
        }
        Some(value)
    }
}

impl Show for Tree {
    fn show(&self) -> Option<Value> {
        let member = |member: &potluck_protocol::tree::Member| {
            let path = member.path.as_str();
            match &member.kind {
                Kind::File { digest, size, executable } => {
                    json!({ "path": path, "digest": digest.show(), "size": size, "executable": executable })
                }
                Kind::Symlink { target } => json!({ "path": path, "target": target }),
                Kind::Directory => json!({ "path": path }),
            }
        };
        let members: Vec<_> = self.members().iter().map(member).collect();
        Some(json!({ "members": members, "total": self.total() }))
    }
}

impl Show for Segment {
    fn show(&self) -> Option<Value> {
        let rows = self.rows().map(
            |row| json!({ "action": row.action.show(), "claim": row.claim.show(), "kind": row.kind.show() }),
        );
        Some(json!({ "rows": rows.collect::<Vec<_>>() }))
    }
}
