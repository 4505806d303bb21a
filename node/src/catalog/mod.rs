// SPDX-License-Identifier: MIT OR Apache-2.0
//! Catalogs: the own ones, and those that are followed. [`plan`] decides when to flush and when to look for news;
//! [`followed`] answers look-ups from memory; [`own`] makes the next state of an own Catalog; [`evidence`] is what was
//! refused of others.

#[cfg(feature = "net")]
pub mod driver;
pub mod evidence;
pub mod followed;
#[cfg(feature = "net")]
mod look;
pub mod own;
pub mod plan;
