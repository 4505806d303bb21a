// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck network`: make, join and leave Networks.

use clap::{Args as ClapArgs, Subcommand};
use potluck_node::home::Home;
use potluck_node::network::{Network as Member, Networks};
use serde_json::{Value, json};

use crate::connect::{daemon, refresh, wait};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;

/// Make a Network, invite others to it, or join one
#[derive(Debug, ClapArgs)]
pub(crate) struct Network {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a new Network with this node as its first member
    Create {
        /// Its name, e.g. office
        name: String,
        /// One that everybody may join who knows its name
        #[arg(long)]
        public: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// Print the line by which others join; whoever has the line of a private Network is a member
    Invite {
        /// The Network
        name: String,
    },
    /// Join the Network of an invitation
    Join {
        /// The line that `potluck network invite` printed
        #[arg(required = true, value_name = "LINE")]
        line: Vec<String>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Leave a Network, and forget its key
    Leave {
        /// The Network
        name: String,
    },
    /// Show the Networks of this node, and what is shared where
    List,
}

/// How this node takes part.
#[derive(Debug, ClapArgs)]
struct Settings {
    /// Where to listen for members, e.g. /ip4/0.0.0.0/tcp/4001; several are possible [default: any free port]
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<String>,
}

impl Settings {
    /// What is no address would keep the daemon from starting.
    fn apply(&self, network: &mut Member) -> Result<(), Failure> {
        for address in &self.listen {
            if !potluck_node::swarm::is_address(address) {
                return Err(Failure::usage(format!("{address:?} is no address"))
                    .hint("write it as /ip4/0.0.0.0/tcp/4001"));
            }
        }
        if !self.listen.is_empty() {
            network.listen.clone_from(&self.listen);
        }
        Ok(())
    }
}

impl Network {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let networks = Networks::of(home);
        match &self.what {
            What::Create { name, public, settings } => {
                let mut network = Member::new(name, *public)?;
                settings.apply(&mut network)?;
                networks.add(&network)?;
                let kind = if *public { "public" } else { "private" };
                say.answer(&format!("Made the {kind} network {name}"), shown(&network))?;
                say.note(&format!(
                    "Nothing is shared there yet:  potluck share PROJECT --network {name}\n\
                     Others join with the line of:  potluck network invite {name}"
                ));
                refresh(home, say)?;
            }
            What::Invite { name } => {
                let network = networks.get(name)?;
                let line = network.invite(&addresses(home, name));
                say.answer(&line, json!({ "network": name, "invite": line }))?;
            }
            What::Join { line, settings } => {
                let mut network = Member::from_invite(&line.join(" "))?;
                settings.apply(&mut network)?;
                networks.add(&network)?;
                say.answer(&format!("Joined the network {}", network.name), shown(&network))?;
                say.note(&format!(
                    "Nothing is shared there yet:  potluck share PROJECT --network {}",
                    network.name
                ));
                refresh(home, say)?;
            }
            What::Leave { name } => {
                networks.remove(name)?;
                say.answer(&format!("Left the network {name}"), json!({ "network": name }))?;
                refresh(home, say)?;
            }
            What::List => {
                for network in networks.list()? {
                    let shared: Vec<_> = network.share.iter().map(String::as_str).collect();
                    let shared = if shared.is_empty() { "nothing".to_owned() } else { shared.join(", ") };
                    let kind = if network.key.is_some() { "private" } else { "public" };
                    let text = format!("{} ({kind}): {shared} is shared", network.name);
                    say.answer(&text, shown(&network))?;
                }
            }
        }
        Ok(Exit::Done)
    }
}

/// A Network without its key.
fn shown(network: &Member) -> Value {
    let Member { name, key, peers, share, .. } = network;
    json!({ "network": name, "public": key.is_none(), "peers": peers, "share": share })
}

/// Where a running daemon can be reached from elsewhere.
fn addresses(home: &Home, name: &str) -> Vec<String> {
    let status = wait(async { Ok(daemon(home).await?.status().await?) });
    let status: Value = status.ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    let listen = status["networks"][name]["listen"].as_array().cloned().unwrap_or_default();
    let all: Vec<_> = listen.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let outward: Vec<_> = all
        .iter()
        .filter(|text| !text.starts_with("/ip4/127.") && !text.starts_with("/ip6/::1/"))
        .cloned()
        .collect();
    // On a machine of its own, loopback is all there is.
    if outward.is_empty() { all } else { outward }
}
