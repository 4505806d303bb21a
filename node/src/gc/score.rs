// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which Entries go first: those that nobody has used for long, and of equally old ones those that are quick to make
//! again for the room that they take.

use std::time::Duration;

use potluck_keys::time::Time;

/// What it costs to make one MiB again, in milliseconds, where an Entry is worth one.
pub const REFERENCE_MS_PER_MIB: f64 = 1000.0;
/// The least and the most that an Entry can be worth. An output that took a hundred times as long as another one to
/// make is not kept a hundred times as long: it may never be asked for again all the same.
pub const WORTH: (f64, f64) = (0.25, 4.0);
/// How many levels of staleness are told apart.
pub const LEVELS: usize = REFUSED + 1;
/// Each doubling of staleness is divided into this many levels, so that two Entries of one level differ by six percent.
const PER_DOUBLING: u32 = 16;
/// The level of what the policy refuses: nothing is staler.
const REFUSED: usize = 976;

/// How an Entry stands by the clock and the policy of the present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It can be used.
    Good,
    /// The policy refuses it today. It may accept it again tomorrow.
    Refused,
    /// It has expired, and can never be used again.
    Expired,
}

/// What the score of an Entry depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// When it was last used, or made when it never was.
    pub last: Time,
    /// All bytes that it names, uncompressed.
    pub bytes: u64,
    /// What making it cost, in milliseconds, when that is known.
    pub cost_ms: Option<u64>,
    /// How it stands.
    pub standing: Standing,
}

impl Subject {
    /// What making one MiB of it again costs, in milliseconds.
    #[expect(clippy::cast_precision_loss, reason = "a share, of which nobody needs the sixteenth digit")]
    fn ms_per_mib(&self) -> Option<f64> {
        // A few bytes take as much room as a page, and what took long to find out in a few bytes is not priceless.
        let mib = self.bytes.max(4096) as f64 / f64::from(1 << 20);
        self.cost_ms.map(|cost| cost as f64 / mib)
    }

    /// How many times longer than an average one it is kept; within [`WORTH`].
    pub fn worth(&self) -> f64 {
        let (least, most) = WORTH;
        self.ms_per_mib().map_or(1.0, |cost| (cost / REFERENCE_MS_PER_MIB).sqrt().clamp(least, most))
    }

    /// How long it has not been used, less what it is worth.
    pub fn staleness(&self, now: Time) -> Duration {
        now.since(self.last).div_f64(self.worth())
    }

    /// Its level of staleness, below [`LEVELS`]. A clock that was set back makes things fresh, never stale.
    pub fn level(&self, now: Time) -> usize {
        match self.standing {
            Standing::Refused | Standing::Expired => REFUSED,
            Standing::Good => {
                level(u64::try_from(self.staleness(now).as_millis()).unwrap_or(u64::MAX)).min(REFUSED - 1)
            }
        }
    }

    /// Why it goes, in words.
    pub fn why(&self, now: Time) -> String {
        match self.standing {
            Standing::Expired => "expired".to_owned(),
            Standing::Refused => "your policy refuses it".to_owned(),
            Standing::Good => {
                let unused = Duration::from_secs(now.since(self.last).as_secs());
                let unused = coarse(unused);
                match self.ms_per_mib() {
                    None => format!("not used for {unused}; nobody knows what making it again costs"),
                    Some(cost) => {
                        format!("not used for {unused}; making it again takes {:.1} s per MiB", cost / 1000.0)
                    }
                }
            }
        }
    }
}

/// A span in its largest unit.
fn coarse(span: Duration) -> String {
    let seconds = span.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

fn level(ms: u64) -> usize {
    let Some(exponent) = ms.checked_ilog2().filter(|exponent| *exponent >= 4) else {
        return usize::try_from(ms).expect("less than sixteen");
    };
    let within = (ms >> (exponent - 4)) & 15;
    let below = (exponent - 3) * PER_DOUBLING;
    usize::try_from(u64::from(below) + within).expect("less than a thousand")
}

/// Up to where Entries go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// All that are staler than this level go.
    pub level: usize,
    /// Of this level itself, as many go as have these bytes together.
    pub bytes: u64,
}

impl Cut {
    /// Nothing goes.
    pub const NOTHING: Self = Self { level: LEVELS, bytes: 0 };

    /// Whether an Entry of this level and size goes; those of the last level use up what is left of it.
    pub fn takes(&mut self, level: usize, bytes: u64) -> bool {
        if level != self.level {
            return level > self.level;
        }
        let takes = self.bytes > 0;
        self.bytes = self.bytes.saturating_sub(bytes);
        takes
    }
}

/// How many bytes lie at which level.
#[derive(Debug, Clone)]
pub struct Histogram(Vec<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self(vec![0; LEVELS])
    }
}

impl Histogram {
    /// Counts an Entry.
    pub fn add(&mut self, level: usize, bytes: u64) {
        self.0[level] = self.0[level].saturating_add(bytes);
    }

    /// All bytes.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// The cut that takes the stalest `bytes`, or everything when there are fewer.
    pub fn cut(&self, bytes: u64) -> Cut {
        let mut wanted = bytes;
        let mut last = Cut::NOTHING;
        for (level, here) in self.0.iter().enumerate().rev().filter(|(_, here)| **here > 0) {
            if wanted == 0 {
                break;
            }
            last = Cut { level, bytes: wanted.min(*here) };
            wanted = wanted.saturating_sub(*here);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;
    const NOW: Time = Time::from_millis(1000 * DAY);

    fn subject(days: u64, mib: u64, cost_ms: Option<u64>) -> Subject {
        let last = Time::from_millis((1000 - days) * DAY);
        Subject { last, bytes: mib << 20, cost_ms, standing: Standing::Good }
    }

    #[test]
    fn levels_rise_with_staleness_and_tell_six_percent_apart() {
        let mut last = 0;
        for ms in (0..100_000).chain((17..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit])) {
            assert!(level(ms) >= last && level(ms) <= last + 16 && level(ms) < REFUSED, "{ms}");
            last = level(ms);
        }
        assert_eq!(level(u64::MAX), REFUSED - 1);
        for ms in [1000_u64, 1_000_000, 12 * DAY] {
            assert!(level(ms + ms / 10) > level(ms));
        }
    }

    #[test]
    fn what_took_long_is_kept_several_times_longer_and_not_for_ever() {
        let cheap = subject(10, 100, Some(1_000));
        let dear = subject(10, 1, Some(60_000));
        assert!((cheap.worth(), dear.worth()) == WORTH);
        assert!((subject(10, 1, Some(1_000)).worth() - 1.0).abs() < 1e-9);
        assert!(cheap.level(NOW) > dear.level(NOW));
        assert!(subject(170, 1, Some(60_000)).level(NOW) > cheap.level(NOW));
        assert!((subject(1, 1, None).worth() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_cannot_be_used_goes_before_all_else() {
        let old =
            Subject { last: Time::from_millis(0), bytes: 1, cost_ms: Some(0), standing: Standing::Good };
        for standing in [Standing::Refused, Standing::Expired] {
            assert!(Subject { standing, last: NOW, ..old }.level(NOW) > old.level(Time::MAX));
        }
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_stale() {
        assert_eq!(subject(1, 1, None).level(Time::from_millis(0)), 0);
    }

    #[test]
    fn the_reason_is_said_in_words() {
        assert_eq!(
            subject(12, 10, Some(3_000)).why(NOW),
            "not used for 12 days; making it again takes 0.3 s per MiB"
        );
        assert!(subject(1, 10, None).why(NOW).starts_with("not used for 1 day; "));
        assert_eq!(coarse(Duration::from_secs(7300)), "2 hours");
    }

    #[test]
    fn a_cut_takes_the_stalest_and_no_more_than_it_must() {
        let mut histogram = Histogram::default();
        for (level, bytes) in [(5, 100), (70, 10), (70, 10), (900, 7)] {
            histogram.add(level, bytes);
        }
        assert_eq!(histogram.total(), 127);
        assert_eq!(histogram.cut(0), Cut::NOTHING);
        assert_eq!(histogram.cut(7), Cut { level: 900, bytes: 7 });
        let mut cut = histogram.cut(8);
        assert_eq!(cut, Cut { level: 70, bytes: 1 });
        assert!(cut.takes(900, 7) && !cut.takes(69, 1));
        assert!(cut.takes(70, 10) && !cut.takes(70, 10), "one of the two is enough");
        assert_eq!(histogram.cut(u64::MAX), Cut { level: 5, bytes: 100 });
    }
}
