// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much the store may take: bytes, or a share of the disk.

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

/// What is kept free unless something else is set, in bytes, or [`USUAL_SHARE`] of the disk when that is less.
pub const USUAL_FLOOR: u64 = 1 << 30;
/// In hundredths.
pub const USUAL_SHARE: u64 = 2;

/// What is to stay free on a disk: an [`Amount`], or what is usual, which is written `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Floor(pub Option<Amount>);

impl TryFrom<String> for Floor {
    type Error = NoAmount;

    fn try_from(text: String) -> Result<Self, NoAmount> {
        if text == "auto" { Ok(Self(None)) } else { text.parse().map(|amount| Self(Some(amount))) }
    }
}

impl Floor {
    /// The same in bytes, on a disk of so many.
    pub fn of(self, disk: u64) -> u64 {
        let usual = || USUAL_FLOOR.min(disk / 100 * USUAL_SHARE);
        self.0.map_or_else(usual, |floor| floor.of(disk))
    }
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
    fn a_floor_is_usual_or_set() {
        let floor = |text: &str| Floor::try_from(text.to_owned());
        assert_eq!(floor("auto"), Ok(Floor::default()));
        assert_eq!(floor("0").unwrap().of(1 << 40), 0);
        assert_eq!(floor("5%").unwrap().of(1000), 50);
        assert!(floor("Auto").is_err());
        assert_eq!(Floor::default().of(100 << 30), 1 << 30);
        assert_eq!(Floor::default().of(1000), 20);
    }
}
