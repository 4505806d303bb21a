// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bazel: `--remote_cache` in the person's own `.bazelrc`.

use super::edit::{self, Edit};
use super::{Leads, Plan, Surroundings, Tool, served};
use crate::failure::Failure;

pub(super) const TOOL: Tool =
    Tool { name: "bazel", about: "results of actions, by HTTP", plan, leads: Some(leads) };

fn plan(around: &Surroundings) -> Result<Plan, Failure> {
    let url = served::url(around, "bazel")?;
    let path = around.user.join(".bazelrc");
    let before = around.read(&path)?;
    let after = wired(before.as_deref().unwrap_or_default(), &url)
        .map_err(|why| Failure::failed(format!("{}: {why}", path.display())).hint("nothing was changed"))?;
    let notes =
        vec!["a workspace's own .bazelrc may name another cache, and is read before this one".to_owned()];
    Ok(Plan { edits: vec![Edit { path, before, after }], notes })
}

/// Of all files that Bazel reads the person's own comes last, and counts.
fn leads(around: &Surroundings) -> Result<Leads, Failure> {
    let own = around.user.join(".bazelrc");
    let cache = |text: &str| {
        let words =
            text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(str::split_whitespace);
        words.filter_map(|word| word.strip_prefix("--remote_cache=")).next_back().map(str::to_owned)
    };
    if let Some(to) = edit::read(&own)?.as_deref().and_then(cache) {
        return Ok(Leads::file(&own, Some(to)));
    }
    let near = Surroundings::nearest(".bazelrc")?;
    let near = near.and_then(|(path, text)| Some(Leads::file(&path, Some(cache(&text)?))));
    Ok(near.unwrap_or_else(|| Leads::file(&own, None::<String>)))
}

/// The settings with our address as the remote cache.
fn wired(text: &str, url: &str) -> Result<String, String> {
    let line = format!("build --remote_cache={url}");
    if text.lines().any(|found| found.trim() == line) {
        return Ok(text.to_owned());
    }
    let other = text.lines().find(|found| {
        let words: Vec<_> = found.split_whitespace().collect();
        let applies = words.first().is_some_and(|first| ["build", "common", "test"].contains(first));
        applies
            && words
                .iter()
                .any(|word| word.starts_with("--remote_cache") || word.starts_with("--remote_executor"))
    });
    if let Some(other) = other {
        return Err(format!("{:?} names another cache already", other.trim()));
    }
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    Ok(format!("{text}{gap}{line}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_added_once_and_no_other_cache_replaced() {
        let url = "http://127.0.0.1:7117/bazel";
        let settings = wired("build --jobs=2", url).unwrap();
        assert_eq!(settings, "build --jobs=2\nbuild --remote_cache=http://127.0.0.1:7117/bazel\n");
        assert_eq!(wired(&settings, url).unwrap(), settings, "twice is once");
        assert!(wired("# build --remote_cache=x\nbuild:ci --remote_cache=x\n", url).is_ok());
        for other in ["build --remote_cache=grpc://x\n", "common --jobs=1 --remote_executor=x\n"] {
            assert!(wired(other, url).is_err(), "{other}");
        }
    }
}
