// SPDX-License-Identifier: MIT OR Apache-2.0
//! An entry of ccache: a header, what was made (packed), and XXH3-128 of both.
//!
//! The header says when the entry was made and by which version of ccache. Neither says anything about what is in it, and
//! ccache shows them to people alone; here the time is 0 and the version empty. All integers are big-endian:
//!
//! ```text
//! magic cc ac, format 01, kind 00 or 01, packing 00 or 01, level, self-contained 01
//! time                       8 bytes
//! version and name space     each a length of one byte and so many bytes
//! size                       8 bytes: of header, what was made when unpacked, and checksum
//! ```

use twox_hash::xxhash3_128::Hasher;

/// What an entry begins with: the magic, and the version of the format.
const BEGIN: [u8; 3] = [0xcc, 0xac, 1];
/// Where the kind, the way of packing, and whether nothing belongs to it that lies elsewhere, are said; and their
/// largest values.
const CODES: [(usize, u8); 3] = [(3, 1), (4, 1), (6, 1)];
/// Where the time is, which takes 8 bytes.
const TIME: usize = 7;
/// Where the length of the version is.
const VERSION: usize = 15;
/// Bytes of the checksum at the end.
const CHECKSUM: usize = 16;
/// Longest header, in bytes.
pub const MAX_HEADER_BYTES: usize = VERSION + 2 * 256 + 8;

/// What the first bytes of something are.
enum Header {
    /// Too few to say.
    Short,
    /// No header of an entry.
    None,
    /// A header of so many bytes, and what is put in its place.
    Is(usize, Vec<u8>),
}

/// Reads a header.
fn header(bytes: &[u8]) -> Header {
    let begun = bytes.len().min(BEGIN.len());
    if bytes[..begun] != BEGIN[..begun] {
        return Header::None;
    }
    if CODES.iter().any(|(at, most)| bytes.get(*at).is_some_and(|code| code > most)) {
        return Header::None;
    }
    let Some(version) = bytes.get(VERSION).map(|length| usize::from(*length)) else { return Header::Short };
    let space_at = VERSION + 1 + version;
    let Some(space) = bytes.get(space_at).map(|length| usize::from(*length)) else { return Header::Short };
    let size_at = space_at + 1 + space;
    let Some(size) = bytes.get(size_at..size_at + 8) else { return Header::Short };
    let size = u64::from_be_bytes(size.try_into().expect("it has 8 bytes"));
    // Files beside it have not come along, and somebody else has not got them.
    let whole = bytes[6] == 1;
    let Some(size) = size.checked_sub(version as u64).filter(|_| whole) else { return Header::None };
    let mut header = bytes[..TIME].to_vec();
    header.extend([0; 8]);
    header.push(0);
    header.extend(&bytes[space_at..size_at]);
    header.extend(size.to_be_bytes());
    Header::Is(size_at + 8, header)
}

/// An entry on its way in, stretch by stretch. What is no entry passes as it is.
#[derive(Default)]
pub struct Rewriting {
    state: State,
}

#[derive(Default)]
enum State {
    /// The beginning of what may be an entry.
    #[default]
    First,
    Begun(Vec<u8>),
    /// An entry after its header.
    Entry(Box<Entry>),
    /// Something else.
    Other,
}

struct Entry {
    /// Over what came.
    came: Hasher,
    /// Over what goes on.
    goes: Hasher,
    /// The last bytes that came, at most as many as the checksum has: they may be it.
    last: Vec<u8>,
}

impl Rewriting {
    /// Takes the next bytes, and adds to `out` what goes on. At most [`MAX_HEADER_BYTES`] are held back.
    pub fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match &mut self.state {
            State::Other => out.extend_from_slice(bytes),
            State::Entry(entry) => entry.take(bytes, out),
            State::First | State::Begun(_) => {
                let mut begun = match std::mem::take(&mut self.state) {
                    State::Begun(begun) => begun,
                    _ => Vec::new(),
                };
                begun.extend_from_slice(bytes);
                self.state = match header(&begun) {
                    Header::Short => State::Begun(begun),
                    Header::None => {
                        out.append(&mut begun);
                        State::Other
                    }
                    Header::Is(length, header) => {
                        let mut entry = Entry { came: Hasher::new(), goes: Hasher::new(), last: Vec::new() };
                        entry.came.write(&begun[..length]);
                        entry.goes.write(&header);
                        out.extend(header);
                        entry.take(&begun[length..], out);
                        State::Entry(Box::new(entry))
                    }
                };
            }
        }
    }

    /// The end: adds what was held back.
    pub fn end(self, out: &mut Vec<u8>) {
        match self.state {
            State::First | State::Other => {}
            State::Begun(begun) => out.extend(begun),
            State::Entry(entry) => {
                // What was damaged on its way must not become sound.
                let sound = entry.came.finish_128().to_be_bytes()[..] == entry.last[..];
                let checksum = entry.goes.finish_128().to_be_bytes();
                out.extend(if sound { &checksum[..] } else { &entry.last[..] });
            }
        }
    }
}

impl Entry {
    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let ready = (self.last.len() + bytes.len()).saturating_sub(CHECKSUM);
        let of_last = ready.min(self.last.len());
        for sure in [&self.last[..of_last], &bytes[..ready - of_last]] {
            self.came.write(sure);
            self.goes.write(sure);
            out.extend_from_slice(sure);
        }
        self.last.drain(..of_last);
        self.last.extend_from_slice(&bytes[ready - of_last..]);
    }
}

/// All of something, as it goes on when it comes so many bytes at a time. For tests and fuzzing.
pub fn rewritten(bytes: &[u8], step: usize) -> Vec<u8> {
    let (mut rewriting, mut out) = (Rewriting::default(), Vec::new());
    bytes.chunks(step).for_each(|chunk| rewriting.take(chunk, &mut out));
    rewriting.end(&mut out);
    out
}

/// An entry that was made at this time by this version, of at most 255 bytes. For tests and fuzzing.
pub fn sample(time: u64, version: &str, made: &[u8]) -> Vec<u8> {
    let mut entry = [&BEGIN[..], &[0, 1, 1, 1], &time.to_be_bytes()].concat();
    entry.push(u8::try_from(version.len()).unwrap_or(u8::MAX));
    entry.extend(version.as_bytes());
    entry.extend(b"\x04team");
    // What was made has a thousand bytes when it is unpacked, let us say.
    entry.extend((entry.len() as u64 + 8 + 1000 + CHECKSUM as u64).to_be_bytes());
    entry.extend(made);
    let checksum = Hasher::oneshot(&entry).to_be_bytes();
    entry.extend(checksum);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_made_it_when_is_not_told() {
        let plain = sample(0, "", b"what was made");
        for (time, version) in [(1, "4.14.2"), (1_795_299_131, "4.7.5"), (u64::MAX, &"x".repeat(255))] {
            let entry = sample(time, version, b"what was made");
            for step in [1, 7, 16, 17, entry.len()] {
                assert_eq!(rewritten(&entry, step), plain, "{version} by {step}");
            }
        }
        assert_eq!(rewritten(&plain, 5), plain, "twice is once");
        assert_ne!(rewritten(&sample(1, "4", b"something else"), 9), plain);
    }

    #[test]
    fn what_is_damaged_stays_so_and_what_is_no_entry_stays_as_it_is() {
        let good = sample(7, "4.14.2", b"what was made");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x80;
            let out = rewritten(&bad, 11);
            let (body, checksum) = out.split_at(out.len() - CHECKSUM);
            assert_ne!(Hasher::oneshot(body).to_be_bytes(), checksum, "{at}");
            let cut = rewritten(&good[..at], 11);
            let sound = cut.split_last_chunk::<CHECKSUM>();
            assert!(
                sound.is_none_or(|(body, checksum)| Hasher::oneshot(body).to_be_bytes() != *checksum),
                "{at}"
            );
        }
        // Of another format, with files beside it, of no known kind.
        for (at, other) in [(0, 0), (2, 2), (3, 2), (4, 2), (6, 0)] {
            let mut entry = good.clone();
            entry[at] = other;
            assert_eq!(rewritten(&entry, 3), entry, "{at}");
        }
        for odd in [&b""[..], b"\xcc", b"PK\x03\x04", &[0xcc; 1000]] {
            assert_eq!(rewritten(odd, 3), odd);
        }
    }

    #[test]
    fn no_more_is_held_back_than_a_header_has() {
        let mut entry = sample(7, &"v".repeat(255), &[7; 10_000]);
        entry.truncate(9000);
        let (mut rewriting, mut out) = (Rewriting::default(), Vec::new());
        for (came, byte) in entry.iter().enumerate() {
            rewriting.take(&[*byte], &mut out);
            assert!(came < out.len() + MAX_HEADER_BYTES, "{came}");
        }
    }
}
