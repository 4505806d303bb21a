// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cases that need more than one crate, or the built program.

// `cfg(test)` is what tells clippy that helpers in these modules may unwrap.
#[cfg(test)]
mod bundle;
#[cfg(test)]
mod cargo;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod codec;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod folders;
#[cfg(test)]
mod go;
#[cfg(test)]
mod hosts;
#[cfg(test)]
mod http;
#[cfg(test)]
mod light;
#[cfg(test)]
mod mistakes;
#[cfg(test)]
mod net;
#[cfg(test)]
mod networks;
#[cfg(test)]
mod nix;
#[cfg(test)]
mod room;
#[cfg(test)]
mod setup;
#[cfg(test)]
mod store;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod turbo;
#[cfg(test)]
mod vectors;
