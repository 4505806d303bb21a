// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a node finds others and is reached by them: [`plan`] decides, [`meter`] measures what comes, [`ways`]
//! by which of two ways it is to come. Carried out in `swarm/reach.rs`.

pub mod meter;
pub mod plan;
pub mod ways;
