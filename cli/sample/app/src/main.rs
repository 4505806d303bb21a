// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plans a potluck supper: who brings what, and whether it is enough for everyone.

mod evening;

use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::Parser;
use regex::RegexBuilder;
use sample_menu::{Menu, SUPPER};
use tracing_subscriber::EnvFilter;

/// Plans a potluck supper
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// How many guests come
    #[arg(long, default_value_t = 12, value_name = "NUMBER")]
    guests: u32,
    /// Only dishes whose name matches
    #[arg(long, default_value = "", value_name = "REGEX")]
    like: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// What to log, on standard error
    #[arg(long, default_value = "warn", value_name = "FILTER")]
    log: EnvFilter,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Args { guests, like, json, log } = Args::parse();
    tracing_subscriber::fmt().with_env_filter(log).with_writer(io::stderr).without_time().init();
    let like = RegexBuilder::new(&like).case_insensitive(true).build().context("--like is no regex")?;
    let menu = Menu::read(SUPPER).context("cannot read the menu")?;
    let plan = evening::plan(&menu, &like, guests).await?;
    let text = if json { serde_json::to_string_pretty(&plan)? + "\n" } else { plan.to_string() };
    io::stdout().write_all(text.as_bytes()).context("cannot print the plan")
}
