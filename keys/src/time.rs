// SPDX-License-Identifier: MIT OR Apache-2.0
//! Instants as claims carry them. Nothing in this crate or in `protocol` reads a clock: the present is handed in.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::codec::{CodecError, Reader, Wire, Writer};

/// Milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted; at most [`Time::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The end of the year 9999, the last that RFC 3339 can write.
    pub const MAX: Self = Self(253_402_300_799_999);

    /// The instant `millis` milliseconds after the epoch, or [`Time::MAX`] when that is earlier.
    pub const fn from_millis(millis: u64) -> Self {
        if millis > Self::MAX.0 { Self::MAX } else { Self(millis) }
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The later instant, or [`Time::MAX`].
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long `earlier` lies back; zero when it does not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Time {
    /// A clock before 1970 counts as 1970.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Time {
    /// RFC 3339 in UTC, to the second.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(self.0)).fmt(f)
    }
}

/// Text that is not an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an instant such as 2026-11-21T06:00:00Z")]
pub struct NotATime;

impl FromStr for Time {
    type Err = NotATime;

    /// Reads RFC 3339 in UTC, and also the same with a space for the `T` or without the `Z`.
    fn from_str(text: &str) -> Result<Self, NotATime> {
        humantime::parse_rfc3339_weak(text).map(Self::from).map_err(|_| NotATime)
    }
}

impl Wire for Time {
    fn write(&self, to: &mut Writer) {
        to.uint(self.0);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        from.uint_up_to("an instant", Self::MAX.0).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_rfc_3339_up_to_the_last_instant() {
        let time = Time::from_millis(1_795_240_800_000);
        assert_eq!(time.to_string(), "2026-11-21T06:00:00Z");
        assert_eq!("2026-11-21T06:00:00Z".parse(), Ok(time));
        assert_eq!(Time::from_millis(u64::MAX).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(Time::MAX.plus(Duration::MAX), Time::MAX);
        assert_eq!("yesterday".parse::<Time>(), Err(NotATime));
    }
}
