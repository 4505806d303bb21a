// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client of HTTP/1.1 with one kept connection: no more than PUT and GET of bodies with a known length.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

/// Longest head of an answer, in bytes.
const MAX_HEAD_BYTES: u64 = 16 * 1024;
/// Largest body of an answer, in bytes.
const MAX_BODY_BYTES: usize = 16 << 20;

/// A kept connection.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    host: SocketAddr,
}

impl Connection {
    pub(crate) fn open(host: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::with_capacity(64 * 1024, stream), host })
    }

    /// Stores a body.
    pub(crate) fn put(&mut self, path: &str, body: &[u8]) -> io::Result<()> {
        let head =
            format!("PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", self.host, body.len());
        // Head and body at once, or a small body waits for the acknowledgement of its head.
        let message = [head.as_bytes(), body].concat();
        self.stream.get_mut().write_all(&message)?;
        match self.answer()? {
            (201 | 204, _) => Ok(()),
            (status, _) => Err(io::Error::other(format!("PUT was answered with {status}"))),
        }
    }

    /// Brings a body.
    pub(crate) fn get(&mut self, path: &str) -> io::Result<Vec<u8>> {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.stream.get_mut().write_all(head.as_bytes())?;
        match self.answer()? {
            (200, body) => Ok(body),
            (status, _) => Err(io::Error::other(format!("GET was answered with {status}"))),
        }
    }

    fn answer(&mut self) -> io::Result<(u16, Vec<u8>)> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let before = head.len();
            (&mut self.stream).take(MAX_HEAD_BYTES).read_until(b'\n', &mut head)?;
            if head.len() == before || head.len() as u64 > MAX_HEAD_BYTES {
                return Err(invalid("the answer has no head"));
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        response.parse(&head).map_err(|error| invalid(&error.to_string()))?;
        let status = response.code.ok_or_else(|| invalid("the answer has no status"))?;
        let is_length = |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case("content-length");
        let length = response.headers.iter().find(is_length);
        let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok());
        let length: usize = match (status, length) {
            (204, _) => 0,
            (_, Some(length)) if length <= MAX_BODY_BYTES => length,
            _ => return Err(invalid("the answer has no length, or a large one")),
        };
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status, body))
    }
}
