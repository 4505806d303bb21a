// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes the enum of courses, `courses.rs` in `OUT_DIR`, from the lines of `courses.txt`.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=courses.txt");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("courses.rs"), courses(&fs::read_to_string("courses.txt")?)?)?;
    Ok(())
}

/// The source of the enum, its variants in the order of the lines.
fn courses(text: &str) -> Result<String, Box<dyn Error>> {
    let (mut variants, mut arms) = (String::new(), String::new());
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, portions) = line.split_once(' ').ok_or_else(|| format!("no portions: {line}"))?;
        let portions = portions.parse::<u32>()?;
        writeln!(variants, "    /// {portions} for each guest.\n    {name},")?;
        writeln!(arms, "            Self::{name} => {portions},")?;
    }
    Ok(format!(
        "/// A part of the meal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Tag)]
#[serde(rename_all = \"kebab-case\")]
pub enum Course {{
{variants}}}

impl Course {{
    /// How many portions of this course a guest takes.
    #[must_use]
    pub const fn each(self) -> u32 {{
        match self {{
{arms}        }}
    }}
}}
"
    ))
}
