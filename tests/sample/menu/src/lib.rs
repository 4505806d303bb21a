// SPDX-License-Identifier: MIT OR Apache-2.0
//! A menu, made by a build script and a procedural macro.

use serde::Serialize;
use small_tag::Tag;

include!(concat!(env!("OUT_DIR"), "/dishes.rs"));

/// What is served.
#[derive(Debug, Serialize, Tag)]
pub struct Menu {
    /// The dishes.
    pub dishes: Vec<&'static str>,
}

/// The menu as text.
pub fn menu() -> String {
    let menu = Menu { dishes: DISHES.to_vec() };
    format!("{}: {}", menu.tag(), menu.dishes.join(", "))
}
