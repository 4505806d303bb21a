// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a program says: passed on line by line while it runs, and kept.

use std::collections::HashMap;
use std::io::{self, Write};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Most bytes of each of stdout and stderr that are kept; a unit that says more is not published.
pub(super) const MAX_SAID: usize = 1 << 20;
/// How rustc begins to say that a linker has failed.
const LINKING: &[u8] = b"linking with `";

/// Passes on whole lines, as `change` makes them, and keeps them.
pub(super) async fn pass_on(
    from: Option<impl AsyncRead + Unpin>,
    mut to: impl Write,
    change: impl Fn(&[u8]) -> Vec<u8>,
) -> Option<Vec<u8>> {
    let mut from = from.expect("it was piped");
    let (mut kept, mut buffer, mut line) = (Some(Vec::new()), vec![0; 64 * 1024], Vec::new());
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return None,
        };
        line.extend_from_slice(&buffer[..read]);
        // What has no end yet waits for it, unless it has become too much to hold.
        let whole = memchr::memrchr(b'\n', &line).map_or(0, |at| at + 1);
        let whole = if read == 0 || line.len() > MAX_SAID { line.len() } else { whole };
        let said = change(&line[..whole]);
        line.drain(..whole);
        // Nobody listens any more: the compiler is to end all the same, as it decides itself.
        let _ = to.write_all(&said).and_then(|()| to.flush());
        kept = kept.filter(|kept: &Vec<u8>| kept.len() + said.len() <= MAX_SAID);
        if let Some(kept) = &mut kept {
            kept.extend_from_slice(&said);
        }
        if read == 0 {
            return kept;
        }
    }
}

/// What a compiler says whose linker is watched: it waits from where it tells that the linker has failed, for then both
/// may run again. More than can be kept does not wait.
#[derive(Debug, Default)]
pub(super) struct Linking {
    /// What waits, once something does.
    waits: Option<Vec<u8>>,
}

impl Linking {
    /// Takes whole lines; gives those that are to be passed on.
    fn take(&mut self, lines: &[u8]) -> Vec<u8> {
        if let Some(waits) = &mut self.waits {
            waits.extend_from_slice(lines);
            let too_much = waits.len() > MAX_SAID;
            return if too_much { self.waits.take().unwrap_or_default() } else { Vec::new() };
        }
        let Some(at) = memchr::memmem::find(lines, LINKING) else { return lines.to_vec() };
        let at = memchr::memrchr(b'\n', &lines[..at]).map_or(0, |end| end + 1);
        self.waits = Some(lines[at..].to_vec());
        lines[..at].to_vec()
    }

    /// What waits, if the linker failed.
    pub(super) fn waits(self) -> Option<Vec<u8>> {
        self.waits
    }
}

/// Passes on what does not wait.
pub(super) struct Until<'a, W> {
    /// Where it goes.
    pub(super) to: W,
    /// What waits.
    pub(super) linking: &'a mut Linking,
}

impl<W: Write> Write for Until<'_, W> {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.to.write_all(&self.linking.take(lines))?;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Lines that have been passed on by an earlier run, each as often as it was.
#[derive(Debug)]
pub(super) struct Known(HashMap<Vec<u8>, usize>);

impl Known {
    /// The lines of what was passed on.
    pub(super) fn of(said: &[u8]) -> Self {
        let mut lines = HashMap::new();
        for line in said.split_inclusive(|byte| *byte == b'\n') {
            *lines.entry(line.to_vec()).or_default() += 1;
        }
        Self(lines)
    }

    /// The lines that are new.
    fn new_in(&mut self, lines: &[u8]) -> Vec<u8> {
        let lines = lines.split_inclusive(|byte| *byte == b'\n');
        let new = lines.filter(|line| match self.0.get_mut(*line).filter(|often| **often > 0) {
            Some(often) => {
                *often -= 1;
                false
            }
            None => true,
        });
        new.flatten().copied().collect()
    }
}

/// Passes on what was not passed on before.
pub(super) struct Without<W> {
    /// Where it goes.
    pub(super) to: W,
    /// What went there before.
    pub(super) known: Known,
}

impl<W: Write> Write for Without<W> {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.to.write_all(&self.known.new_in(lines))?;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failed_linker_says_waits_and_no_more_than_can_be_kept() {
        let mut linking = Linking::default();
        assert_eq!(linking.take(b"warning\nerror: linking with `cc` failed\n"), b"warning\n");
        assert!(linking.take(b"error: aborting\n").is_empty());
        assert_eq!(linking.waits().unwrap(), b"error: linking with `cc` failed\nerror: aborting\n");
        let mut linking = Linking::default();
        assert!(linking.take(LINKING).is_empty());
        assert_eq!(linking.take(&vec![b'x'; MAX_SAID]).len(), LINKING.len() + MAX_SAID);
        assert!(linking.waits().is_none());
        assert!(Linking::default().waits().is_none());
    }

    #[test]
    fn what_was_said_before_is_not_said_again_more_often_than_it_was() {
        let mut known = Known::of(b"a\nb\na\n");
        assert_eq!(known.new_in(b"a\nc\n"), b"c\n");
        assert_eq!(known.new_in(b"a\na\nb\nend"), b"a\nend");
    }
}
