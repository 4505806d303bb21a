// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bazel with `--remote_cache=http://127.0.0.1:7117/bazel`, and moon with its HTTP form: results below `ac/`, by the name of
//! their action, and Blobs below `cas/`, by their SHA-256, each perhaps below the name of an instance.
//!
//! Bodies below `ac/` need not be results: ccache keeps its own there when told to lay its keys out for a server of Bazel's.

use std::time::Duration;

use http::{Method, StatusCode};
use potluck_protocol::digest::Sha256;

use super::{Archive, Dialect, Operation, Stored, by_method};
use crate::front::listen::asked::Asked;

/// How they speak: Bazel likes 200 best.
pub const DIALECT: Dialect = Dialect {
    recipe: "bazel-ac@1",
    tool: "bazel",
    deadline: Duration::from_millis(100),
    patience: Duration::from_secs(20),
    most: super::result::MAX_RESULT_BYTES,
    gullible: false,
    changes: |_| false,
    archive: Archive::Opaque,
    map: |asked| match ask(asked)? {
        Ask::Result(operation) => Ok(operation),
        Ask::Blob { .. } | Ask::Alive => Err(StatusCode::NOT_FOUND),
    },
    stored,
};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Something about a result.
    Result(Operation),
    /// Something about a Blob.
    Blob {
        /// Its name.
        name: Sha256,
        /// What about it.
        what: About,
    },
    /// Whether anybody is here.
    Alive,
}

/// What may be asked about a Blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// Give it.
    Get,
    /// Say that it is here.
    Head,
    /// Take it.
    Put,
}

fn stored(outcome: Stored) -> StatusCode {
    match outcome {
        Stored::Done => StatusCode::OK,
        other => super::stored(other),
    }
}

/// What a request means.
///
/// # Errors
/// The status that refuses it.
pub fn ask(asked: &Asked) -> Result<Ask, StatusCode> {
    let (above, name) = asked.rest().rsplit_once('/').unwrap_or(("", asked.rest()));
    if name == "status" && *asked.method() == Method::GET {
        return Ok(Ask::Alive);
    }
    let (instance, kind) = above.rsplit_once('/').unwrap_or(("", above));
    match kind {
        "cas" => {
            let name = name.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
            let what = match *asked.method() {
                Method::GET => About::Get,
                Method::HEAD => About::Head,
                Method::PUT => About::Put,
                _ => return Err(StatusCode::METHOD_NOT_ALLOWED),
            };
            Ok(Ask::Blob { name, what })
        }
        "ac" if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            let key = if instance.is_empty() { name.to_owned() } else { format!("{instance}/{name}") };
            by_method(asked, key).map(Ask::Result)
        }
        "ac" => Err(StatusCode::BAD_REQUEST),
        _ => Err(StatusCode::NOT_FOUND),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::listen::asked::{Access, sample};

    fn of(line: &str) -> Result<Ask, StatusCode> {
        ask(&Asked::new(sample(line.as_bytes()).unwrap(), &Access::private()).unwrap())
    }

    #[test]
    fn results_and_blobs_are_told_apart() {
        let (hash, name) = ("5a".repeat(32), Sha256::from_bytes([0x5a; 32]));
        let blob = |what| Ok(Ask::Blob { name, what });
        assert_eq!(of(&format!("GET /bazel/cas/{hash}")), blob(About::Get));
        assert_eq!(of(&format!("HEAD /bazel/cas/{hash}")), blob(About::Head));
        assert_eq!(of(&format!("PUT /bazel/@acme/main/cas/{hash}")), blob(About::Put));
        let get = |key: &str| Ok(Ask::Result(Operation::Get { key: key.to_owned(), head: false }));
        assert_eq!(of(&format!("GET /bazel/ac/{hash}")), get(&hash));
        assert_eq!(of(&format!("GET /bazel/main/sub/ac/{hash}")), get(&format!("main/sub/{hash}")));
        assert_eq!(of("GET /bazel/status"), Ok(Ask::Alive));
    }

    #[test]
    fn what_is_neither_is_refused() {
        let hash = "5a".repeat(32);
        assert_eq!(of(&format!("GET /bazel/cas/{}", &hash[2..])), Err(StatusCode::BAD_REQUEST));
        assert_eq!(of(&format!("GET /bazel/cas/{}", hash.to_uppercase())), Err(StatusCode::BAD_REQUEST));
        assert_eq!(of("GET /bazel/ac/x"), Err(StatusCode::BAD_REQUEST));
        assert_eq!(of(&format!("GET /bazel/{hash}")), Err(StatusCode::NOT_FOUND));
        assert_eq!(of(&format!("DELETE /bazel/cas/{hash}")), Err(StatusCode::METHOD_NOT_ALLOWED));
        assert_eq!(of("GET /bazel"), Err(StatusCode::NOT_FOUND));
    }
}
