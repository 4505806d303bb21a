// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nx with `NX_SELF_HOSTED_REMOTE_CACHE_SERVER=http://127.0.0.1:7117/nx`.
//!
//! It has no guard of its own: it takes whatever comes for the output of a task, and fails the whole run when it is
//! answered by anything but what it expects. So it is answered 200 or 404 when it gets, and 200 when it puts, whatever
//! came of it; and what it gets is read to the end before it is begun. What it does when the daemon ends is up to `guard`.

use std::time::Duration;

use http::{Method, StatusCode};

use super::{Archive, Dialect, Operation};
use crate::front::listen::asked::Asked;

/// How Nx speaks.
pub const DIALECT: Dialect = Dialect {
    recipe: "nx@1",
    tool: "nx",
    deadline: Duration::from_millis(100),
    patience: Duration::from_secs(20),
    most: 16 << 30,
    gullible: true,
    changes: |_| false,
    archive: Archive::Opaque,
    map,
    stored: |_| StatusCode::OK,
};

/// What a request means.
///
/// # Errors
/// The status that refuses it, which is never one that fails a run for what Nx sends.
pub fn map(asked: &Asked) -> Result<Operation, StatusCode> {
    let key = asked.rest().strip_prefix("v1/cache/").filter(|key| !key.is_empty() && !key.contains('/'));
    let key = key.ok_or(StatusCode::NOT_FOUND)?.to_owned();
    match *asked.method() {
        Method::GET => Ok(Operation::Get { key, head: false }),
        Method::HEAD => Ok(Operation::Get { key, head: true }),
        Method::PUT => Ok(Operation::Put { key }),
        _ => Err(StatusCode::NOT_FOUND),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stored;
    use super::*;
    use crate::front::listen::asked::{Access, sample};

    #[test]
    fn nothing_that_it_sends_fails_a_run() {
        let of = |line: &str| map(&Asked::new(sample(line.as_bytes()).unwrap(), &Access::private()).unwrap());
        let key = "12345678901234567890".to_owned();
        assert_eq!(of(&format!("PUT /nx/v1/cache/{key}")), Ok(Operation::Put { key: key.clone() }));
        assert_eq!(of(&format!("GET /nx/v1/cache/{key}")), Ok(Operation::Get { key, head: false }));
        for line in ["GET /nx/", "GET /nx/v1/cache/", "POST /nx/v1/cache/1", "GET /nx/v1/cache/1/2"] {
            assert_eq!(of(line), Err(StatusCode::NOT_FOUND), "{line}");
        }
        for outcome in [Stored::Done, Stored::TooLarge, Stored::NotKept, Stored::Broken] {
            assert_eq!((DIALECT.stored)(outcome), StatusCode::OK);
        }
    }
}
