// SPDX-License-Identifier: MIT OR Apache-2.0
//! sccache by WebDAV, for C and for Rust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use potluck_node::front::http::alike::sccache::{sample, whole};
use potluck_tests::program::{Person, toolchain};
use potluck_tests::tools;
use serde_json::Value;

use super::wire::{ask, blobs, connect};
use super::{Built, Tool, agree, files, outlive, program, said, share, stalled};

const UNITS: usize = 4;

struct Sccache {
    program: PathBuf,
    rust: bool,
}

/// The server of somebody's sccache, which ends with the test.
struct Server<'a> {
    tool: &'a Sccache,
    person: &'a Person,
    http: &'a str,
    folder: &'a Path,
}

impl Server<'_> {
    fn command(&self) -> Command {
        let mut command = program(self.person, &self.tool.program, self.folder);
        command.env("SCCACHE_WEBDAV_ENDPOINT", format!("http://{}/webdav", self.http));
        command
            .env("SCCACHE_WEBDAV_KEY_PREFIX", "team")
            .env("SCCACHE_SERVER_UDS", self.person.path("sccache.sock"));
        command.env("SCCACHE_BASEDIRS", self.folder).env("SCCACHE_CONF", "/dev/null");
        command
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let _ = self.command().arg("--stop-server").output();
    }
}

impl Tool for Sccache {
    const KEYS: u64 = UNITS as u64;
    const PARTS: usize = UNITS;

    fn lay(&self, folder: &Path, ends: Option<&str>) {
        for unit in 0..UNITS {
            let (name, text) = match self.rust {
                false => (format!("unit{unit}.c"), format!("int unit{unit}(void) {{ return {unit}; }}\n")),
                true => (format!("unit{unit}.rs"), format!("pub fn unit() -> u32 {{ {unit} }}\n")),
            };
            fs::write(folder.join(name), text).unwrap();
        }
        if let Some(pid) = ends {
            fs::write(folder.join("ends"), pid).unwrap();
        }
    }

    fn build(&self, person: &Person, http: &str, folder: &Path) -> Built {
        // The key of a crate holds the folder in which it is compiled: the same one for everybody, as in a container.
        let shared = std::env::temp_dir().join("potluck-tests-sccache");
        let lock = fs::File::create(shared.with_extension("lock")).unwrap();
        lock.lock().unwrap();
        let place = if self.rust { shared } else { folder.join("place") };
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(&place).unwrap();
        let files_of = |folder: &Path| fs::read_dir(folder).unwrap().map(Result::unwrap);
        for file in files_of(folder).filter(|file| file.path().is_file()) {
            fs::copy(file.path(), place.join(file.file_name())).unwrap();
        }
        let server = Server { tool: self, person, http, folder: &place };
        said(server.command().arg("--start-server"));
        for unit in 0..UNITS {
            if unit == UNITS / 2
                && let Ok(pid) = fs::read_to_string(folder.join("ends"))
            {
                said(Command::new("kill").args(["-9", &pid]));
            }
            let mut compile = server.command();
            match self.rust {
                false => {
                    compile.args(["gcc", "-c", &format!("unit{unit}.c"), "-o", &format!("unit{unit}.o")])
                }
                true => {
                    let name = format!("unit{unit}");
                    compile.arg(toolchain().join("bin/rustc"));
                    compile.args(["--crate-name", &name, "--crate-type", "rlib", "--emit", "link,dep-info"]);
                    compile.args(["--edition=2021", "--out-dir", ".", "-C", "metadata=small"]);
                    compile.args(["-C", "extra-filename=-small"]).arg(format!("{name}.rs"))
                }
            };
            said(&mut compile);
        }
        let stats = said(server.command().args(["--show-stats", "--stats-format", "json"]));
        let stats: Value = serde_json::from_str(&stats).unwrap();
        let all = |name: &str| {
            let counts = stats["stats"][name]["counts"].as_object().unwrap();
            usize::try_from(counts.values().filter_map(Value::as_u64).sum::<u64>()).unwrap()
        };
        let output =
            |unit| if self.rust { format!("libunit{unit}-small.rlib") } else { format!("unit{unit}.o") };
        let outputs = files(&place, (0..UNITS).map(output));
        // What is put after a miss is put when the compiler has ended already.
        drop(server);
        Built { hits: all("cache_hits"), made: all("cache_misses"), outputs }
    }
}

#[test]
fn objects_of_c_are_shared() {
    if let Some(program) = tools::sccache() {
        share(&Sccache { program, rust: false });
    }
}

#[test]
fn crates_are_shared() {
    if let Some(program) = tools::sccache() {
        share(&Sccache { program, rust: true });
    }
}

#[test]
fn a_build_outlives_the_daemon() {
    if let Some(program) = tools::sccache() {
        outlive(&Sccache { program, rust: false });
    }
}

#[test]
fn two_builders_agree_about_objects_of_c() {
    if let Some(program) = tools::sccache() {
        agree(&Sccache { program, rust: false });
    }
}

#[test]
fn two_builders_agree_about_crates() {
    if let Some(program) = tools::sccache() {
        agree(&Sccache { program, rust: true });
    }
}

#[test]
fn whoever_waits_for_a_peer_that_stands_still_compiles() {
    if let Some(program) = tools::sccache() {
        stalled(&Sccache { program, rust: false });
    }
}

/// The same outputs in another order, as sccache may put them there, are the same Blob; and what is no archive of its
/// comes back as it was put.
#[test]
fn the_order_of_outputs_is_not_kept() {
    let person = Person::at_home();
    let up = person.up(&[]);
    let http = &up.http();
    let large = vec![7; 3 << 20];
    let outputs: [(&str, &[u8]); 3] =
        [("unit.d", b"unit: unit.rs"), ("libunit.rlib", &large), ("stderr", b"said")];
    let mut others = outputs;
    others.reverse();
    let trip = |key: &str, body: &[u8]| {
        let path = format!("/webdav/a/b/c/{key}");
        assert_eq!(ask(&mut connect(http), &format!("PUT {path}"), &[], body).status, 201);
        let got = ask(&mut connect(http), &format!("GET {path}"), &[], b"");
        assert_eq!(got.status, 200);
        got.body
    };
    let (first, second) = (trip("1", &sample(&outputs)), trip("2", &sample(&others)));
    assert!(first == second, "the archives differ");
    assert!(Some(first) == whole(&sample(&outputs)) && !second.is_empty());
    let mut odd = sample(&outputs);
    odd.push(0);
    assert!(trip("3", &odd) == odd, "what is not understood is another thing now");
    assert!(trip("4", b"PK\x05\x06") == b"PK\x05\x06");
}

/// How it came is not kept beside how it is stored.
#[test]
fn an_archive_that_is_arranged_is_written_once() {
    let person = Person::at_home();
    let up = person.up(&[]);
    // More than lies in the index, and no smaller when it is packed.
    let mut object = vec![0; 300 << 10];
    blake3::Hasher::new().finalize_xof().fill(&mut object);
    let outputs: [(&str, &[u8]); 2] = [("unit.o", &object), ("unit.d", b"unit: unit.c")];
    let archive = sample(&outputs);
    let arranged = whole(&archive).unwrap();
    let say = |line: &str, body: &[u8]| ask(&mut connect(&up.http()), line, &[], body);
    assert_eq!(say("PUT /webdav/a/b/c/1", &archive).status, 201);
    assert_eq!(blobs(&person.home().join("store/blobs")).len(), 1);
    assert!(say("GET /webdav/a/b/c/1", b"").body == arranged);
}
