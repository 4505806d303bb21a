// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a request asks for, before a Front has looked at it: which Front, which Project, and whether whoever sends it may.
//! Pure.

use std::net::Ipv4Addr;
use std::ops::Range;

use base64::Engine as _;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Version, header};
use potluck_protocol::action::Project;

/// Longest path that is looked at, in bytes.
pub const MAX_PATH_BYTES: usize = 1024;
/// Largest body that is taken, in bytes. What a store can hold is another matter.
pub const MAX_BODY_BYTES: u64 = 64 << 30;

/// A request without its body.
#[derive(Debug)]
pub struct Asked {
    parts: Parts,
    project: Project,
    front: Range<usize>,
    rest: Range<usize>,
    length: u64,
}

/// Why a request is not even looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unserved {
    /// The path is no path, or none that anybody here could have asked for.
    #[error("the path is not understood")]
    Path,
    /// The path is too long.
    #[error("the path is too long")]
    LongPath,
    /// The Project is none.
    #[error("the project after '@' is not acceptable")]
    Project,
    /// The name by which this machine was called is not one of its own: most likely a web page had it point here.
    #[error("this machine is not called by that name here; see [http] hosts in config.toml")]
    Host,
    /// A web page asks.
    #[error("web pages are not served")]
    Origin,
    /// The token is missing or wrong.
    #[error("a token is needed; see [http] token in config.toml")]
    Token,
    /// The body's length is not said, or is said twice.
    #[error("the length of the body has to be said")]
    Length,
    /// The body is too large.
    #[error("the body is too large")]
    Body,
    /// A tunnel, or something else that is not served at all.
    #[error("this is no proxy")]
    Proxy,
}

impl Unserved {
    /// The status that says so.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Path | Self::Project | Self::Proxy => StatusCode::BAD_REQUEST,
            Self::LongPath => StatusCode::URI_TOO_LONG,
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::Length => StatusCode::LENGTH_REQUIRED,
            Self::Body => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }
}

/// Who may ask where the request came in.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// BLAKE3 of the token, where one is needed.
    token: Option<blake3::Hash>,
    /// Further names of this machine.
    hosts: Vec<String>,
    /// Whether the request came by a socket that only the user can open.
    private: bool,
}

impl Access {
    /// Whoever knows `token`, or anybody on this machine if that is empty, and calls it by its own name or one of
    /// these.
    pub fn new(token: &str, hosts: &[String]) -> Self {
        let token = (!token.is_empty()).then(|| blake3::hash(token.as_bytes()));
        Self { token, hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(), private: false }
    }

    /// The user alone, by a socket that nobody else can open.
    pub fn private() -> Self {
        Self { private: true, ..Self::default() }
    }

    /// Whether these headers may be answered.
    fn allows(&self, headers: &HeaderMap, version: Version) -> Result<(), Unserved> {
        if self.private {
            return Ok(());
        }
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = hosts.next().map(|host| host.to_str().map_err(|_| Unserved::Host)).transpose()?;
        if hosts.next().is_some() || host.is_none() && version >= Version::HTTP_11 {
            return Err(Unserved::Host);
        }
        // A page that was loaded from here may ask, all others may not: browsers say which it is.
        if let Some(origin) = headers.get(header::ORIGIN) {
            let own = host.map(|host| format!("http://{host}"));
            if own.as_deref().map(str::as_bytes) != Some(origin.as_bytes()) {
                return Err(Unserved::Origin);
            }
        }
        if let Some(site) = headers.get("sec-fetch-site")
            && !["same-origin", "none"].iter().any(|allowed| site == allowed)
        {
            return Err(Unserved::Origin);
        }
        match &self.token {
            // Who knows the token is no page that was made to think that this is its own server.
            Some(token) => {
                match headers.get(header::AUTHORIZATION).and_then(|value| secret(value.to_str().ok()?)) {
                    // Comparing hashes of this type takes the same time wherever they differ.
                    Some(secret) if blake3::hash(&secret) == *token => Ok(()),
                    _ => Err(Unserved::Token),
                }
            }
            None if host.is_none_or(|host| self.is_own(host)) => Ok(()),
            None => Err(Unserved::Host),
        }
    }

    /// Whether a `Host` is a name of this machine that nobody else can give it.
    fn is_own(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((name, port)) if is_port(port) => name,
                _ => return false,
            },
            None => match host.split_once(':') {
                Some((name, port)) if is_number(port) => name,
                Some(_) => return false,
                None => host,
            },
        };
        let name = name.to_ascii_lowercase();
        name == "localhost"
            || name == "::1"
            || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
            || self.hosts.contains(&name)
    }
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(is_number)
}

fn is_number(text: &str) -> bool {
    (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What somebody shows to be let in: a bearer token, or the password of a user of any name.
fn secret(authorization: &str) -> Option<Vec<u8>> {
    let (scheme, rest) = authorization.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let both = base64::engine::general_purpose::STANDARD.decode(rest.trim()).ok()?;
    let colon = both.iter().position(|byte| *byte == b':')?;
    Some(both[colon + 1..].to_vec())
}

/// Whether a byte may stand in a path: what names and keys of tools are made of. Nothing is ever decoded, so that there
/// is one way to write each path, and none leads anywhere else.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~/+=@:".contains(&byte)
}

/// Where the parts of a path lie: the Front, the Project as it is written, and the rest.
fn route(path: &str) -> Result<(Range<usize>, Project, Range<usize>), Unserved> {
    if path.len() > MAX_PATH_BYTES {
        return Err(Unserved::LongPath);
    }
    // Some tools write '@' in this way, and none can know that it may stand for itself.
    let plain =
        path.bytes().all(is_plain) || path.replace("%40", "@").replace("%7E", "~").bytes().all(is_plain);
    let dotted = path.split('/').any(|part| part == "." || part == "..");
    if !path.starts_with('/') || !plain || dotted || path.contains("//") {
        return Err(Unserved::Path);
    }
    let end = |from: usize| path[from..].find('/').map_or(path.len(), |at| from + at);
    let front = 1..end(1);
    let mut rest = (front.end + 1).min(path.len())..path.len();
    let mut project = Project::default();
    let named = &path[rest.clone()];
    if let Some(named) = named.strip_prefix('@').or_else(|| named.strip_prefix("%40")) {
        let from = path.len() - named.len();
        let to = end(from);
        let name = path[from..to].replace("%7E", "~").replace('~', "/");
        project = Project::new(&name).map_err(|_| Unserved::Project)?;
        rest = (to + 1).min(path.len())..path.len();
    }
    if path[rest.clone()].contains('%') || path[front.clone()].contains('%') {
        return Err(Unserved::Path);
    }
    Ok((front, project, rest))
}

/// How long the body is. One that comes in parts of which nobody knows how many there will be is not taken: no tool
/// sends one, and a request that says its length in two ways is a trick.
fn length(headers: &HeaderMap) -> Result<u64, Unserved> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Unserved::Length);
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(0) };
    let text = length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let text = text.filter(|text| !text.is_empty() && lengths.next().is_none()).ok_or(Unserved::Length)?;
    let length = text.parse().map_err(|_| Unserved::Body)?;
    if length > MAX_BODY_BYTES { Err(Unserved::Body) } else { Ok(length) }
}

impl Asked {
    /// Takes a request that may be served.
    ///
    /// # Errors
    /// [`Unserved`].
    pub fn new(parts: Parts, access: &Access) -> Result<Self, Unserved> {
        if parts.uri.authority().is_some() || parts.method == Method::CONNECT {
            return Err(Unserved::Proxy);
        }
        access.allows(&parts.headers, parts.version)?;
        let length = length(&parts.headers)?;
        let (front, project, rest) = route(parts.uri.path())?;
        Ok(Self { parts, project, front, rest, length })
    }

    /// The first part of the path.
    pub fn front(&self) -> &str {
        &self.parts.uri.path()[self.front.clone()]
    }

    /// The Project.
    pub fn project(&self) -> &Project {
        &self.project
    }

    /// The path after Front and Project, without a slash at its beginning: parts that are neither empty nor `.` nor
    /// `..`, of ASCII letters, digits and `-._~+=@:`; a slash may stand at the end.
    pub fn rest(&self) -> &str {
        &self.parts.uri.path()[self.rest.clone()]
    }

    /// The whole path.
    pub fn path(&self) -> &str {
        self.parts.uri.path()
    }

    /// What follows a question mark, as it came.
    pub fn query(&self) -> Option<&str> {
        self.parts.uri.query()
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.parts.method
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// A header that is text; the first of them if there are several.
    pub fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.parts.headers.get(name)?.to_str().ok()
    }

    /// How many bytes the body has, at most [`MAX_BODY_BYTES`].
    pub fn length(&self) -> u64 {
        self.length
    }
}

/// A request as it would come over the wire, for tests and fuzzing; nothing when it makes no sense.
pub fn sample(text: &[u8]) -> Option<Parts> {
    let mut lines = std::str::from_utf8(text).ok()?.lines();
    let mut first = lines.next()?.split(' ');
    let mut request = http::Request::builder().method(first.next()?).uri(first.next()?);
    for line in lines.take_while(|line| !line.is_empty()).take(64) {
        let (name, value) = line.split_once(':')?;
        request = request.header(name, value.trim());
    }
    Some(request.body(()).ok()?.into_parts().0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str, access: &Access) -> Result<Asked, Unserved> {
        Asked::new(sample(text.as_bytes()).unwrap(), access)
    }

    fn get(path: &str) -> Result<Asked, Unserved> {
        asked(&format!("GET {path} HTTP/1.1\nHost: localhost:7117\n"), &Access::default())
    }

    #[test]
    fn a_path_names_front_project_and_rest() {
        let is = |path: &str, front: &str, project: &str, rest: &str| {
            let asked = get(path).unwrap();
            assert_eq!(
                (asked.front(), asked.project().as_str(), asked.rest()),
                (front, project, rest),
                "{path}"
            );
        };
        is("/", "", "default", "");
        is("/ccache", "ccache", "default", "");
        is("/ccache/ab/cd", "ccache", "default", "ab/cd");
        is("/ccache/@acme~web/ab/cd", "ccache", "acme/web", "ab/cd");
        is("/ccache/%40acme%7Eweb/ab/", "ccache", "acme/web", "ab/");
        is("/webdav/@x", "webdav", "x", "");
        is("/turbo/v8/artifacts/1?slug=a%20b", "turbo", "default", "v8/artifacts/1");
        assert_eq!(get("/turbo/v8/artifacts/1?slug=a%20b").unwrap().query(), Some("slug=a%20b"));
        is("/nix/nar/0a.nar.xz", "nix", "default", "nar/0a.nar.xz");
    }

    #[test]
    fn tricks_with_paths_are_refused() {
        for path in
            ["/ccache/../x", "/ccache/./x", "/ccache/%2e%2e/x", "/ccache//x", "//ccache", "/c%63ache/x"]
        {
            assert_eq!(get(path).unwrap_err(), Unserved::Path, "{path}");
        }
        for path in
            ["/ccache/a%00b", "/ccache/a%2fb", "/ccache/a;b", "/ccache/a%40b", "/ccache/a\\b", "/ccache/a|b"]
        {
            let refused = sample(format!("GET {path} HTTP/1.1\nHost: localhost\n").as_bytes())
                .is_none_or(|parts| Asked::new(parts, &Access::default()).is_err());
            assert!(refused, "{path}");
        }
        for path in ["/ccache/@/x", "/ccache/@..~x/y", "/ccache/@UP/x", "/ccache/@a~~b/x", "/ccache/@a~/x"] {
            assert_eq!(get(path).unwrap_err(), Unserved::Project, "{path}");
        }
        let long = format!("/ccache/{}", "a".repeat(MAX_PATH_BYTES));
        assert_eq!(get(&long).unwrap_err(), Unserved::LongPath);
        assert!(get(&long[..MAX_PATH_BYTES]).is_ok());
    }

    #[test]
    fn only_names_of_this_machine_are_heard() {
        let access = Access::new("", &["Builder.lan".to_owned()]);
        let with = |host: &str| asked(&format!("GET /ccache/a HTTP/1.1\nHost: {host}\n"), &access).map(drop);
        for host in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:7117",
            "127.8.8.8",
            "[::1]:7117",
            "[::1]",
            "builder.lan:1",
        ] {
            assert_eq!(with(host), Ok(()), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[::2]", "[::1"]
        {
            assert_eq!(with(host), Err(Unserved::Host), "{host}");
        }
        for host in ["localhost:", "localhost:x", "localhost:123456", "", "[::1]x"] {
            assert_eq!(with(host), Err(Unserved::Host), "{host}");
        }
        let none = asked("GET /ccache/a HTTP/1.1\n", &access);
        assert_eq!(none.unwrap_err(), Unserved::Host);
        let two = asked("GET /ccache/a HTTP/1.1\nHost: localhost\nHost: localhost\n", &access);
        assert_eq!(two.unwrap_err(), Unserved::Host);
        assert!(asked("GET /ccache/a HTTP/1.1\n", &Access::private()).is_ok());
    }

    #[test]
    fn web_pages_are_refused_but_our_own() {
        let with = |line: &str| {
            let text = format!("GET /ccache/a HTTP/1.1\nHost: localhost:7117\n{line}\n");
            asked(&text, &Access::default()).map(drop)
        };
        assert_eq!(with("Origin: http://localhost:7117"), Ok(()));
        assert_eq!(with("Sec-Fetch-Site: same-origin"), Ok(()));
        for line in ["Origin: http://localhost:3000", "Origin: null", "Origin: https://localhost:7117"] {
            assert_eq!(with(line), Err(Unserved::Origin), "{line}");
        }
        assert_eq!(with("Sec-Fetch-Site: cross-site"), Err(Unserved::Origin));
        assert_eq!(with("Sec-Fetch-Site: same-site"), Err(Unserved::Origin));
    }

    #[test]
    fn a_token_is_asked_for_where_there_is_one() {
        let access = Access::new("sesame", &[]);
        let with = |line: &str| {
            asked(&format!("GET /ccache/a HTTP/1.1\nHost: builder.lan\n{line}\n"), &access).map(drop)
        };
        // "anyone:sesame" and ":other".
        for line in ["Bearer sesame", "bearer  sesame", "Basic YW55b25lOnNlc2FtZQ=="] {
            assert_eq!(with(&format!("Authorization: {line}")), Ok(()), "{line}");
        }
        for line in ["Bearer sesam", "Basic OjpvdGhlcg==", "Basic !!", "Digest sesame", "sesame"] {
            assert_eq!(with(&format!("Authorization: {line}")), Err(Unserved::Token), "{line}");
        }
        assert_eq!(with("X: y"), Err(Unserved::Token));
    }

    #[test]
    fn a_body_says_its_length_once() {
        let with = |lines: &str| {
            let text = format!("PUT /ccache/a HTTP/1.1\nHost: localhost\n{lines}\n");
            asked(&text, &Access::default()).map(|asked| asked.length())
        };
        assert_eq!(with("X: y"), Ok(0));
        assert_eq!(with("Content-Length: 17"), Ok(17));
        for lines in ["Transfer-Encoding: chunked", "Content-Length: 1\nTransfer-Encoding: chunked"] {
            assert_eq!(with(lines), Err(Unserved::Length), "{lines}");
        }
        for lines in ["Content-Length: 1\nContent-Length: 1", "Content-Length: +1", "Content-Length: 1, 1"] {
            assert_eq!(with(lines), Err(Unserved::Length), "{lines}");
        }
        assert_eq!(with(&format!("Content-Length: {MAX_BODY_BYTES}")), Ok(MAX_BODY_BYTES));
        assert_eq!(with(&format!("Content-Length: {}", MAX_BODY_BYTES + 1)), Err(Unserved::Body));
        assert_eq!(with("Content-Length: 99999999999999999999999"), Err(Unserved::Body));
    }

    #[test]
    fn this_is_no_proxy() {
        let asked = asked("GET http://localhost/ccache/a HTTP/1.1\nHost: localhost\n", &Access::default());
        assert_eq!(asked.unwrap_err(), Unserved::Proxy);
    }
}
