// SPDX-License-Identifier: MIT OR Apache-2.0
//! sccache with `SCCACHE_WEBDAV_ENDPOINT=http://127.0.0.1:7117/webdav`.
//!
//! It asks whether a folder is there before it puts something in it (PROPFIND, RFC 4918), and makes it when it is not
//! (MKCOL). There are no folders here, so all of them are there: that saves it six requests for each new value. A client
//! that is told that PROPFIND is not allowed takes the cache for one that can only be read.

use std::time::Duration;

use http::{Method, StatusCode};

use super::{Archive, Dialect, Operation, by_method, stored};
use crate::front::listen::asked::Asked;

/// How sccache speaks: it waits for a minute by itself.
pub const DIALECT: Dialect = Dialect {
    recipe: "sccache@1",
    tool: "sccache",
    deadline: Duration::from_millis(100),
    patience: Duration::from_secs(20),
    most: 4 << 30,
    gullible: false,
    changes: |_| false,
    archive: Archive::Sccache,
    map,
    stored,
};

/// The file by which it finds out at its start whether it can write.
const CHECK: &str = ".sccache_check";

/// What a request means.
///
/// # Errors
/// The status that refuses it.
pub fn map(asked: &Asked) -> Result<Operation, StatusCode> {
    let rest = asked.rest();
    let folder = rest.is_empty() || rest.ends_with('/');
    match asked.method().as_str() {
        "PROPFIND" if folder => Ok(Operation::Folder),
        // Older clients look at a value in this way before they get it.
        "PROPFIND" => Ok(Operation::Look { key: rest.to_owned() }),
        "MKCOL" => Err(StatusCode::CREATED),
        "OPTIONS" => Err(StatusCode::OK),
        _ if folder => Err(StatusCode::METHOD_NOT_ALLOWED),
        _ if rest.rsplit('/').next() == Some(CHECK) => match *asked.method() {
            // It is no value that anybody made, and not for others.
            Method::PUT => Ok(Operation::Drop),
            Method::DELETE => Err(StatusCode::NO_CONTENT),
            _ => Err(StatusCode::NOT_FOUND),
        },
        _ => by_method(asked, rest.to_owned()),
    }
}

/// What is said about a folder, or a value of so many bytes, at this path.
pub fn properties(path: &str, size: Option<u64>) -> String {
    let kind = match size {
        None => "<D:resourcetype><D:collection/></D:resourcetype>".to_owned(),
        Some(size) => format!("<D:resourcetype/><D:getcontentlength>{size}</D:getcontentlength>"),
    };
    // A path has no character that means something in XML. Nobody asks when it was changed, but some read no answer
    // without it.
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:multistatus xmlns:D=\"DAV:\"><D:response><D:href>{path}</D:href>\
         <D:propstat><D:prop>{kind}<D:getlastmodified>Thu, 01 Jan 1970 00:00:00 GMT</D:getlastmodified></D:prop>\
         <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::listen::asked::{Access, sample};

    fn of(line: &str) -> Result<Operation, StatusCode> {
        map(&Asked::new(sample(line.as_bytes()).unwrap(), &Access::private()).unwrap())
    }

    #[test]
    fn every_folder_is_there() {
        for path in ["/webdav", "/webdav/", "/webdav/a/", "/webdav/@acme/a/b/c/"] {
            assert_eq!(of(&format!("PROPFIND {path}")), Ok(Operation::Folder), "{path}");
        }
        assert_eq!(of("MKCOL /webdav/a/"), Err(StatusCode::CREATED));
        assert_eq!(of("GET /webdav/a/"), Err(StatusCode::METHOD_NOT_ALLOWED));
        assert!(properties("/webdav/a/", None).contains("<D:collection/>"));
    }

    #[test]
    fn values_are_kept_and_the_check_is_not() {
        let key = "a/b/c/abc0".to_owned();
        assert_eq!(of("GET /webdav/a/b/c/abc0"), Ok(Operation::Get { key: key.clone(), head: false }));
        assert_eq!(of("PUT /webdav/a/b/c/abc0"), Ok(Operation::Put { key: key.clone() }));
        assert_eq!(of("PROPFIND /webdav/a/b/c/abc0"), Ok(Operation::Look { key }));
        assert_eq!(of("GET /webdav/.sccache_check"), Err(StatusCode::NOT_FOUND));
        assert_eq!(of("PUT /webdav/pre/.sccache_check"), Ok(Operation::Drop));
        assert!(properties("/webdav/a", Some(7)).contains("<D:getcontentlength>7<"));
    }
}
