// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck share` and `potluck unshare`: what leaves this machine, and to whom.

use clap::Args as ClapArgs;
use potluck_node::home::Home;
use potluck_node::network::Networks;
use potluck_protocol::action::Project;
use serde_json::json;

use crate::connect::refresh;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;

/// Share a Project on a Network: what is built in it may go there, and is looked for there
#[derive(Debug, ClapArgs)]
pub(crate) struct Share {
    /// The Project, e.g. acme/web
    project: String,
    /// The Network
    #[arg(long, value_name = "NAME")]
    network: String,
}

/// Share a Project no longer; what others have fetched already stays with them
#[derive(Debug, ClapArgs)]
pub(crate) struct Unshare {
    #[command(flatten)]
    what: Share,
}

impl Share {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        self.change(home, say, true)
    }

    fn change(&self, home: &Home, say: &mut Say, share: bool) -> Result<Exit, Failure> {
        let networks = Networks::of(home);
        let Self { project, network: name } = self;
        Project::new(project).map_err(|error| Failure::usage(error.to_string()))?;
        let mut network = networks.get(name)?;
        let changed =
            if share { network.share.insert(project.clone()) } else { network.share.remove(project) };
        if changed {
            networks.change(&network)?;
            refresh(home, say)?;
        }
        let text = match (share, changed) {
            (true, true) => format!("{project} is shared on {name}"),
            (true, false) => format!("{project} was shared on {name} already"),
            (false, true) => format!("{project} is no longer shared on {name}"),
            (false, false) => format!("{project} was not shared on {name}"),
        };
        say.answer(
            &text,
            json!({ "project": project, "network": name, "shared": share, "changed": changed }),
        )?;
        Ok(Exit::Done)
    }
}

impl Unshare {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        self.what.change(home, say, false)
    }
}
