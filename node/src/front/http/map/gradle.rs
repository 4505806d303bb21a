// SPDX-License-Identifier: MIT OR Apache-2.0
//! Gradle with `url = 'http://127.0.0.1:7117/gradle/'`.
//!
//! It gives up a cache for the rest of a build after one answer that it takes for a failure, so that a value which cannot
//! be kept here is called too large: that it takes for an answer.

use std::time::Duration;

use http::StatusCode;

use super::{Archive, Dialect, Operation, Stored, by_method};
use crate::front::listen::asked::Asked;

/// How Gradle speaks.
pub const DIALECT: Dialect = Dialect {
    recipe: "gradle@1",
    tool: "gradle",
    deadline: Duration::from_millis(100),
    patience: Duration::from_secs(20),
    most: 16 << 30,
    gullible: false,
    changes: |_| false,
    archive: Archive::Opaque,
    map,
    stored,
};

fn stored(outcome: Stored) -> StatusCode {
    match outcome {
        Stored::Done => StatusCode::CREATED,
        Stored::TooLarge | Stored::NotKept => StatusCode::PAYLOAD_TOO_LARGE,
        Stored::Broken => StatusCode::BAD_REQUEST,
    }
}

/// What a request means.
///
/// # Errors
/// The status that refuses it.
pub fn map(asked: &Asked) -> Result<Operation, StatusCode> {
    let key = asked.rest();
    if key.is_empty() || key.contains('/') {
        return Err(StatusCode::NOT_FOUND);
    }
    by_method(asked, key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::listen::asked::{Access, sample};

    #[test]
    fn a_key_is_one_part_of_the_path() {
        let of = |line: &str| map(&Asked::new(sample(line.as_bytes()).unwrap(), &Access::private()).unwrap());
        let key = "0123456789abcdef0123456789abcdef".to_owned();
        let get = Operation::Get { key: key.clone(), head: false };
        assert_eq!(of(&format!("GET /gradle/{key}")), Ok(get.clone()));
        assert_eq!(of(&format!("GET /gradle/@acme~web/{key}")), Ok(get));
        assert_eq!(of(&format!("GET /gradle/a/{key}")), Err(StatusCode::NOT_FOUND));
        assert_eq!(of(&format!("POST /gradle/{key}")), Err(StatusCode::METHOD_NOT_ALLOWED));
        assert_eq!(stored(Stored::NotKept), StatusCode::PAYLOAD_TOO_LARGE);
    }
}
