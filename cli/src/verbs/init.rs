// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck init`: makes the home. Opens no socket, and neither does anything else until a Network is joined.

use clap::Args as ClapArgs;
use potluck_node::home::{Home, SIGNER};
use serde_json::json;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;

/// Make this node's folder: settings, an empty list of whom to believe, and the key `me`
///
/// What is there already stays as it is.
#[derive(Debug, ClapArgs)]
pub(crate) struct Init {
    /// What to call the key where others see it, e.g. you@example.org
    #[arg(long, default_value = "potluck")]
    comment: String,
}

impl Init {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let made = home.init(&self.comment)?;
        let root = home.root().display();
        let me = home.ring()?.show(SIGNER)?;
        let line = me.public.to_openssh(&me.comment);
        let text = match made.files.is_empty() {
            true => format!("There is a home at {root} already; nothing was changed."),
            false => format!("Made a home at {root}"),
        };
        let object = json!({ "home": root.to_string(), "made": made.files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>(), "me": line });
        say.answer(&text, object)?;
        say.note(&format!(
            "\nYour key, for others to believe you:\n  {line}\n\n\
             Whom do you believe? So far nobody:\n  potluck trust add NAME \"ssh-ed25519 …\" --project 'acme/*'"
        ));
        Ok(Exit::Done)
    }
}
