// SPDX-License-Identifier: MIT OR Apache-2.0
//! The node itself: its home, its daemon, the disk, the clock and its Networks.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use potluck_keys::pair::KeyError;
use potluck_keys::ring::RingError;
use potluck_node::front::listen::serve;
use potluck_node::home::{Home, HomeError, SIGNER};
use potluck_node::network::Networks;
use potluck_node::observe::clock;
use potluck_node::trust::Trust;
use serde_json::Value;

use super::Check;
use crate::connect::{daemon, wait};
use crate::failure::{Failure, how_to_make};
use crate::verbs::status::bytes;

/// A clock before this is wrong: 2026-01-01, in milliseconds since 1970.
const EARLIEST: u64 = 1_767_225_600_000;

pub(super) fn look(home: &Home) -> Vec<Check> {
    let mut checks = vec![folder(home)];
    if !home.root().is_dir() {
        return checks;
    }
    checks.extend([settings(home), key(home), trust(home), disk(home), time()]);
    let status = wait(async { Ok(daemon(home).await?.status().await?) });
    let status = status.map(|json| serde_json::from_slice::<Value>(&json).unwrap_or_default());
    match status {
        Ok(status) => {
            checks.push(Check::good("daemon", format!("process {} answers", status["pid"])));
            checks.push(http(&status["http"]));
            checks.push(networks(home, &status));
            if let Some(doubted) = status["doubted"].as_u64().filter(|doubted| *doubted > 0) {
                let text = format!("{doubted} claims came out differently here, and are not believed");
                checks.push(Check::fair("claims", text, "`potluck audit` shows whose they are"));
            }
        }
        Err(failure) => checks.push(Check::failed("daemon", &failure)),
    }
    checks
}

fn folder(home: &Home) -> Check {
    let path = home.root().display();
    let Ok(metadata) = std::fs::metadata(home.root()) else {
        return Check::bad("home", format!("there is none at {path}"), how_to_make(home.root()));
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let hint = format!("chmod 700 {path}");
        return Check::bad("home", format!("others can get at {path}: its mode is {mode:o}"), hint);
    }
    if metadata.uid() != rustix::process::getuid().as_raw() {
        return Check::bad("home", format!("{path} belongs to somebody else"), "name another with --home");
    }
    Check::good("home", path.to_string())
}

fn settings(home: &Home) -> Check {
    let sound = home.config().map_err(Failure::from);
    let sound = sound.and_then(|config| Ok(serve::address(&config.http)?));
    match sound {
        Ok(_) => Check::good("settings", home.config_path().display().to_string()),
        Err(failure) => Check::failed("settings", &failure),
    }
}

/// As the daemon takes it: without anybody who could type a passphrase.
fn key(home: &Home) -> Check {
    match home.ring().and_then(|ring| Ok(ring.load(SIGNER, || None)?)) {
        Ok(pair) => Check::good("key", pair.signer().to_string()),
        Err(HomeError::Ring(RingError::NotFound { .. })) => {
            Check::fair("key", "there is none to sign with: nothing is published", "`potluck init` makes one")
        }
        Err(HomeError::Ring(RingError::Key { path, source: KeyError::Encrypted })) => {
            let text = format!("{} has a passphrase: nothing is published", path.display());
            Check::fair("key", text, "a daemon that is to publish needs one without")
        }
        Err(error) => Check::failed("key", &Failure::from(error)),
    }
}

/// Where tools that speak HTTP are served.
fn http(listening: &Value) -> Check {
    match (listening["listen"].as_str(), listening["failure"].as_str()) {
        (Some(address), _) => Check::good("http", format!("tools are served at {address}")),
        (None, Some(failure)) => Check::bad(
            "http",
            failure,
            "say another address in config.toml, or end who has this one; then start it again",
        ),
        (None, None) => Check::good("http", "off: tools that speak HTTP are not served"),
    }
}

fn trust(home: &Home) -> Check {
    match Trust::read(home) {
        Ok(trust) => match trust.policy.rules().rules.len() {
            0 => Check::good("trust", "nobody is believed but this node itself"),
            rules => Check::good("trust", format!("{rules} rules")),
        },
        Err(error) => Check::failed("trust", &Failure::from(error)),
    }
}

fn disk(home: &Home) -> Check {
    let Ok(stat) = rustix::fs::statvfs(home.root()) else {
        return Check::bad("disk", "it does not say how full it is", "see whether the home can be read");
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let disk = stat.f_blocks.saturating_mul(stat.f_frsize);
    let floor = home.config().map(|config| config.store.free_floor).unwrap_or_default().of(disk);
    if free <= floor {
        let text = format!("{} free, and {} are to stay so: nothing is kept", bytes(free), bytes(floor));
        return Check::bad("disk", text, "make room, or lower store.free-floor in config.toml");
    }
    Check::good("disk", format!("{} free", bytes(free)))
}

fn time() -> Check {
    let now = clock::now();
    if now.as_millis() < EARLIEST {
        let hint = "set the clock: claims are dated, and others refuse what is not of now";
        return Check::bad("clock", format!("it says {now}"), hint);
    }
    Check::good("clock", now.to_string())
}

fn networks(home: &Home, status: &Value) -> Check {
    let known = Networks::of(home).list().map(|all| all.len()).unwrap_or_default();
    let entered = status["networks"].as_object().map_or(0, serde_json::Map::len);
    let peers = status["peers"].as_array().map_or(0, Vec::len);
    if known > entered {
        let text = format!("{entered} of {known} entered");
        return Check::bad("networks", text, "daemon.log in the home says why");
    }
    match (known, peers) {
        (0, _) => Check::good("networks", "none: nothing leaves this machine"),
        (_, 0) => Check::fair("networks", format!("{known} entered, and nobody met"), "are others up?"),
        _ => Check::good("networks", format!("{known} entered, {peers} peers")),
    }
}
