// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck verify`: is everything as it was written?

use clap::Args as ClapArgs;
use indicatif::{HumanBytes, HumanCount};
use potluck_node::home::Home;
use potluck_protocol::control::{self, Job};
use potluck_protocol::digest::Digest;
use serde_json::Value;

use crate::connect::{daemon, wait};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::{Say, counted};

/// Read all that is stored and check it; what is damaged is put aside, and fetched again from whom you trust
#[derive(Debug, ClapArgs)]
pub(crate) struct Verify {
    /// Only this blob, and what it lists if it is a folder
    digest: Option<Digest>,
    /// Do not fetch again what is damaged
    #[arg(long)]
    no_repair: bool,
}

impl Verify {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let job = Job::Verify(control::Verify { digest: self.digest, repair: !self.no_repair });
        let mut bar = say.progress();
        let json = wait(async { Ok(daemon(home).await?.work(job, |report| bar.show(&report)).await?) })?;
        drop(bar);
        let report: Value = serde_json::from_slice(&json)
            .map_err(|error| Failure::failed(format!("the daemon's answer makes no sense: {error}")))?;
        let sound = report["sound"].as_bool().unwrap_or(false);
        say.answer(&text(&report), report)?;
        Ok(if sound { Exit::Done } else { Exit::Failed })
    }
}

fn text(report: &Value) -> String {
    let number = |name: &str| report[name].as_u64().unwrap_or(0);
    let mut text = format!(
        "{} checked, {} at {} a second\n",
        counted(number("blobs"), "blob", "blobs"),
        HumanBytes(number("bytes")),
        HumanBytes(number("bytes_per_s")),
    );
    match number("damaged") {
        0 => text += "nothing is damaged\n",
        damaged => {
            let (repaired, lost) = (number("repaired"), number("lost"));
            let damaged = counted(damaged, "blob is", "blobs are");
            text += &format!("{damaged} damaged: {repaired} fetched again, {lost} missing\n");
        }
    }
    for digest in report["lost_blobs"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        text += &format!("  {digest}\n");
    }
    if let Some(entries) = report["entries"].as_object() {
        let number = |name: &str| entries.get(name).and_then(Value::as_u64).unwrap_or(0);
        text += &format!("{} checked", counted(number("checked"), "entry", "entries"));
        for (name, what) in [
            ("damaged", "damaged"),
            ("forgotten", "of them forgotten"),
            ("incomplete", "name blobs that are not here"),
        ] {
            if number(name) > 0 {
                text += &format!(", {} {what}", HumanCount(number(name)));
            }
        }
    }
    text.trim_end().to_owned()
}
