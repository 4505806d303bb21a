// SPDX-License-Identifier: MIT OR Apache-2.0
//! An entry of sccache: a ZIP archive of outputs, each packed alone with zstd and none of them with ZIP's own means.
//!
//! In which order the outputs lie in it is left to chance. Here they are in the order of their names, and what ZIP says
//! beside name, mode, size and checksum is always the same. An archive is read from its end (PKWARE's APPNOTE, 4.3.6 and
//! following) and not unpacked: nothing in it can grow.

use std::ops::Range;

/// Most outputs of an archive that is looked at.
pub const MAX_MEMBERS: usize = 64;
/// Largest directory that is read, in bytes.
pub const MAX_DIRECTORY_BYTES: u32 = 64 * 1024;
/// Bytes of the record at the end.
pub const END_BYTES: usize = 22;

const END: [u8; 4] = *b"PK\x05\x06";
const LISTED: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";
/// Bytes of what is said of an output in the directory, without its name.
const LISTED_BYTES: usize = 46;
/// Bytes of what stands before an output, without its name.
const LOCAL_BYTES: u64 = 30;
/// The lowest version that has to be understood, 2.0, as is written.
const NEEDED: u16 = 20;
/// Who is said to have written it: Unix, whose modes are given, and 2.0.
const MADE_BY: u16 = 3 << 8 | NEEDED;
/// The first day that ZIP knows, the first of January 1980, as its dates are written.
const FIRST_DAY: u16 = 0x21;

/// What an archive is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stretch {
    /// These bytes.
    Bytes(Vec<u8>),
    /// These bytes of the archive as it came.
    Of(Range<u64>),
}

/// Where the directory of an archive of so many bytes is, by the record at its end; nothing when it is none, or has more
/// of anything than sccache writes.
pub fn directory(size: u64, end: &[u8; END_BYTES]) -> Option<Range<u64>> {
    let (short, long) = (u16_at(end), u32_at(end));
    let members = short(10);
    let one_disk = short(4) == 0 && short(6) == 0 && short(8) == members && short(20) == 0;
    if end[..4] != END || !one_disk || usize::from(members) > MAX_MEMBERS || members == 0 {
        return None;
    }
    let (length, at) = (long(12), u64::from(long(16)));
    let to = at.checked_add(length.into())?;
    (length <= MAX_DIRECTORY_BYTES && to.checked_add(END_BYTES as u64) == Some(size)).then_some(at..to)
}

/// An output, as the directory lists it.
struct Member<'a> {
    name: &'a [u8],
    /// How it is packed by ZIP's own means.
    method: [u8; 2],
    /// CRC-32, size in the archive, size: as they stand there.
    sums: [u8; 12],
    /// Kind of file and mode.
    mode: [u8; 4],
    /// Where it begins, with what stands before it.
    at: u32,
    size: u32,
}

impl Member<'_> {
    /// Where its bytes are.
    fn bytes(&self) -> Range<u64> {
        let from = u64::from(self.at) + LOCAL_BYTES + self.name.len() as u64;
        from..from + u64::from(self.size)
    }

    /// What is said of it in both places.
    fn common(&self) -> Vec<u8> {
        let name = u16::try_from(self.name.len()).expect("its length was read from two bytes");
        let mut said = Vec::new();
        said.extend(NEEDED.to_le_bytes());
        said.extend([0; 2]);
        said.extend(self.method);
        said.extend(0_u16.to_le_bytes());
        said.extend(FIRST_DAY.to_le_bytes());
        said.extend(self.sums);
        said.extend(name.to_le_bytes());
        said.extend([0; 2]);
        said
    }

    fn local(&self) -> Vec<u8> {
        [&LOCAL, self.common().as_slice(), self.name].concat()
    }

    fn listed(&self, at: u32) -> Vec<u8> {
        let made_by = MADE_BY.to_le_bytes();
        // No comment, on the first disk, nothing said of its content.
        let more: [&[u8]; 4] = [&[0; 6], &self.mode, &at.to_le_bytes(), self.name];
        [&[&LISTED[..], &made_by, &self.common()].concat(), more.concat().as_slice()].concat()
    }
}

/// How an archive with this directory, which lies at these bytes, is put together anew; nothing when that is not known, or
/// it is so already.
pub fn arranged(directory: &[u8], at: &Range<u64>) -> Option<Vec<Stretch>> {
    let mut members = members(directory)?;
    // All of the archive belongs to one of them, and none to two.
    let mut end = 0;
    for member in &members {
        if u64::from(member.at) != end {
            return None;
        }
        end = member.bytes().end;
    }
    if end != at.start {
        return None;
    }
    members.sort_by(|one, other| one.name.cmp(other.name));
    if members.windows(2).any(|two| two[0].name == two[1].name) {
        return None;
    }
    let (mut stretches, mut list, mut place) = (Vec::new(), Vec::new(), 0_u32);
    for member in &members {
        let (local, bytes) = (member.local(), member.bytes());
        list.extend(member.listed(place));
        place = place.checked_add(u32::try_from(local.len() as u64 + bytes.end - bytes.start).ok()?)?;
        stretches.extend([Stretch::Bytes(local), Stretch::Of(bytes)]);
    }
    if list == directory {
        return None;
    }
    let count = u16::try_from(members.len()).ok()?.to_le_bytes();
    let size = u32::try_from(list.len()).ok()?.to_le_bytes();
    let end: [&[u8]; 7] = [&END, &[0; 4], &count, &count, &size, &place.to_le_bytes(), &[0; 2]];
    list.extend(end.concat());
    stretches.push(Stretch::Bytes(list));
    Some(stretches)
}

/// What a directory lists, in its order; nothing when something is said of one that sccache does not say.
fn members(mut directory: &[u8]) -> Option<Vec<Member<'_>>> {
    let mut members = Vec::new();
    while !directory.is_empty() {
        let (listed, rest) = directory.split_at_checked(LISTED_BYTES)?;
        let (short, long) = (u16_at(listed), u32_at(listed));
        let (name, rest) = rest.split_at_checked(short(28).into())?;
        // No encryption, no sizes behind the bytes (bit 11 says that the name is UTF-8); neither extra nor comment.
        let plain = short(8) & !0x0800 == 0 && short(30) == 0 && short(32) == 0 && short(34) == 0;
        // Sizes that need more room are elsewhere.
        let sizes = long(20) < u32::MAX && long(24) < u32::MAX && long(42) < u32::MAX;
        if listed[..4] != LISTED || !plain || !sizes || !name.is_ascii() || members.len() == MAX_MEMBERS {
            return None;
        }
        members.push(Member {
            name,
            method: listed[10..12].try_into().ok()?,
            sums: listed[16..28].try_into().ok()?,
            mode: listed[38..42].try_into().ok()?,
            at: long(42),
            size: long(20),
        });
        directory = rest;
    }
    Some(members)
}

fn u16_at(bytes: &[u8]) -> impl Fn(usize) -> u16 {
    |at| u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8]) -> impl Fn(usize) -> u32 {
    |at| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// All of an archive that is in memory, arranged; nothing when it stays as it is.
pub fn whole(archive: &[u8]) -> Option<Vec<u8>> {
    let directory = directory(archive.len() as u64, archive.last_chunk()?)?;
    let within = |range: &Range<u64>| {
        archive.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
    };
    let stretches = arranged(within(&directory)?, &directory)?;
    let mut all = Vec::new();
    for stretch in stretches {
        match stretch {
            Stretch::Bytes(bytes) => all.extend(bytes),
            Stretch::Of(range) => all.extend(within(&range)?),
        }
    }
    Some(all)
}

/// An archive as sccache writes it, of outputs with these names and bytes. For tests and fuzzing.
pub fn sample(outputs: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut archive, mut list) = (Vec::new(), Vec::new());
    for (name, bytes) in outputs {
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        let member = Member {
            name: name.as_bytes(),
            method: [0; 2],
            sums: [[1, 2, 3, 4], size, size].concat().try_into().expect("three times four"),
            mode: 0x81a0_0000_u32.to_le_bytes(),
            at: u32::try_from(archive.len()).unwrap_or(u32::MAX),
            size: u32::from_le_bytes(size),
        };
        let mut listed = member.listed(member.at);
        // Its library says that of itself.
        listed[4] = 46;
        list.extend(listed);
        archive.extend(member.local());
        archive.extend(*bytes);
    }
    let count = u16::try_from(outputs.len()).unwrap_or(u16::MAX).to_le_bytes();
    let [size, at] =
        [&list, &archive].map(|part| u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
    [&archive[..], &list, &END, &[0; 4], &count, &count, &size, &at, &[0; 2]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUTS: [(&str, &[u8]); 3] =
        [("unit.d", b"unit.rlib: unit.rs"), ("libunit.rlib", b"code"), ("stderr", b"")];

    #[test]
    fn the_order_in_which_outputs_were_put_there_is_not_told() {
        let (mut other, same) = (OUTPUTS, whole(&sample(&OUTPUTS)).unwrap());
        other.rotate_left(1);
        assert_eq!(whole(&sample(&other)).unwrap(), same);
        assert_eq!(whole(&same), None, "twice is once");
        assert_eq!(same.len(), sample(&OUTPUTS).len());
        other[0].1 = b"else";
        assert_ne!(whole(&sample(&other)).unwrap(), same);
    }

    #[test]
    fn what_is_not_understood_stays_as_it_is() {
        let good = sample(&OUTPUTS);
        for cut in 0..good.len() {
            assert_eq!(whole(&good[..cut]), None, "{cut}");
        }
        for (before, after) in [(1, 0), (0, 1)] {
            assert_eq!(whole(&[&vec![0; before], &good[..], &vec![0; after]].concat()), None);
        }
        // The same name twice; and outputs that share their bytes.
        assert_eq!(whole(&sample(&[OUTPUTS[0], OUTPUTS[0]])), None);
        let list = good.windows(4).position(|window| window == LISTED).unwrap();
        for (at, byte) in [(8, 1), (30, 1), (32, 1), (42, 1), (20, 1), (0, 0)] {
            let mut odd = good.clone();
            odd[list + at] = byte;
            assert_eq!(whole(&odd), None, "{at}");
        }
    }

    #[test]
    fn no_more_is_read_than_a_directory_may_have() {
        let names: Vec<_> = (0..=MAX_MEMBERS).map(|nth| format!("{nth:03}")).collect();
        let of = |count: usize| {
            let outputs: Vec<_> =
                names[..count].iter().rev().map(|name| (name.as_str(), &b"x"[..])).collect();
            whole(&sample(&outputs))
        };
        assert!(of(MAX_MEMBERS).is_some() && of(MAX_MEMBERS + 1).is_none() && of(0).is_none());
        let mut end = *sample(&OUTPUTS).last_chunk::<END_BYTES>().unwrap();
        let size = u64::from(MAX_DIRECTORY_BYTES);
        end[12..16].copy_from_slice(&MAX_DIRECTORY_BYTES.to_le_bytes());
        end[16..20].copy_from_slice(&[0; 4]);
        assert_eq!(directory(size + END_BYTES as u64, &end), Some(0..size));
        end[12..16].copy_from_slice(&(MAX_DIRECTORY_BYTES + 1).to_le_bytes());
        assert_eq!(directory(size + 1 + END_BYTES as u64, &end), None);
    }
}
