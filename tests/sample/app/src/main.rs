// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prints the menu.

fn main() {
    println!("{}", small_menu::menu());
}
