// SPDX-License-Identifier: MIT OR Apache-2.0
//! Vectors: examples of every format, good and bad, in `protocol/vectors/`.
//!
//! They are made here, from fixed seeds and nothing else; `POTLUCK_BLESS=1` writes them anew. Without it they must be
//! what is made, so that they cannot go stale, and the code must agree with every one of them as it is on disk.

mod blobs;
mod claims;
mod control;
mod kinds;
mod lists;
mod peers;
mod questions;
mod shape;
mod show;

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use potluck_protocol::codec::{Wire, encode};
use potluck_tests::program::repository;
use serde_json::{Value, json};

use show::{Show, hex, unhex};

/// One file of vectors.
struct Sheet {
    format: &'static str,
    description: &'static str,
    valid: Vec<Value>,
    invalid: Vec<Value>,
}

impl Sheet {
    fn new(format: &'static str, description: &'static str) -> Self {
        Self { format, description, valid: Vec::new(), invalid: Vec::new() }
    }

    /// A record, choice or code with its value.
    fn good<T: Wire + Show>(&mut self, kind: &str, name: &str, value: &T) -> Vec<u8> {
        let bytes = encode(value);
        self.push(json!({ "name": name, "type": kind, "hex": hex(&bytes), "value": value.show() }));
        bytes
    }

    /// Anything that is accepted, with what is expected of it.
    fn push(&mut self, vector: Value) {
        self.valid.push(vector);
    }

    /// Something that is refused; its name says why, too.
    fn bad(&mut self, kind: &str, why: &str, bytes: &[u8]) {
        let name = format!("{kind}: {why}");
        self.invalid.push(json!({ "name": name, "type": kind, "hex": hex(bytes), "why": why }));
    }

    /// Adds to what was refused last what else one must know to read it.
    fn given(&mut self, context: &Value) {
        let Value::Object(context) = context else { panic!("the context is an object") };
        let last = self.invalid.last_mut().and_then(Value::as_object_mut);
        last.expect("something was refused").extend(context.clone());
    }

    /// Every way in which an encoding can be spoilt.
    fn spoil(&mut self, kind: &str, good: &[u8], path: &[u64]) {
        for (why, bytes) in shape::spoil(good, path) {
            self.bad(kind, why, &bytes);
        }
    }

    /// The same of a record whose first field must be there.
    fn spoil_record(&mut self, kind: &str, good: &[u8], path: &[u64]) {
        self.spoil(kind, good, path);
        self.bad(kind, "the first field is missing", &shape::without_first(good, path));
    }

    fn text(&self) -> String {
        let sheet = json!({
            "format": self.format,
            "description": self.description,
            "valid": self.valid,
            "invalid": self.invalid,
        });
        serde_json::to_string_pretty(&sheet).unwrap() + "\n"
    }
}

fn folder() -> PathBuf {
    repository().join("protocol/vectors")
}

fn sheets() -> Vec<Sheet> {
    let all = [
        questions::sheets(),
        blobs::sheets(),
        claims::sheets(),
        lists::sheets(),
        peers::sheets(),
        control::sheets(),
    ];
    all.into_iter().flatten().collect()
}

/// All sheets; they are on disk when `POTLUCK_BLESS=1` asks for that.
fn blessed() -> &'static [Sheet] {
    static BLESSED: OnceLock<Vec<Sheet>> = OnceLock::new();
    BLESSED.get_or_init(|| {
        let sheets = sheets();
        if std::env::var_os("POTLUCK_BLESS").is_some_and(|value| value == "1") {
            fs::create_dir_all(folder()).unwrap();
            for sheet in &sheets {
                fs::write(folder().join(format!("{}.json", sheet.format)), sheet.text()).unwrap();
            }
        }
        sheets
    })
}

#[test]
fn the_committed_vectors_are_what_is_made() {
    let sheets = blessed();
    for sheet in sheets {
        let path = folder().join(format!("{}.json", sheet.format));
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == sheet.text(), "{} is stale; POTLUCK_BLESS=1 makes it anew", path.display());
        let mut names: Vec<_> =
            sheet.valid.iter().chain(&sheet.invalid).map(|vector| &vector["name"]).collect();
        names.sort_by_key(|name| name.as_str());
        let twice = names.windows(2).find(|two| two[0] == two[1]);
        assert_eq!(twice, None, "{}: a name stands twice", sheet.format);
    }
    let files = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    for file in files {
        let known = sheets.iter().any(|sheet| file.ends_with(format!("{}.json", sheet.format)));
        assert!(known, "{}: nothing makes this file", file.display());
    }
}

#[test]
fn the_code_agrees_with_every_committed_vector() {
    blessed();
    let mut files: Vec<_> = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let (mut accepted, mut refused) = (0, 0);
    for file in files {
        let sheet: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        for vector in sheet["valid"].as_array().unwrap() {
            let bytes = unhex(vector["hex"].as_str().unwrap());
            if let Err(why) = kinds::agree(vector, &bytes) {
                panic!("{}: {}: {why}", file.display(), vector["name"]);
            }
            accepted += 1;
        }
        for vector in sheet["invalid"].as_array().unwrap() {
            let bytes = unhex(vector["hex"].as_str().unwrap());
            assert!(
                kinds::accept(vector, &bytes).is_err(),
                "{}: {} was accepted",
                file.display(),
                vector["name"]
            );
            refused += 1;
        }
    }
    assert!(accepted > 100 && refused > 300, "only {accepted} and {refused} vectors");
}

#[test]
fn a_wrong_vector_is_noticed() {
    for sheet in blessed() {
        for vector in &sheet.valid {
            let mut bytes = unhex(vector["hex"].as_str().unwrap());
            for at in [0, bytes.len() / 2, bytes.len().saturating_sub(1)] {
                let Some(byte) = bytes.get_mut(at) else { continue };
                *byte ^= 1;
                assert!(kinds::agree(vector, &bytes).is_err(), "{}: {at}", vector["name"]);
                bytes[at] ^= 1;
            }
        }
    }
}
