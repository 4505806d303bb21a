// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far a long one is, for a person who has waited a moment already.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget};
use potluck_node::materialise::Done;
use potluck_node::observe::clock;
use potluck_node::plan::Moment;

use crate::say::Say;

/// What is over sooner is shown to nobody.
const PATIENCE: Duration = Duration::from_millis(250);

/// A line on a terminal, or nothing. It goes away when it is dropped.
pub(super) struct Bar {
    line: ProgressBar,
    start: Moment,
    shown: AtomicBool,
}

impl Bar {
    pub(super) fn new(say: &Say, what: &'static str) -> Self {
        let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()).with_prefix(what);
        // A line that is taken for shown never is.
        Self { line, start: clock::moment(), shown: AtomicBool::new(!say.is_talkative()) }
    }

    /// How far it is.
    pub(super) fn tell(&self, done: Done, of: Option<Done>) {
        if clock::moment().since(self.start) < PATIENCE {
            return;
        }
        if !self.shown.swap(true, Ordering::Relaxed) {
            let style = indicatif::ProgressStyle::with_template("{prefix} {msg}");
            self.line.set_style(style.expect("the template is a fixed one"));
            self.line.set_draw_target(ProgressDrawTarget::stderr());
        }
        if !self.line.is_hidden() {
            let count = |done: Done| format!("{} files, {}", HumanCount(done.files), HumanBytes(done.bytes));
            let of = of.map_or_else(String::new, |of| format!(" of {}", count(of)));
            self.line.set_message(count(done) + &of);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.line.finish_and_clear();
    }
}
