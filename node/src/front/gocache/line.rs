// SPDX-License-Identifier: MIT OR Apache-2.0
//! What go and its helper say to each other (`go doc cmd/go/internal/cacheprog`): one JSON object a line, and after a
//! put a line with the body as a JSON string in base64. The helper speaks first.
//!
//! Nothing here reads or writes more than it is handed.

use std::io::{self, BufRead};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use potluck_keys::time::Time;
use potluck_protocol::digest::Sha256;
use serde::{Deserialize, Serialize};

/// Longest line that is no body, in bytes. Those of go have less than 300.
pub const MAX_LINE_BYTES: usize = 16 * 1024;
/// Largest body in bytes.
pub const MAX_BODY_BYTES: u64 = 4 << 30;
/// Longest ActionID in bytes; those of go have 32.
pub const MAX_ACTION_BYTES: usize = 64;

/// What the helper says at first.
pub const GREETING: &[u8] = b"{\"ID\":0,\"KnownCommands\":[\"get\",\"put\",\"close\"]}\n";

/// What go asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Chosen by go; the answer names it.
    pub id: i64,
    /// What.
    pub command: Command,
}

/// See [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// What did this action give?
    Get {
        /// The action.
        action: Vec<u8>,
    },
    /// This action gave that.
    Put {
        /// The action.
        action: Vec<u8>,
        /// The SHA-256 of the body, as go says.
        output: Sha256,
        /// The size of the body in bytes. Its line follows unless it is empty.
        size: u64,
    },
    /// That was all.
    Close,
    /// Something that makes no sense, and why.
    Nonsense(&'static str),
}

#[derive(Deserialize)]
struct Spoken<'a> {
    #[serde(rename = "ID")]
    id: i64,
    #[serde(rename = "Command")]
    command: &'a str,
    #[serde(rename = "ActionID")]
    action: Option<String>,
    #[serde(rename = "OutputID")]
    output: Option<String>,
    #[serde(rename = "BodySize", default)]
    size: i64,
}

/// Reads a line that is no body; nothing when it is no request at all.
pub fn parse(line: &[u8]) -> Option<Request> {
    let Spoken { id, command, action, output, size } = serde_json::from_slice(line).ok()?;
    let action = || -> Result<Vec<u8>, &'static str> {
        let action = action.as_deref().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
        match action.len() {
            1..=MAX_ACTION_BYTES => Ok(action),
            _ => Err("the ActionID is missing, too long or no base64"),
        }
    };
    let output = || -> Result<Sha256, &'static str> {
        let raw = output.as_deref().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
        let raw: [u8; 32] = raw.try_into().map_err(|_| "the OutputID is no SHA-256")?;
        Ok(Sha256::from_bytes(raw))
    };
    let put = || -> Result<Command, &'static str> {
        let size = u64::try_from(size).map_err(|_| "the BodySize is negative")?;
        Ok(Command::Put { action: action()?, output: output()?, size })
    };
    let command = match command {
        "get" => action().map(|action| Command::Get { action }),
        "put" => put(),
        "close" => Ok(Command::Close),
        _ => Err("the command is not known"),
    };
    Some(Request { id, command: command.unwrap_or_else(Command::Nonsense) })
}

/// What the helper answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A get found nothing.
    Miss,
    /// A get found this.
    Hit {
        /// The SHA-256 of the file.
        output: Sha256,
        /// Its size in bytes.
        size: u64,
        /// When it was put, or came here.
        time: Time,
        /// Where it is; absolute.
        path: String,
    },
    /// A put was taken.
    Put {
        /// Where the body is; absolute.
        path: String,
    },
    /// A close was heard.
    Closed,
    /// The request makes no sense, or there is no disk to write to.
    Failed(String),
}

#[derive(Serialize, Default)]
struct Said<'a> {
    #[serde(rename = "ID")]
    id: i64,
    #[serde(rename = "Err", skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(rename = "Miss", skip_serializing_if = "std::ops::Not::not")]
    miss: bool,
    #[serde(rename = "OutputID", skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(rename = "Size", skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(rename = "Time", skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(rename = "DiskPath", skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
}

impl Answer {
    /// The answer to the request of this id, as a line.
    pub fn line(&self, id: i64) -> Vec<u8> {
        let plain = Said { id, ..Said::default() };
        let said = match self {
            Self::Miss => Said { miss: true, ..plain },
            Self::Hit { output, size, time, path } => Said {
                output: Some(STANDARD.encode(output.as_bytes())),
                size: Some(*size),
                time: Some(rfc3339(*time)),
                path: Some(path),
                ..plain
            },
            Self::Put { path } => Said { path: Some(path), ..plain },
            Self::Closed => plain,
            Self::Failed(why) => Said { error: Some(why), ..plain },
        };
        let mut line = serde_json::to_vec(&said).expect("numbers and text have a JSON form");
        line.push(b'\n');
        line
    }
}

/// To the millisecond: go compares it with when the user last wanted tests to be run anew.
fn rfc3339(time: Time) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(time.as_millis());
    humantime::format_rfc3339_millis(at).to_string()
}

/// Reads the next line that is not blank, without its end. One that is longer than [`MAX_LINE_BYTES`] is passed over,
/// and comes back empty.
///
/// # Errors
/// Those of `from`.
pub fn next_line(from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let (mut line, mut long) = (Vec::new(), false);
    loop {
        let some = from.fill_buf()?;
        if some.is_empty() {
            return Ok((!line.is_empty()).then_some(line));
        }
        let end = memchr::memchr(b'\n', some);
        let part = &some[..end.unwrap_or(some.len())];
        long |= line.len() + part.len() > MAX_LINE_BYTES;
        if !long {
            line.extend_from_slice(part);
        }
        let used = end.map_or(some.len(), |end| end + 1);
        from.consume(used);
        if end.is_none() {
            continue;
        }
        if long {
            return Ok(Some(Vec::new()));
        }
        if !line.trim_ascii().is_empty() {
            return Ok(Some(line));
        }
        line.clear();
    }
}

/// Why a body could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Nothing more comes.
    #[error("the input ends within a body")]
    CutOff,
    /// It cannot be read.
    #[error("cannot read a body: {0}")]
    Read(io::Error),
    /// It cannot be kept. The rest of it was read.
    #[error("cannot keep a body: {0}")]
    Keep(io::Error),
    /// It is not what was announced. The rest of it was read.
    #[error("the body is not what was announced: {0}")]
    Nonsense(&'static str),
}

/// Reads the line of a body of `size` bytes, and hands over stretches of it. The whole line is read, whatever is wrong
/// with it.
///
/// # Errors
/// [`BodyError`].
pub fn body(
    from: &mut impl BufRead,
    size: u64,
    mut keep: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), BodyError> {
    let mut unpacking = Unpacking::new(size);
    let mut failed = None;
    let mut out = Vec::new();
    loop {
        let some = from.fill_buf().map_err(BodyError::Read)?;
        if some.is_empty() {
            return Err(BodyError::CutOff);
        }
        let end = memchr::memchr(b'\n', some);
        let part = &some[..end.unwrap_or(some.len())];
        if failed.is_none() {
            out.clear();
            let fed = unpacking.feed(part, &mut out).map_err(BodyError::Nonsense);
            failed = fed.and_then(|()| keep(&out).map_err(BodyError::Keep)).err();
        }
        let used = end.map_or(some.len(), |end| end + 1);
        from.consume(used);
        // There may be blank lines before it.
        if end.is_some() && (unpacking.begun() || failed.is_some()) {
            break;
        }
    }
    match failed {
        Some(error) => Err(error),
        None => unpacking.finish().map_err(BodyError::Nonsense),
    }
}

/// A body on its way out of a JSON string in base64.
struct Unpacking {
    place: Place,
    /// Letters that are not a group of four yet.
    carry: Vec<u8>,
    left: u64,
}

#[derive(PartialEq, Eq)]
enum Place {
    Before,
    Within,
    /// After a group that was filled up.
    Padded,
    After,
}

/// How many letters are unpacked at a time.
const LETTERS: usize = 16 * 1024;

impl Unpacking {
    fn new(size: u64) -> Self {
        Self { place: Place::Before, carry: Vec::with_capacity(LETTERS), left: size }
    }

    fn begun(&self) -> bool {
        self.place != Place::Before
    }

    fn feed(&mut self, mut part: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
        if self.place == Place::Before {
            part = part.trim_ascii_start();
            let Some((first, rest)) = part.split_first() else { return Ok(()) };
            if *first != b'"' {
                return Err("it is no JSON string");
            }
            (self.place, part) = (Place::Within, rest);
        }
        if self.place != Place::After {
            let quote = memchr::memchr(b'"', part);
            let letters = &part[..quote.unwrap_or(part.len())];
            for some in letters.chunks(LETTERS) {
                self.carry.extend_from_slice(some);
                let whole = self.carry.len() - self.carry.len() % 4;
                self.unpack(whole, out)?;
            }
            let Some(quote) = quote else { return Ok(()) };
            if !self.carry.is_empty() {
                return Err("it is cut off");
            }
            (self.place, part) = (Place::After, &part[quote + 1..]);
        }
        if part.trim_ascii().is_empty() { Ok(()) } else { Err("something follows it") }
    }

    fn unpack(&mut self, whole: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
        if whole == 0 {
            return Ok(());
        }
        if self.place == Place::Padded {
            return Err("something follows its last group");
        }
        let letters = &self.carry[..whole];
        if letters.ends_with(b"=") {
            self.place = Place::Padded;
        }
        let before = out.len();
        STANDARD.decode_vec(letters, out).map_err(|_| "it is no base64")?;
        let len = (out.len() - before) as u64;
        self.left = self.left.checked_sub(len).ok_or("it is longer than announced")?;
        self.carry.drain(..whole);
        Ok(())
    }

    fn finish(&self) -> Result<(), &'static str> {
        match (&self.place, self.left) {
            (Place::After, 0) => Ok(()),
            (Place::After, _) => Err("it is shorter than announced"),
            _ => Err("it has no end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor, Write as _};

    use super::*;

    const EXCHANGE: &str = include_str!("samples/exchange.txt");

    /// Lines that go sent, and the answers that satisfied it, each after a mark.
    fn recorded(mark: char) -> Vec<&'static str> {
        EXCHANGE.lines().filter_map(|line| line.strip_prefix(mark)).collect()
    }

    #[test]
    fn what_go_sends_is_understood() {
        let mut from = recorded('>').join("\n");
        from.push('\n');
        let mut from = Cursor::new(from);
        let mut seen = Vec::new();
        while let Some(line) = next_line(&mut from).unwrap() {
            let request = parse(&line).unwrap();
            if let Command::Put { size: size @ 1.., output, .. } = &request.command {
                let mut bytes = Vec::new();
                body(&mut from, *size, |some| bytes.write_all(some)).unwrap();
                let hash: [u8; 32] = sha2::Digest::finalize(sha2::Digest::chain_update(
                    <sha2::Sha256 as sha2::Digest>::new(),
                    &bytes,
                ))
                .into();
                assert_eq!(output.as_bytes(), &hash);
            }
            seen.push(request);
        }
        let kinds: Vec<_> = seen
            .iter()
            .map(|request| match &request.command {
                Command::Get { .. } => "get",
                Command::Put { size: 0, .. } => "put nothing",
                Command::Put { .. } => "put",
                Command::Close => "close",
                Command::Nonsense(why) => why,
            })
            .collect();
        assert_eq!(kinds, ["put", "put nothing", "get", "close"]);
        assert!(seen.windows(2).all(|two| two[0].id < two[1].id));
    }

    #[test]
    fn answers_are_as_go_takes_them() {
        let output = Sha256::from_bytes([1; 32]);
        let path = "/p/d".to_owned();
        let time = Time::from_millis(1_795_000_000_123);
        let answers = [
            Answer::Miss.line(1),
            Answer::Put { path: path.clone() }.line(2),
            Answer::Hit { output, size: 3, time, path }.line(3),
            Answer::Closed.line(4),
            Answer::Failed("a \"b\"".to_owned()).line(5),
        ];
        let answers = answers.map(|line| String::from_utf8(line).unwrap());
        assert_eq!(answers.map(|line| line.trim_end().to_owned()).as_slice(), recorded('<'));
        assert!(serde_json::from_slice::<serde_json::Value>(GREETING).is_ok());
    }

    #[test]
    fn requests_that_make_no_sense_are_answered_or_passed_over() {
        let nonsense = |line: &str| matches!(parse(line.as_bytes()).unwrap().command, Command::Nonsense(_));
        assert!(nonsense(r#"{"ID":1,"Command":"fetch"}"#));
        assert!(nonsense(r#"{"ID":1,"Command":"get"}"#));
        assert!(nonsense(r#"{"ID":1,"Command":"get","ActionID":"!"}"#));
        let long = STANDARD.encode([0; MAX_ACTION_BYTES + 1]);
        assert!(nonsense(&format!(r#"{{"ID":1,"Command":"get","ActionID":"{long}"}}"#)));
        assert!(nonsense(r#"{"ID":1,"Command":"put","ActionID":"AAAA","OutputID":"AAAA"}"#));
        let id = STANDARD.encode([0; 32]);
        let put = |size: i64| {
            format!(r#"{{"ID":1,"Command":"put","ActionID":"{id}","OutputID":"{id}","BodySize":{size}}}"#)
        };
        assert!(nonsense(&put(-1)) && !nonsense(&put(1)));
        for line in ["", "{}", "[]", "{\"ID\":\"1\",\"Command\":\"get\"}", "\u{0}", "{\"ID\":1"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn lines_are_bounded() {
        let text = format!("\n \n{}\nshort\n{}", "x".repeat(MAX_LINE_BYTES + 1), "y".repeat(MAX_LINE_BYTES));
        let mut from = BufReader::with_capacity(100, text.as_bytes());
        assert_eq!(next_line(&mut from).unwrap(), Some(Vec::new()));
        assert_eq!(next_line(&mut from).unwrap(), Some(b"short".to_vec()));
        assert_eq!(next_line(&mut from).unwrap().unwrap().len(), MAX_LINE_BYTES);
        assert_eq!(next_line(&mut from).unwrap(), None);
    }

    fn unpack(text: &str, size: u64) -> (Result<(), BodyError>, Vec<u8>, String) {
        let mut bytes = Vec::new();
        let mut from = BufReader::with_capacity(7, text.as_bytes());
        let done = body(&mut from, size, |some| bytes.write_all(some));
        let rest = io::read_to_string(&mut from).unwrap();
        (done, bytes, rest)
    }

    #[test]
    fn bodies_come_out_whole_or_not_at_all() {
        for size in [1, 2, 3, 4, 1000] {
            let bytes: Vec<_> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let text = format!("\n\"{}\"\nrest", STANDARD.encode(&bytes));
            let (done, came, rest) = unpack(&text, size);
            assert!(done.is_ok() && came == bytes && rest == "rest", "{size}");
            assert!(matches!(unpack(&text, size + 1).0, Err(BodyError::Nonsense(_))));
            let (done, came, rest) = unpack(&text, size - 1);
            assert!(matches!(done, Err(BodyError::Nonsense(_))) && rest == "rest");
            assert!((came.len() as u64) < size, "no more than was announced");
        }
        for wrong in ["AAAA", "\"AA=A\"", "\"AAA\"", "\"AA==AAAA\"", "\"AAAA\"x", "\"AAAA", "\"A\\/AA\""] {
            let (done, _, rest) = unpack(&format!("{wrong}\nrest"), 3);
            assert!(matches!(done, Err(BodyError::Nonsense(_))), "{wrong}: {done:?}");
            assert_eq!(rest, "rest", "{wrong}");
        }
        assert!(matches!(unpack("\"AAAA\"", 3).0, Err(BodyError::CutOff)));
    }

    #[test]
    fn a_full_disk_does_not_lose_the_place() {
        let text = format!("\"{}\"\nrest", "A".repeat(400));
        let mut from = BufReader::with_capacity(64, text.as_bytes());
        let done = body(&mut from, 300, |_| Err(io::ErrorKind::StorageFull.into()));
        assert!(matches!(done, Err(BodyError::Keep(_))));
        assert_eq!(io::read_to_string(&mut from).unwrap(), "rest");
    }
}
