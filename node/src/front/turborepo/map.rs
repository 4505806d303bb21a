// SPDX-License-Identifier: MIT OR Apache-2.0
//! What turbo asks and what it is told: `/v8/artifacts` of Vercel's remote cache API. Pure.
//!
//! The key of `turborepo@1` is the hash with the team, as [`Key::shared`] writes it; the output is a Tree of two
//! parts, [`BODY`] and [`ABOUT`]. What turbo sends beside an artifact it wants back as it was; with signatures on, it
//! takes nothing whose tag its own key did not make, and puts the artifact anew. So a second artifact with another tag
//! must not replace the first: it goes under [`Key::own`] of whoever put it, and is what he gets from then on.

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use potluck_protocol::action::Recipe;
use serde::{Deserialize, Serialize};

use crate::front::listen::asked::Asked;

/// Whose keys these are.
pub const RECIPE: &str = "turborepo@1";
/// The part that is the archive.
pub const BODY: &str = "artifact";
/// The part that says what came with it.
pub const ABOUT: &str = "about.json";
/// Longest hash, in bytes; those of turbo have 16 hexadecimal digits.
pub const MAX_HASH_BYTES: usize = 128;
/// Longest team, in bytes.
pub const MAX_TEAM_BYTES: usize = 256;
/// Longest value that comes with an artifact, in bytes. A tag has 44.
pub const MAX_VALUE_BYTES: usize = 512;
/// Largest [`About`] as it is kept, in bytes.
pub const MAX_ABOUT_BYTES: u64 = 4096;
/// Most hashes that are asked about at once.
pub const MAX_HASHES: usize = 512;
/// Largest body of such a question, and of a report of events, in bytes.
pub const MAX_QUERY_BYTES: u64 = 1 << 20;
/// BLAKE3 derive-key context of whose key it is.
const OWN_CONTEXT: &str = "potluck 2026-11 turborepo own key v1";

/// The Recipe.
pub fn recipe() -> Recipe {
    Recipe::new(RECIPE).expect("it is a valid name")
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Operation {
    /// Say that the cache is there.
    Status,
    /// Take a report of hits and misses, which is of no use here.
    Events,
    /// Say which of the hashes in the body are here.
    Query(Scope),
    /// Give an artifact, or only what is to be said of it.
    Get {
        /// Which.
        key: Key,
        /// Whether it is only to be told about.
        head: bool,
    },
    /// Keep an artifact.
    Put {
        /// Under what.
        key: Key,
        /// What came with it.
        about: About,
    },
}

/// Whose artifacts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The team, as the client names it.
    team: String,
    /// What tells clients apart that may sign differently: their token, unreadably.
    client: [u8; 32],
}

/// An artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    scope: Scope,
    hash: String,
}

impl Key {
    /// The key under which the first one stands, for everybody of the team.
    pub fn shared(&self) -> Vec<u8> {
        // None of them holds a line end.
        format!("{}\n{}", self.scope.team, self.hash).into_bytes()
    }

    /// The key under which this client's own stands, if it is another one.
    pub fn own(&self) -> Vec<u8> {
        let client = blake3::Hash::from_bytes(self.scope.client);
        format!("{}\n{}\n{client}", self.scope.team, self.hash).into_bytes()
    }

    /// The hash.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

/// What came with an artifact, and goes with it again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// How long it took to make, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<u64>,
    /// The signature that turbo itself checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha: Option<String>,
    /// What differed from the commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_hash: Option<String>,
}

const DURATION: &str = "x-artifact-duration";
const TAG: &str = "x-artifact-tag";
const SHA: &str = "x-artifact-sha";
const DIRTY_HASH: &str = "x-artifact-dirty-hash";

impl About {
    /// What a request says.
    fn of(headers: &HeaderMap) -> Result<Self, StatusCode> {
        let value = |name: &str| -> Result<Option<String>, StatusCode> {
            let mut all = headers.get_all(name).iter();
            let Some(value) = all.next() else { return Ok(None) };
            let text = value.to_str().ok().filter(|text| text.len() <= MAX_VALUE_BYTES);
            match (text, all.next()) {
                (Some(text), None) => Ok(Some(text.to_owned())),
                _ => Err(StatusCode::BAD_REQUEST),
            }
        };
        Ok(Self {
            duration: value(DURATION)?.and_then(|text| text.parse().ok()),
            tag: value(TAG)?,
            sha: value(SHA)?,
            dirty_hash: value(DIRTY_HASH)?,
        })
    }

    /// The same as headers of an answer.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let duration = self.duration.map(|duration| duration.to_string());
        let texts =
            [(DURATION, &duration), (TAG, &self.tag), (SHA, &self.sha), (DIRTY_HASH, &self.dirty_hash)];
        for (name, text) in texts {
            if let Some(value) = text.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
                headers.insert(name, value);
            }
        }
        headers
    }

    /// As it is kept.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and numbers have a JSON form")
    }

    /// As it was kept, by whomever; nothing when it makes no sense.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let about: Self = serde_json::from_slice(bytes).ok()?;
        let texts = [&about.tag, &about.sha, &about.dirty_hash];
        let short = |text: &&Option<String>| text.as_ref().is_none_or(|text| text.len() <= MAX_VALUE_BYTES);
        texts.iter().all(short).then_some(about)
    }
}

/// What a request means.
///
/// # Errors
/// The status that says why it means nothing.
pub fn map(asked: &Asked) -> Result<Operation, StatusCode> {
    let path = asked.rest().strip_prefix("v8/artifacts").ok_or(StatusCode::NOT_FOUND)?;
    let path = path.strip_prefix('/').unwrap_or(path);
    let (method, scope) = (asked.method(), scope(asked)?);
    match path {
        "status" if method == Method::GET => Ok(Operation::Status),
        "events" if method == Method::POST => Ok(Operation::Events),
        "" if method == Method::POST => Ok(Operation::Query(scope)),
        "" | "events" => Err(StatusCode::METHOD_NOT_ALLOWED),
        hash => {
            let key = key(scope, hash).ok_or(StatusCode::BAD_REQUEST)?;
            match *method {
                Method::GET => Ok(Operation::Get { key, head: false }),
                Method::HEAD => Ok(Operation::Get { key, head: true }),
                Method::PUT => Ok(Operation::Put { key, about: About::of(asked.headers())? }),
                _ => Err(StatusCode::METHOD_NOT_ALLOWED),
            }
        }
    }
}

fn key(scope: Scope, hash: &str) -> Option<Key> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let sound = (1..=MAX_HASH_BYTES).contains(&hash.len()) && hash.bytes().all(plain);
    sound.then(|| Key { scope, hash: hash.to_owned() })
}

/// The keys that a body asks about, in its order; nothing when it makes no sense.
pub fn queried(scope: &Scope, body: &[u8]) -> Option<Vec<Key>> {
    #[derive(Deserialize)]
    struct Query {
        hashes: Vec<String>,
    }
    let Query { hashes } = serde_json::from_slice(body).ok()?;
    if hashes.len() > MAX_HASHES {
        return None;
    }
    hashes.iter().map(|hash| key(scope.clone(), hash)).collect()
}

fn scope(asked: &Asked) -> Result<Scope, StatusCode> {
    let mut team = String::new();
    // The same team may be named in either way; what one of them puts the other does not get.
    for pair in asked.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let Some((name @ ("teamId" | "slug"), value)) = pair.split_once('=') else { continue };
        if !value.is_empty() {
            team += &format!("{name}={value}&");
        }
    }
    let sound = team.len() <= MAX_TEAM_BYTES && team.bytes().all(|byte| byte.is_ascii_graphic());
    if !sound {
        return Err(StatusCode::BAD_REQUEST);
    }
    let token = asked.headers().get(http::header::AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
    Ok(Scope { team, client: blake3::derive_key(OWN_CONTEXT, token) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::listen::asked::{Access, Asked, sample};

    fn asked(text: &str) -> Result<Operation, StatusCode> {
        map(&Asked::new(sample(text.as_bytes()).unwrap(), &Access::private()).unwrap())
    }

    fn key_of(operation: Operation) -> Key {
        match operation {
            Operation::Get { key, .. } | Operation::Put { key, .. } => key,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_turbo_sends_is_understood() {
        let recorded = include_str!("samples/requests.txt");
        let operations: Vec<_> = recorded.split("\n\n").skip(1).map(|text| asked(text).unwrap()).collect();
        let [
            Operation::Status,
            Operation::Get { key, head: false },
            Operation::Put { key: put, about },
            Operation::Put { about: signed, .. },
            Operation::Events,
        ] = operations.as_slice()
        else {
            panic!("{operations:?}")
        };
        assert_eq!(key, put);
        assert_eq!(key.shared(), b"slug=acme&\n3f49ec978114ad8c");
        assert!(about.duration.is_some() && about.tag.is_none(), "{about:?}");
        assert_eq!(signed.tag.as_ref().unwrap().len(), 44);
    }

    #[test]
    fn teams_and_clients_have_keys_of_their_own() {
        let key = |query: &str, token: &str| {
            let text =
                format!("GET /turbo/v8/artifacts/abc{query} HTTP/1.1\nauthorization: Bearer {token}\n");
            key_of(asked(&text).unwrap())
        };
        let ours = key("?slug=acme", "t");
        assert_eq!(ours.shared(), key("?slug=acme", "u").shared());
        assert_ne!(ours.own(), key("?slug=acme", "u").own());
        for other in ["", "?slug=other", "?teamId=acme", "?slug=acme&teamId=1", "?slug=acme%20"] {
            assert_ne!(ours.shared(), key(other, "t").shared(), "{other}");
            assert_ne!(ours.own(), key(other, "t").own(), "{other}");
        }
        assert_eq!(ours, key("?other=1&slug=acme&teamId=", "t"));
        assert!(!String::from_utf8(ours.own()).unwrap().contains("Bearer"));
    }

    #[test]
    fn everything_else_is_refused() {
        let refused = |text: &str, status: u16| assert_eq!(asked(text).unwrap_err(), status, "{text}");
        refused("GET /turbo/v9/artifacts/abc HTTP/1.1\n", 404);
        refused("GET /turbo/v8/artifacts/a/b HTTP/1.1\n", 400);
        refused("GET /turbo/v8/artifacts/a.b HTTP/1.1\n", 400);
        refused("GET /turbo/v8/artifacts HTTP/1.1\n", 405);
        refused("DELETE /turbo/v8/artifacts/abc HTTP/1.1\n", 405);
        refused(&format!("GET /turbo/v8/artifacts/{} HTTP/1.1\n", "a".repeat(MAX_HASH_BYTES + 1)), 400);
        refused(&format!("GET /turbo/v8/artifacts/a?slug={} HTTP/1.1\n", "a".repeat(MAX_TEAM_BYTES)), 400);
        let long = "a".repeat(MAX_VALUE_BYTES + 1);
        refused(&format!("PUT /turbo/v8/artifacts/a HTTP/1.1\nx-artifact-tag: {long}\n"), 400);
        refused("PUT /turbo/v8/artifacts/a HTTP/1.1\nx-artifact-tag: a\nx-artifact-tag: b\n", 400);
    }

    #[test]
    fn what_came_with_an_artifact_goes_with_it() {
        let text = "PUT /turbo/v8/artifacts/a HTTP/1.1\nx-artifact-duration: 12\nx-artifact-tag: dGFn\n\
                    x-artifact-sha: 1f\nx-artifact-dirty-hash: 2e\nother: 1\n";
        let Operation::Put { about, .. } = asked(text).unwrap() else { panic!() };
        let again = About::decode(&about.encode()).unwrap();
        assert_eq!(About::of(&again.headers()), Ok(about.clone()));
        assert_eq!(about.headers().len(), 4);
        assert!(about.encode().len() as u64 <= MAX_ABOUT_BYTES);
        let most = Some("\u{1}".repeat(MAX_VALUE_BYTES));
        assert!(About::decode(&About { tag: most, ..About::default() }.encode()).is_some());
        let long = About { tag: Some("a".repeat(MAX_VALUE_BYTES + 1)), ..About::default() };
        for wrong in [&long.encode()[..], b"{\"x\":1}", b"", b"[]"] {
            assert_eq!(About::decode(wrong), None);
        }
        // A peer's value that is no header is left out.
        assert_eq!(About { tag: Some("a\nb".to_owned()), ..About::default() }.headers().len(), 0);
    }

    #[test]
    fn questions_about_many_are_bounded() {
        let Operation::Query(scope) = asked("POST /turbo/v8/artifacts HTTP/1.1\n").unwrap() else { panic!() };
        let keys = queried(&scope, b"{\"hashes\":[\"a1\",\"b2\"]}").unwrap();
        assert_eq!(keys.iter().map(Key::hash).collect::<Vec<_>>(), ["a1", "b2"]);
        let many = |count| serde_json::json!({ "hashes": vec!["a"; count] }).to_string();
        assert!(queried(&scope, many(MAX_HASHES).as_bytes()).is_some());
        assert!(queried(&scope, many(MAX_HASHES + 1).as_bytes()).is_none());
        assert!(queried(&scope, b"{\"hashes\":[\"../a\"]}").is_none() && queried(&scope, b"[]").is_none());
    }
}
