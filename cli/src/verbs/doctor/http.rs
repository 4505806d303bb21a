// SPDX-License-Identifier: MIT OR Apache-2.0
//! As much of HTTP as it takes to ask this node what a tool would ask it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// How long connecting, and each step of an answer, may take.
const WITHIN: Duration = Duration::from_secs(20);
/// Largest head of an answer in bytes.
const MAX_HEAD_BYTES: u64 = 16 * 1024;
/// Largest body of an answer in bytes; what is asked for is far smaller.
const MAX_BODY_BYTES: u64 = 64 * 1024;

/// Where a URL leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Name or address, and port.
    pub(super) host: String,
    /// The path, without a slash at its end.
    pub(super) path: String,
}

impl Place {
    /// What a tool takes for its cache; nothing when it is no `http` URL.
    pub(super) fn of(url: &str) -> Option<Self> {
        let (host, path) = url.strip_prefix("http://")?.split_once('/')?;
        // Whoever is named before an '@' is not needed here.
        let host = host.rsplit('@').next()?;
        let named = host.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
        let host = if named { host.to_owned() } else { format!("{host}:80") };
        Some(Self { host, path: format!("/{}", path.trim_end_matches('/')) })
    }

    /// The addresses that its name has.
    fn addresses(&self) -> Vec<std::net::SocketAddr> {
        self.host.to_socket_addrs().map(Iterator::collect).unwrap_or_default()
    }

    /// Whether it is where somebody listens.
    pub(super) fn is_at(&self, listening: &str) -> bool {
        let Ok(listening) = listening.parse::<std::net::SocketAddr>() else { return false };
        let same = |address: &std::net::SocketAddr| {
            let anywhere = listening.ip().is_unspecified();
            address.port() == listening.port() && (anywhere || address.ip() == listening.ip())
        };
        self.addresses().iter().any(same)
    }

    /// The Front that its path names.
    pub(super) fn front(&self) -> &str {
        self.path[1..].split('/').next().unwrap_or_default()
    }

    /// The same Front and what follows, for another Project.
    pub(super) fn in_project(&self, project: &str) -> Self {
        let mut parts: Vec<_> = self.path[1..].split('/').collect();
        if parts.get(1).is_some_and(|part| part.starts_with('@') || part.starts_with("%40")) {
            parts.remove(1);
        }
        let named = format!("@{project}");
        parts.insert(1, &named);
        Self { host: self.host.clone(), path: format!("/{}", parts.join("/")) }
    }

    /// Asks for something below the path; gives the status and the body.
    pub(super) fn ask(&self, method: &str, path: &str, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in self.addresses() {
            match TcpStream::connect_timeout(&address, WITHIN) {
                Ok(stream) => return self.talk(stream, (method, path), body),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn talk(
        &self,
        mut stream: TcpStream,
        (method, path): (&str, &str),
        body: &[u8],
    ) -> io::Result<(u16, Vec<u8>)> {
        stream.set_read_timeout(Some(WITHIN))?;
        stream.set_write_timeout(Some(WITHIN))?;
        let (host, base, length) = (&self.host, &self.path, body.len());
        let head = format!(
            "{method} {base}/{path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\
             Authorization: Bearer potluck-doctor\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), body].concat())?;
        let odd = || io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP");
        let mut answer = BufReader::new(stream.take(MAX_HEAD_BYTES + MAX_BODY_BYTES));
        let (mut lines, mut size) = (Vec::new(), 0_u64);
        loop {
            let mut line = String::new();
            size += answer.read_line(&mut line)? as u64;
            match line.trim_end() {
                _ if size > MAX_HEAD_BYTES || line.is_empty() => return Err(odd()),
                "" => break,
                line => lines.push(line.to_ascii_lowercase()),
            }
        }
        let status = lines.first().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or_else(odd)?;
        let length = lines.iter().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = Vec::new();
        if method != "HEAD" {
            answer.take(length.unwrap_or(0).min(MAX_BODY_BYTES)).read_to_end(&mut body)?;
        }
        Ok((status, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lead_somewhere() {
        let of = |url: &str| Place::of(url).map(|place| (place.host, place.path));
        let is = |host: &str, path: &str| Some((host.to_owned(), path.to_owned()));
        assert_eq!(of("http://127.0.0.1:7117/gradle/"), is("127.0.0.1:7117", "/gradle"));
        assert_eq!(of("http://me:secret@localhost/nx"), is("localhost:80", "/nx"));
        assert_eq!(of("http://[::1]:7/ccache/@a~b"), is("[::1]:7", "/ccache/@a~b"));
        for none in ["", "https://host/x", "redis://host/x", "grpc://127.0.0.1:7117"] {
            assert_eq!(of(none), None, "{none}");
        }
        let place = Place::of("http://127.0.0.1:7117/ccache/@a~b").unwrap();
        assert!(place.is_at("127.0.0.1:7117") && place.is_at("0.0.0.0:7117"));
        assert!(!place.is_at("127.0.0.1:7118") && !place.is_at("127.0.0.2:7117") && !place.is_at(""));
        assert_eq!((place.front(), place.in_project("x").path.as_str()), ("ccache", "/ccache/@x"));
        let moon = Place::of("http://127.0.0.1:7117/bazel/moon").unwrap();
        assert_eq!(moon.in_project("x").path, "/bazel/@x/moon");
    }
}
