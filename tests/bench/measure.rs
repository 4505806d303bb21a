// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the benchmarks measure: in turns, by medians of rounds, and with a verdict that fails nothing.

use std::hint::black_box;
use std::time::Instant;

/// What a figure should be.
#[derive(Clone, Copy)]
enum Target {
    AtMost(f64),
    AtLeast(f64),
    None,
}

/// One line of the table.
pub(crate) struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    target: Target,
    rounds: usize,
}

impl Figure {
    /// What was measured in this many rounds, without a target.
    pub(crate) fn new(name: impl Into<String>, (value, unit): (f64, &'static str), rounds: usize) -> Self {
        Self { name: name.into(), value, unit, target: Target::None, rounds }
    }

    /// The same, which should not be more than this.
    pub(crate) fn at_most(self, most: f64) -> Self {
        Self { target: Target::AtMost(most), ..self }
    }

    /// The same, which should not be less than this.
    pub(crate) fn at_least(self, least: f64) -> Self {
        Self { target: Target::AtLeast(least), ..self }
    }

    fn met(&self) -> Option<bool> {
        match self.target {
            Target::AtMost(most) => Some(self.value <= most),
            Target::AtLeast(least) => Some(self.value >= least),
            Target::None => None,
        }
    }

    fn line(&self) -> String {
        let target = match self.target {
            Target::AtMost(most) => format!("<= {most}"),
            Target::AtLeast(least) => format!(">= {least}"),
            Target::None => String::new(),
        };
        let verdict = self.met().map_or("", |met| if met { "met" } else { "MISSED" });
        let line = format!("{:<64} {:>11.3} {:<7} {target:>8}  {verdict}", self.name, self.value, self.unit);
        line.trim_end().to_owned()
    }

    fn json(&self) -> String {
        let (at_most, at_least) = match self.target {
            Target::AtMost(most) => (Some(most), None),
            Target::AtLeast(least) => (None, Some(least)),
            Target::None => (None, None),
        };
        serde_json::json!({
            "v": 1,
            "figure": self.name,
            "median": self.value,
            "unit": self.unit,
            "rounds": self.rounds,
            "at_most": at_most,
            "at_least": at_least,
            "met": self.met(),
        })
        .to_string()
    }

    /// Prints it, for people or for scripts.
    #[expect(clippy::print_stdout, reason = "the answer of a benchmark")]
    pub(crate) fn print(&self, json: bool) {
        println!("{}", if json { self.json() } else { self.line() });
    }
}

/// A running clock, which gives the seconds since it was started.
pub(crate) fn clock() -> impl Fn() -> f64 {
    #[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
    let start = Instant::now();
    move || start.elapsed().as_secs_f64()
}

/// Seconds that `work` takes.
pub(crate) fn seconds<T>(work: impl FnOnce() -> T) -> f64 {
    let clock = clock();
    black_box(work());
    clock()
}

/// The seconds of each round, for each of several things that are measured in turns. One more round comes first, which
/// warms memory and caches and does not count.
pub(crate) fn rounds<const N: usize>(count: usize, mut turns: [&mut dyn FnMut() -> f64; N]) -> [Vec<f64>; N] {
    let mut all = [(); N].map(|()| Vec::with_capacity(count));
    for round in 0..=count {
        for (turn, seconds) in turns.iter_mut().zip(&mut all) {
            let took = turn();
            if round > 0 {
                seconds.push(took);
            }
        }
    }
    all
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How many times as fast as `slow` each round of `fast` was.
pub(crate) fn ratio(slow: &[f64], fast: &[f64]) -> f64 {
    median(slow.iter().zip(fast).map(|(slow, fast)| slow / fast).collect())
}
