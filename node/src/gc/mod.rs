// SPDX-License-Identifier: MIT OR Apache-2.0
//! Collection: making room by removing what is worth least.
//!
//! * [`plan`] decides when and what, round by round, told and telling by [`event`]; [`score`] which Entries go first; [`marks`] remembers which Blobs
//!   are wanted; [`report`] what came of it. All four are pure.
//! * [`protect`] keeps what somebody counts on from going; [`uses`] remembers when Entries were used.
//! * [`steps`] does on a real store what the Plan says; [`driver`] runs it.
//! * [`pins`] are reasons of people to keep a Blob; [`budget`] reads how much room there may be.

pub mod budget;
pub mod driver;
pub mod event;
pub mod marks;
pub mod pins;
pub mod plan;
pub mod protect;
pub mod report;
pub mod score;
pub mod steps;
pub mod uses;

#[cfg(test)]
mod tests;
