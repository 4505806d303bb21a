// SPDX-License-Identifier: MIT OR Apache-2.0
//! One node: its home on disk, its settings, and the policy it goes by.
//!
//! * [`home`] is the folder that holds all of it; [`config`] its settings, with the defaults as documentation.
//! * [`trust`] reads, judges with and edits `trust.toml`.
//! * [`observe`] holds the only clock.
//! * [`cache`] is the one door for tools; [`front`] has one folder a tool.
//! * `alias` lets Blobs be found by the names that other tools have for them.
//! * [`bundle`] takes part of a store to where no network goes.
//! * [`dht`] is what this node keeps for the DHT of each Network, and remembers of its members.
//! * `lately` is a set of what was noted last.
//! * [`gc`] makes room by removing what is worth least.
//! * [`content`] keeps Blobs, and [`packing`] packs them when nobody waits.
//! * [`relocate`] takes paths out of outputs and puts them back.
//! * [`materialise`] writes Trees to folders, and makes Trees of them.

pub mod ahead;
#[cfg(feature = "net")]
pub mod alias;
pub mod announce;
pub mod buffers;
pub mod bundle;
pub mod cache;
pub mod catalog;
pub mod config;
pub mod content;
pub mod control;
#[cfg(feature = "net")]
pub mod daemon;
pub mod dht;
pub mod drive;
pub mod engine;
pub mod fetch;
pub mod front;
pub mod gc;
pub mod home;
pub mod index;
mod lately;
pub mod link;
pub mod materialise;
pub mod network;
pub mod observe;
#[cfg(feature = "net")]
pub mod outside;
pub mod packing;
pub mod peer;
pub mod plan;
pub mod project;
pub mod reach;
pub mod relocate;
pub mod store;
#[cfg(feature = "net")]
pub mod swarm;
pub mod trust;
#[cfg(feature = "net")]
pub mod verify;
#[cfg(feature = "net")]
pub mod work;
