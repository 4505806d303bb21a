// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Nix asks of a binary cache: a folder with `nix-cache-info`, `HASH.narinfo`, `nar/…`, `HASH.ls` and `log/…`. Pure.
//!
//! The key of `nix@1` is `narinfo/HASH` with the hash that a path in a store begins with, and the output a Tree of
//! [`NARINFO`] and [`NAR`]: one hit brings both. Where the archive is, is not signed by anybody, so the narinfo that is
//! shown names it by [`url`], with the path's hash: should the archive have made room by the time Nix wants it, it is
//! known whose it was, and comes again. Logs and lists of files are outputs of their own, of one Blob.

use http::{Method, StatusCode};
use potluck_protocol::action::Recipe;
use potluck_protocol::digest::Sha256;

use super::narinfo::{HASH_LETTERS, base32, from_base32, is_base32};
use crate::front::listen::asked::Asked;

/// Whose keys these are.
pub const RECIPE: &str = "nix@1";
/// The part that is the narinfo.
pub const NARINFO: &str = "narinfo";
/// The part that is the archive, packed.
pub const NAR: &str = "nar";
/// What Nix is told of this cache: that it is for the usual store, may be asked about many paths, and comes before
/// those that are far away (`cache.nixos.org` has 40).
pub const INFO: &str = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n";
/// Longest name of a log, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Largest log or list of files, in bytes.
pub const MAX_EXTRA_BYTES: u64 = 64 << 20;

/// The Recipe.
pub fn recipe() -> Recipe {
    Recipe::new(RECIPE).expect("it is a valid name")
}

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    /// The cache itself.
    Info,
    /// What is known of the path with this hash.
    NarInfo(String),
    /// An archive.
    Nar {
        /// The SHA-256 of the packed archive.
        file: Sha256,
        /// The hash of its path, if it was shown by this cache.
        path: Option<String>,
    },
    /// A log or a list of files, by its key and its type.
    Extra(String, &'static str),
}

/// What is to be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Give it.
    Get,
    /// Say whether it is there.
    Head,
    /// Keep it.
    Put,
}

/// What a request means.
///
/// # Errors
/// The status that says why it means nothing.
pub fn map(asked: &Asked) -> Result<(Verb, Thing), StatusCode> {
    let verb = match *asked.method() {
        Method::GET => Verb::Get,
        Method::HEAD => Verb::Head,
        Method::PUT => Verb::Put,
        _ => return Err(StatusCode::METHOD_NOT_ALLOWED),
    };
    // What does not look like any of them is not there.
    let thing = thing(asked.rest()).ok_or(StatusCode::NOT_FOUND)?;
    Ok((verb, thing))
}

fn thing(path: &str) -> Option<Thing> {
    if path == "nix-cache-info" {
        return Some(Thing::Info);
    }
    if let Some(nar) = path.strip_prefix("nar/") {
        return self::nar(nar);
    }
    if let Some(name) = path.strip_prefix("log/") {
        let sound = (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.contains('/');
        return sound.then(|| Thing::Extra(path.to_owned(), "text/plain; charset=utf-8"));
    }
    let (hash, kind) = path.split_once('.')?;
    if !is_path(hash) {
        return None;
    }
    match kind {
        "narinfo" => Some(Thing::NarInfo(hash.to_owned())),
        "ls" => Some(Thing::Extra(format!("ls/{hash}"), "application/json")),
        _ => None,
    }
}

fn is_path(hash: &str) -> bool {
    hash.len() == HASH_LETTERS && is_base32(hash)
}

fn nar(name: &str) -> Option<Thing> {
    let (name, kind) = name.split_once('.')?;
    let packing = kind.strip_prefix("nar")?;
    let plain = packing.strip_prefix('.').is_none_or(|packing| {
        (1..=8).contains(&packing.len()) && packing.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    if !plain || !packing.is_empty() && !packing.starts_with('.') {
        return None;
    }
    let (path, file) = match name.split_once('-') {
        Some((path, file)) => (Some(path).filter(|path| is_path(path))?.to_owned().into(), file),
        None => (None, name),
    };
    Some(Thing::Nar { file: from_base32(file)?, path })
}

/// The key of what is known of a path.
pub fn key(hash: &str) -> Vec<u8> {
    format!("narinfo/{hash}").into_bytes()
}

/// Where the archive of a path is said to be, by how it was called when it was put.
pub fn url(path: &str, file: &Sha256, put: &str) -> String {
    let packing = put.split_once(".nar").map_or("", |(_, packing)| packing);
    format!("nar/{path}-{}.nar{packing}", base32(file))
}

/// The SHA-256 in a place that a narinfo names, if that is one of this cache.
pub fn file_of(url: &str) -> Option<Sha256> {
    match thing(url)? {
        Thing::Nar { file, .. } => Some(file),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::listen::asked::{Access, sample};

    const PATH: &str = "3imvddpkp3np5kpfzyjqbk23lz2cs6l9";
    const FILE: &str = "1kp5xrp4d3xkwzzv7302rvbmjhmdwadszn131qrcf9gx1qwch1qd";

    fn asked(text: &str) -> Result<(Verb, Thing), StatusCode> {
        map(&Asked::new(sample(text.as_bytes()).unwrap(), &Access::private()).unwrap())
    }

    #[test]
    fn what_nix_sends_is_understood() {
        let recorded = include_str!("samples/requests.txt");
        let asked: Vec<_> = recorded.split("\n\n").skip(1).map(|text| asked(text).unwrap()).collect();
        let file = from_base32(FILE).unwrap();
        let (info, nar) = (Thing::NarInfo(PATH.to_owned()), Thing::Nar { file, path: None });
        let log = "log/9q2qilwsqww1b0qlnpvc0pwbsji3r91j-dish.drv".to_owned();
        assert_eq!(
            asked,
            [
                (Verb::Get, Thing::Info),
                (Verb::Get, info.clone()),
                (Verb::Head, info.clone()),
                (Verb::Head, nar.clone()),
                (Verb::Put, nar),
                (Verb::Put, info),
                (Verb::Get, Thing::Nar { file, path: Some(PATH.to_owned()) }),
                (Verb::Get, Thing::Extra(log, "text/plain; charset=utf-8")),
                (Verb::Put, Thing::Extra(format!("ls/{PATH}"), "application/json")),
            ]
        );
    }

    #[test]
    fn where_an_archive_is_said_to_be_it_is() {
        let file = from_base32(FILE).unwrap();
        for packing in ["", ".xz", ".zst"] {
            let put = format!("nar/{FILE}.nar{packing}");
            let url = url(PATH, &file, &put);
            assert_eq!(thing(&url), Some(Thing::Nar { file, path: Some(PATH.to_owned()) }), "{url}");
            assert_eq!((file_of(&put), file_of(&url)), (Some(file), Some(file)));
        }
        // It may be called anything when a peer says so.
        let odd = url(PATH, &file, "https://else.where/x.nar/../../y");
        assert_eq!(file_of("https://else.where/x"), None);
        assert_eq!(thing(&odd), None);
    }

    #[test]
    fn everything_else_is_not_there() {
        for path in [
            "",
            "x",
            "nar/",
            "nar/x.nar",
            &format!("{PATH}.narinfo.x"),
            &format!("{}.narinfo", &PATH[1..]),
            &format!("e{}.narinfo", &PATH[1..]),
            &format!("nar/{FILE}"),
            &format!("nar/{FILE}.narx"),
            &format!("nar/{FILE}.nar."),
            &format!("nar/{FILE}.nar.x/y"),
            &format!("nar/{FILE}-{FILE}.nar"),
            "log/",
            "log/a/b",
            &format!("log/{}", "a".repeat(MAX_NAME_BYTES + 1)),
            "realisations/x.doi",
        ] {
            assert_eq!(thing(path), None, "{path}");
        }
        assert_eq!(asked("DELETE /nix/nix-cache-info HTTP/1.1\n"), Err(StatusCode::METHOD_NOT_ALLOWED));
    }
}
