// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that is printed: answers on stdout, talk on stderr, and with `--json` one object a line on stdout.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use potluck_node::observe::clock::moment;
use potluck_node::plan::Moment;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::args::Global;
use crate::failure::Failure;

/// The version of the objects that `--json` prints.
const VERSION: u64 = 1;

/// Where a verb says what it has to say.
pub(crate) struct Say {
    json: bool,
    quiet: bool,
}

impl Say {
    pub(crate) fn new(global: &Global) -> Self {
        Self { json: global.json, quiet: global.quiet }
    }

    /// One part of the answer: `text` for people, `object` for scripts.
    pub(crate) fn answer(&mut self, text: &str, object: Value) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json { writeln!(out, "{}", versioned(object)) } else { writeln!(out, "{text}") }
    }

    /// The same on stderr, where stdout is taken by something else.
    pub(crate) fn aside(&mut self, text: &str, object: Value) -> io::Result<()> {
        let mut err = io::stderr().lock();
        match (self.json, self.quiet) {
            (true, _) => writeln!(err, "{}", versioned(object)),
            (false, true) => Ok(()),
            (false, false) => writeln!(err, "{text}"),
        }
    }

    /// Whether the answer is for a script.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person is there who wants to see how things go on.
    pub(crate) fn is_talkative(&self) -> bool {
        !self.quiet && !self.json && io::stderr().is_terminal()
    }

    /// How far something is, for people who watch.
    pub(crate) fn progress(&self) -> Progress {
        Progress { bar: None, shown: self.is_talkative(), begun: moment() }
    }

    /// Something that is nice to know, for people only.
    pub(crate) fn note(&mut self, text: &str) {
        if !self.quiet && !self.json {
            // Talk that nobody reads is no reason to fail.
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Something that is not as it should be, though the verb goes on.
    pub(crate) fn warning(&mut self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "warning: {text}");
    }

    /// Why a verb did not work.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        let Failure { exit, message, hints } = failure;
        if *exit == crate::exit::Exit::Done {
            return;
        }
        let mut text = format!("error: {message}\n");
        for hint in hints {
            text += &format!("hint: {hint}\n");
        }
        let _ = write!(io::stderr().lock(), "{text}");
        if self.json {
            let object = json!({ "error": { "kind": exit.word(), "message": message, "hints": hints } });
            let _ = writeln!(io::stdout().lock(), "{}", versioned(object));
        }
    }
}

/// A number of things, as people say it.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", HumanCount(count), if count == 1 { one } else { many })
}

/// How long something takes before it is said how far it is.
const PATIENCE: Duration = Duration::from_millis(250);

/// How far something is. It takes its line away when it is dropped.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    shown: bool,
    begun: Moment,
}

impl Progress {
    /// Takes what the daemon says: an object with `done`, `total` and `unit`.
    pub(crate) fn show(&mut self, report: &[u8]) {
        if !self.shown || moment().since(self.begun) < PATIENCE {
            return;
        }
        let Ok(report) = serde_json::from_slice::<Value>(report) else { return };
        let (Some(done), Some(total)) = (report["done"].as_u64(), report["total"].as_u64()) else { return };
        let bar = self.bar.get_or_insert_with(|| {
            let count = if report["unit"] == "bytes" { "{bytes} of {total_bytes}" } else { "{pos} of {len}" };
            let style = ProgressStyle::with_template(&format!("{{wide_bar}} {count}, {{eta}} left"));
            ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_length(total);
        bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The object with `"v"` as its first member.
fn versioned(object: Value) -> Value {
    let mut all = Map::new();
    all.insert("v".to_owned(), VERSION.into());
    if let Value::Object(object) = object {
        all.extend(object);
    }
    Value::Object(all)
}

/// The passphrase of a key: from `POTLUCK_PASSPHRASE`, or asked for when there is somebody to ask.
pub(crate) fn passphrase(what: &str) -> Option<Zeroizing<String>> {
    if let Ok(passphrase) = std::env::var("POTLUCK_PASSPHRASE") {
        return Some(Zeroizing::new(passphrase));
    }
    if !io::stdin().is_terminal() {
        return None;
    }
    rpassword::prompt_password(format!("Passphrase of {what}: ")).ok().map(Zeroizing::new)
}

/// A passphrase for a new key: from `POTLUCK_PASSPHRASE`, or asked for twice.
pub(crate) fn new_passphrase(what: &str) -> Result<Zeroizing<String>, Failure> {
    let none =
        || Failure::usage("there is no terminal to ask for a passphrase").hint("set POTLUCK_PASSPHRASE");
    let first = passphrase(what).ok_or_else(none)?;
    if first.is_empty() {
        return Err(Failure::usage("an empty passphrase protects nothing").hint("leave out --protect"));
    }
    if std::env::var_os("POTLUCK_PASSPHRASE").is_none() {
        let again = passphrase(&format!("{what}, again")).ok_or_else(none)?;
        if again != first {
            return Err(Failure::failed("the two passphrases differ"));
        }
    }
    Ok(first)
}
