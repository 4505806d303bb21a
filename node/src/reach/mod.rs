// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a node finds others and is reached by them: [`plan`] decides, [`meter`] measures what comes. Carried out in
//! `swarm/reach.rs`.

pub mod meter;
pub mod plan;
