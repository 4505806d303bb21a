// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a build of many units will ask for, before it does: learned from earlier builds of the same kind, here or by
//! whoever is trusted, looked up in one question and fetched in the order in which it will be needed.
//!
//! * [`list`]: what such a build asks for, as it is stored; [`plan`]: what to learn, fetch, stop and keep;
//! * [`run`]: whether a build still goes on; `driver`: does all of it.
//!
//! A list is the output of an ordinary Entry, of the Recipe [`RECIPE`]; its key is what builds of one kind have in
//! common, which the Front says. Nothing depends on it: what is fetched is judged and checked as anything else, and what
//! is missing is looked up when it is asked for.

#[cfg(feature = "net")]
pub(crate) mod driver;
pub mod list;
pub mod plan;
pub mod run;

/// The Recipe of lists.
pub const RECIPE: &str = "cargo-plan@1";
