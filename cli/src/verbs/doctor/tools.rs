// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tools other than cargo: where they look for their cache, whether that is this node, and a round trip by the paths that
//! the tool itself would take.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use potluck_node::front::nix::narinfo::base32;
use potluck_node::home::Home;
use potluck_node::observe::clock;
use potluck_protocol::digest::Sha256;
use serde_json::{Value, json};
use sha2::Digest as _;

use super::http::Place;
use super::{Check, socket};
use crate::connect::{daemon, wait};
use crate::verbs::setup::{Leads, LooksUp, Surroundings, Tool};

/// The Project of what is put: nobody shares it.
const PROJECT: &str = "potluck-doctor";
/// Longest line of go's helper that is read, in bytes.
const MAX_LINE: u64 = 64 * 1024;
/// How long go's helper may take for all that it is asked.
const HELPS_WITHIN: Duration = Duration::from_secs(20);

/// What is said of Nx, which fails a run when its cache ends in the middle of it.
const BY_POTLUCK: &str = "begin a run by `potluck nx`, as in `potluck nx npx nx run-many -t build`";

/// A step of a round trip: the method, the path, what is sent, and what the tool takes for success.
type Step<'a> = (&'static str, String, &'a [u8], &'static [u16]);

pub(super) fn look(home: &Home, tool: &Tool, leads: LooksUp) -> Vec<Check> {
    let mut checks = Vec::new();
    if std::env::var("POTLUCK_OFF").is_ok_and(|off| !off.is_empty() && off != "0") && tool.name == "go" {
        let text = "it is set: everything is passed through";
        checks.push(Check::bad("POTLUCK_OFF", text, "unset POTLUCK_OFF"));
    }
    let status = wait(async { Ok(daemon(home).await?.status().await?) });
    let status = status.map(|json| serde_json::from_slice::<Value>(&json).unwrap_or_default());
    let listening = match status {
        Ok(status) => status["http"]["listen"].as_str().map(str::to_owned),
        Err(failure) => {
            checks.push(Check::failed("daemon", &failure));
            return checks;
        }
    };
    checks.push(Check::good("daemon", "it answers"));
    let found = Surroundings::find(home, tool).and_then(|around| leads(&around));
    let (by, to) = match found {
        Ok(Leads { by, to: Some(to) }) => (by, to),
        // A run by `potluck nx` is led here, whatever else is set; what it asks is asked below the same path.
        Ok(Leads { by, to: None }) if tool.name == "nx" => {
            checks.push(Check::fair("settings", format!("{by} names no cache"), BY_POTLUCK));
            let place = listening.and_then(|listening| Place::of(&format!("http://{listening}/nx")));
            checks.extend(place.map(|place| Target::Http(place.in_project(PROJECT)).round_trip(tool.name)));
            return checks;
        }
        Ok(Leads { by, to: None }) => {
            let hint = format!("`potluck setup {}` says or writes it", tool.name);
            checks.push(Check::bad("settings", format!("{by} names no cache"), hint));
            return checks;
        }
        Err(failure) => {
            checks.push(Check::failed("settings", &failure));
            return checks;
        }
    };
    let elsewhere = |why: &str| {
        let hint = format!("`potluck setup {}` says what to do; unset or change {by} first", tool.name);
        Check::bad("settings", format!("{by} leads to {to}: {why}"), hint)
    };
    let round_trip = match target(home, tool, &to, listening.as_deref()) {
        Ok(target) => {
            let leads = format!("{by} leads to {to}");
            checks.push(match tool.name {
                "nx" => Check::fair("settings", leads + ", and a run fails if the daemon ends", BY_POTLUCK),
                _ => Check::good("settings", leads),
            });
            target.round_trip(tool.name)
        }
        Err(why) => {
            checks.push(elsewhere(&why));
            return checks;
        }
    };
    checks.push(round_trip);
    checks
}

/// What is asked.
enum Target {
    Http(Place),
    Socket(String),
    Helper(Vec<String>),
}

/// What a tool's settings lead to, if that is this node.
fn target(home: &Home, tool: &Tool, to: &str, listening: Option<&str>) -> Result<Target, String> {
    if tool.name == "go" {
        let words = words(to).ok_or("its quotes do not match")?;
        let program = words.first().map(Path::new).and_then(Path::file_stem);
        let ours =
            program.is_some_and(|name| name == "potluck") && words.iter().any(|word| word == "gocacheprog");
        return if ours { Ok(Target::Helper(words)) } else { Err("that is not potluck".to_owned()) };
    }
    if let Some(path) = to.strip_prefix("crsh:") {
        let ours = Path::new(path).parent().and_then(|folder| folder.canonicalize().ok());
        let same = ours.is_some() && ours == home.root().canonicalize().ok();
        return if same {
            Ok(Target::Socket(path.to_owned()))
        } else {
            Err("that is another home".to_owned())
        };
    }
    let place = Place::of(to).ok_or("that is no URL of this node")?;
    let Some(listening) = listening else { return Err("this node serves no tools by HTTP".to_owned()) };
    if !place.is_at(listening) {
        return Err(format!("this node listens at {listening}"));
    }
    let front = front(tool.name);
    if place.front() != front {
        return Err(format!("what {} asks is understood below /{front} alone", tool.name));
    }
    Ok(Target::Http(place.in_project(PROJECT)))
}

/// The first part of the path of a tool.
fn front(tool: &str) -> &str {
    match tool {
        "sccache" => "webdav",
        "moon" => "bazel",
        tool => tool,
    }
}

/// The words of a command as go splits them: quotes of either kind hold what is between two of them together.
fn words(command: &str) -> Option<Vec<String>> {
    let (mut words, mut rest) = (Vec::new(), command.trim_start());
    while let Some(first) = rest.chars().next() {
        let quoted = ['\'', '"'].contains(&first);
        let (word, after) = match quoted {
            true => rest[1..].split_once(first)?,
            false => rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len())),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Some(words)
}

impl Target {
    fn round_trip(&self, tool: &str) -> Check {
        const WHAT: &str = "round trip";
        let begun = clock::moment();
        // Nobody has put this before.
        let value = format!("potluck doctor {} {}", clock::now().as_millis(), std::process::id());
        let (value, hash) = (value.as_bytes(), sha2::Sha256::digest(value.as_bytes()));
        let done = match self {
            Self::Socket(path) => {
                // Its keys have 20 bytes.
                socket::round_trip(Path::new(path), &hash[..20], value).map(|done| {
                    done.map(|()| "put, got and removed by ccache's own protocol").map_err(str::to_owned)
                })
            }
            Self::Http(place) => by_http(place, &steps(tool, &Sha256::from_bytes(hash.into()), value), value),
            Self::Helper(words) => by_helper(words, &hash, value),
        };
        let hint = "daemon.log in the home may say why";
        match done {
            Ok(Ok(how)) => {
                let took = clock::moment().since(begun).as_millis();
                Check::good(WHAT, format!("{} bytes {how} in {took} ms", value.len()))
            }
            Ok(Err(why)) => Check::bad(WHAT, why, hint),
            Err(error) => Check::bad(WHAT, format!("it cannot be made: {error}"), hint),
        }
    }
}

/// What each tool would ask, to put something and get it back.
fn steps<'a>(tool: &str, name: &Sha256, value: &'a [u8]) -> Vec<Step<'a>> {
    const PUT: &[u16] = &[200, 201, 202, 204];
    const THERE: &[u16] = &[200];
    let hex = name.to_string();
    let trip = |path: &str| -> Vec<Step<'a>> {
        let path = path.to_owned();
        vec![("PUT", path.clone(), value, PUT), ("HEAD", path.clone(), &[], THERE), ("GET", path, &[], THERE)]
    };
    let removed = |mut steps: Vec<Step<'a>>| {
        let path = steps[0].1.clone();
        steps.push(("DELETE", path, &[], &[204]));
        steps
    };
    match tool {
        "ccache" => removed(trip(&format!("{}/{}", &hex[..2], &hex[2..40]))),
        "sccache" => {
            let path = format!("{}/{}/{}/{hex}", &hex[..1], &hex[1..2], &hex[2..3]);
            let folder: Step<'a> = ("PROPFIND", path[..6].to_owned(), &[], &[207]);
            [vec![folder], removed(trip(&path))].concat()
        }
        "gradle" => removed(trip(&hex[..32])),
        // Nx takes nothing else for success, and never looks before it gets.
        "nx" => {
            let number = u64::from_str_radix(&hex[..15], 16).unwrap_or_default();
            let path = format!("v1/cache/{number}");
            vec![("PUT", path.clone(), value, THERE), ("GET", path, &[], THERE)]
        }
        "bazel" | "moon" => {
            [vec![("GET", format!("ac/{hex}"), &[][..], &[404][..])], trip(&format!("cas/{hex}"))].concat()
        }
        "turbo" => {
            let status: Step<'a> = ("GET", "v8/artifacts/status".to_owned(), &[], THERE);
            [vec![status], trip(&format!("v8/artifacts/{}?slug={PROJECT}", &hex[..16]))].concat()
        }
        _ => {
            let info: Step<'a> = ("GET", "nix-cache-info".to_owned(), &[], THERE);
            [vec![info], trip(&format!("nar/{}.nar", base32(name)))].concat()
        }
    }
}

/// Takes the steps; what the last GET brings has to be the value.
fn by_http(place: &Place, steps: &[Step<'_>], value: &[u8]) -> io::Result<Result<&'static str, String>> {
    let mut got = Vec::new();
    for (method, path, body, expected) in steps {
        let (status, answer) = place.ask(method, path, body)?;
        if !expected.contains(&status) {
            let mut why = format!("{method} {}/{path} was answered {status}", place.path);
            let said = String::from_utf8_lossy(&answer);
            if let Some(line) = said.lines().next().filter(|line| !line.is_empty()) {
                let _ = write!(why, ": {line}");
            }
            return Ok(Err(why));
        }
        if *method == "GET" {
            got = answer;
        }
    }
    Ok(if got == value { Ok("put and got back") } else { Err("what was got is not what was put".to_owned()) })
}

/// Has one process of go's helper put something, and another one get it.
fn by_helper(words: &[String], hash: &[u8], value: &[u8]) -> io::Result<Result<&'static str, String>> {
    let [action, output] =
        [sha2::Sha256::digest(hash).to_vec(), hash.to_vec()].map(|bytes| STANDARD.encode(bytes));
    let put =
        json!({ "ID": 1, "Command": "put", "ActionID": action, "OutputID": output, "BodySize": value.len() });
    let get = json!({ "ID": 1, "Command": "get", "ActionID": action });
    let body = format!("\"{}\"\n", STANDARD.encode(value));
    let answer = helper(words, &format!("{put}\n{body}"))?;
    if let Some(error) = answer["Err"].as_str() {
        return Ok(Err(format!("what was put was not kept: {error}")));
    }
    let answer = helper(words, &format!("{get}\n"))?;
    let Some(path) = answer["DiskPath"].as_str() else {
        return Ok(Err("what was put is not there when another process asks for it".to_owned()));
    };
    let mut got = Vec::new();
    std::fs::File::open(path)?.take(value.len() as u64 + 1).read_to_end(&mut got)?;
    let same = got == value;
    Ok(if same {
        Ok("put by one helper and got by another")
    } else {
        Err(format!("{path} is not what was put"))
    })
}

/// What the helper answers to one request.
fn helper(words: &[String], request: &str) -> io::Result<Value> {
    let [program, args @ ..] = words else { return Err(io::ErrorKind::NotFound.into()) };
    let mut command = Command::new(program);
    command.args(args).env("POTLUCK_PROJECT", PROJECT);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let (mut to, from) = (child.stdin.take(), child.stdout.take());
    let close = "{\"ID\":2,\"Command\":\"close\"}\n";
    let lines = std::thread::scope(|scope| {
        let (told, ended) = std::sync::mpsc::channel::<()>();
        let watch = scope.spawn(move || {
            // One that says nothing must not be waited for.
            let late = ended.recv_timeout(HELPS_WITHIN) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
            if late {
                let _ = child.kill();
            }
            child.wait()
        });
        let talk = || {
            if let Some(to) = &mut to {
                to.write_all(format!("{request}{close}").as_bytes())?;
            }
            let mut lines = Vec::new();
            for line in
                BufReader::new(from.map(|from| from.take(MAX_LINE)).ok_or(io::ErrorKind::BrokenPipe)?).lines()
            {
                lines.push(line?);
            }
            Ok::<_, io::Error>(lines)
        };
        let lines = talk();
        drop(to);
        drop(told);
        let _ = watch.join();
        lines
    })?;
    let answers = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut answers = answers.filter(|answer| answer["ID"] == 1);
    answers.next().ok_or_else(|| io::Error::other("it did not answer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_as_go_does() {
        let of = |text: &str| words(text).map(|words| words.join("|"));
        assert_eq!(of("/bin/potluck gocacheprog").as_deref(), Some("/bin/potluck|gocacheprog"));
        assert_eq!(
            of(" '/my home/potluck'  --home \"it's\" x").as_deref(),
            Some("/my home/potluck|--home|it's|x")
        );
        assert_eq!((of(""), of("'open")), (Some(String::new()), None));
    }
}
