// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much the store may take: bytes, or a share of the disk.

use std::path::Path;
use std::str::FromStr;

use bytesize::ByteSize;
use serde::Deserialize;

/// An amount of room as people write it: `20GiB`, `500 MB`, `10%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// A share of the disk, in thousandths of a percent.
    Share(u64),
}

/// The whole, as [`Amount::Share`] counts.
const WHOLE: u64 = 100_000;

/// Text that is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no amount of room: write bytes, such as \"20GiB\", or a share of the disk, such as \"10%\""
)]
pub struct NoAmount(String);

impl FromStr for Amount {
    type Err = NoAmount;

    fn from_str(text: &str) -> Result<Self, NoAmount> {
        let wrong = || NoAmount(text.to_owned());
        let Some(share) = text.trim().strip_suffix('%') else {
            // Fractions and signs beyond what a number of bytes can be saturate there; they are mistakes here.
            let bytes = text.trim().parse::<ByteSize>().map_err(|_| wrong())?.as_u64();
            return if bytes == u64::MAX { Err(wrong()) } else { Ok(Self::Bytes(bytes)) };
        };
        let (whole, rest) = share.trim().split_once('.').unwrap_or((share.trim(), ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(rest) || rest.len() > 3 {
            return Err(wrong());
        }
        let thousandths = format!("{whole}{rest:0<3}").parse::<u64>().map_err(|_| wrong())?;
        if thousandths <= WHOLE { Ok(Self::Share(thousandths)) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for Amount {
    type Error = NoAmount;

    fn try_from(text: String) -> Result<Self, NoAmount> {
        text.parse()
    }
}

impl Amount {
    /// The same in bytes, on a disk of so many.
    pub fn of(self, disk: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Share(share) => {
                let bytes = u128::from(disk) * u128::from(share) / u128::from(WHOLE);
                u64::try_from(bytes).expect("a share is no more than the whole")
            }
        }
    }
}

/// A disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Its bytes.
    pub total: u64,
    /// Those that this user may still write.
    pub free: u64,
}

/// The disk that a path is on.
///
/// # Errors
/// When the system does not say.
pub fn disk(path: &Path) -> std::io::Result<Disk> {
    let found = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Disk { total: bytes(found.f_blocks), free: bytes(found.f_bavail) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Amount>().ok();
        assert_eq!(read("20GiB"), Some(Amount::Bytes(20 << 30)));
        assert_eq!(read("1.5 MB"), Some(Amount::Bytes(1_500_000)));
        assert_eq!(read("4096"), Some(Amount::Bytes(4096)));
        assert_eq!(read("0"), Some(Amount::Bytes(0)));
        assert_eq!(read("10%"), Some(Amount::Share(10_000)));
        assert_eq!(read(" 2.5 % "), Some(Amount::Share(2_500)));
        for wrong in ["", "%", "-1%", "101%", "1.2345%", "a%", "1 mile", "-5GiB", "999999999999TiB", "1.%2"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(
            "x".parse::<Amount>().unwrap_err().to_string().split(':').next(),
            Some("\"x\" is no amount of room")
        );
    }

    #[test]
    fn a_share_is_one_of_the_disk() {
        assert_eq!(Amount::Share(10_000).of(1000), 100);
        assert_eq!(Amount::Share(100_000).of(u64::MAX), u64::MAX);
        assert_eq!(Amount::Bytes(5).of(3), 5);
    }

    #[test]
    fn a_disk_has_room() {
        let disk = disk(&std::env::temp_dir()).unwrap();
        assert!(disk.total > 0 && disk.free <= disk.total);
        assert!(super::disk(Path::new("absent/folder")).is_err());
    }
}
