// SPDX-License-Identifier: MIT OR Apache-2.0
//! ccache 4.13 or newer with `remote_storage = crsh:HOME/ccache.sock`: the protocol by which it asks its "remote storage
//! helpers", here answered by the daemon itself ("Ccache remote storage helper specification", version 1).
//!
//! The daemon greets; then there is one request after the other and an answer to each, in the byte order of the machine.
//! Keys are bytes, and the same as in the paths of HTTP. The messages are here and pure; `serve` is the sockets.

#[cfg(feature = "net")]
pub mod serve;

/// Longest head of a request in bytes: what is asked, a key, flags and the length of a value.
pub const MAX_HEAD_BYTES: usize = 1 + 1 + 255 + 1 + 8;

/// What is said first: version 1, and that get, put and remove (0), info (1) and exists (2) are understood.
pub const GREETING: &[u8] = &[1, 3, 0, 1, 2];
/// Done; a value follows what was got.
pub const OK: u8 = 0;
/// Not done: there is no such value, or there is one that is not to be replaced.
pub const NOT_DONE: u8 = 1;
/// Failed, with a reason.
pub const FAILED: u8 = 2;

/// What ccache asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// The value of a key.
    Get(Vec<u8>),
    /// To keep a value of so many bytes, which follow.
    Put {
        /// Its key.
        key: Vec<u8>,
        /// Whether in place of one that is there.
        over: bool,
        /// How many bytes it has.
        length: u64,
    },
    /// To forget a value.
    Remove(Vec<u8>),
    /// To end. A daemon that serves others as well does not.
    Stop,
    /// Who answers.
    Info,
    /// Whether there is a value.
    Exists(Vec<u8>),
}

/// What the first bytes of a request are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// Not all of its head.
    Short,
    /// No request that is known, so that nobody can say where the next one begins.
    Unknown,
    /// This one, with a head of so many bytes.
    Is(Ask, usize),
}

/// Reads the head of a request.
pub fn head(bytes: &[u8]) -> Head {
    let Some((what, rest)) = bytes.split_first() else { return Head::Short };
    match what {
        3 => return Head::Is(Ask::Stop, 1),
        4 => return Head::Is(Ask::Info, 1),
        0..=2 | 5 => {}
        _ => return Head::Unknown,
    }
    let key = rest.split_first().and_then(|(length, rest)| rest.get(..usize::from(*length)));
    let Some(key) = key.map(<[u8]>::to_vec) else { return Head::Short };
    let end = 2 + key.len();
    let ask = match what {
        0 => Ask::Get(key),
        2 => Ask::Remove(key),
        5 => Ask::Exists(key),
        _ => {
            let Some((flags, length)) = bytes.get(end..end + 9).and_then(<[u8]>::split_first) else {
                return Head::Short;
            };
            let length = u64::from_ne_bytes(length.try_into().expect("it has 8 bytes"));
            return Head::Is(Ask::Put { key, over: flags & 1 == 1, length }, end + 9);
        }
    };
    Head::Is(ask, end)
}

/// A text with its length before it, cut where it is too long for that.
pub fn text(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.floor_char_boundary(255)];
    let length = u8::try_from(text.len()).expect("it was cut");
    [&[length], text].concat()
}

/// A key as it stands in the paths of HTTP.
pub fn key_of(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(flags: u8, length: u64) -> Vec<u8> {
        [&[1, 3][..], b"key", &[flags], &length.to_ne_bytes()].concat()
    }

    #[test]
    fn requests_are_told_apart() {
        let key = b"key".to_vec();
        for (what, ask) in
            [(0, Ask::Get(key.clone())), (2, Ask::Remove(key.clone())), (5, Ask::Exists(key.clone()))]
        {
            let request = [&[what, 3][..], b"key, and more"].concat();
            assert_eq!(head(&request), Head::Is(ask, 5));
            (0..5).for_each(|cut| assert_eq!(head(&request[..cut]), Head::Short));
        }
        assert_eq!((head(&[3]), head(&[4, 9])), (Head::Is(Ask::Stop, 1), Head::Is(Ask::Info, 1)));
        for (flags, over) in [(0, false), (1, true), (0xfe, false), (0xff, true)] {
            let request = put(flags, 1 << 40);
            assert_eq!(head(&request), Head::Is(Ask::Put { key: key.clone(), over, length: 1 << 40 }, 14));
            (0..14).for_each(|cut| assert_eq!(head(&request[..cut]), Head::Short));
        }
        assert!((6..=255).all(|what| head(&[what, 0, 0]) == Head::Unknown));
    }

    #[test]
    fn no_head_is_longer_than_it_may_be() {
        let long = [&[1, 255][..], &[7; 255], &[0; 9]].concat();
        assert_eq!(long.len(), MAX_HEAD_BYTES);
        assert!(matches!(head(&long), Head::Is(_, MAX_HEAD_BYTES)));
        assert_eq!(text(&"é".repeat(200)).len(), 255);
        assert_eq!(text("no"), b"\x02no");
    }
}
