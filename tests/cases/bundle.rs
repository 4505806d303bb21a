// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck export` and `potluck import` with the built program: exit codes, answers, and what is left behind.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use potluck_tests::program::{Person, Ran};
use serde_json::Value;

fn put(person: &Person, project: &str, key: &str, bytes: &[u8]) {
    let path = person.path("file");
    fs::write(&path, bytes).unwrap();
    let path = path.display().to_string();
    person.run(["put", "--project", project, "--recipe", "test@1", "--key", key, &path]).ok();
}

fn get(person: &Person, project: &str, key: &str) -> Ran {
    let out = person.path("out").display().to_string();
    person.run(["get", "--project", project, "--recipe", "test@1", "--key", key, "--deadline", "100", &out])
}

fn json(ran: &str) -> Value {
    serde_json::from_str(ran).unwrap_or_else(|error| panic!("{error}: {ran}"))
}

fn import(person: &Person, bundle: &Path) -> Ran {
    person.run(["--json", "import", &bundle.display().to_string()])
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn a_bundle_brings_what_its_reader_believes() {
    let (ann, ben) = (Person::at_home(), Person::at_home());
    let (_ann, _ben) = (ann.up(&[]), ben.up(&[]));
    let large = noise(3_000_000);
    put(&ann, "acme/web", "00", &large);
    put(&ann, "acme/app", "01", b"small");
    put(&ann, "own", "02", b"mine");
    let bundle = ann.path("bundle");
    let file = bundle.display().to_string();
    let exported = json(&ann.run(["--json", "export", "--project", "acme/*", &file]).ok());
    assert_eq!((&exported["v"], &exported["entries"]), (&1.into(), &2.into()), "{exported}");
    assert_eq!(exported["projects"], serde_json::json!({ "acme/app": 1, "acme/web": 1 }));
    assert!(exported["bytes"] == 3_000_005 && exported["milliseconds"].is_u64());

    // Nobody is believed yet: nothing comes in, and the way is shown.
    let refused = import(&ben, &bundle);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    let report = json(refused.stdout.lines().next().unwrap());
    assert_eq!((&report["entries"]["refused"], &report["blobs"]), (&2.into(), &0.into()), "{report}");
    let key = ann.run(["key", "show", "me"]).ok();
    let hint = report["refused"][0]["hint"].as_str().unwrap();
    let bare = key.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    assert!(hint.contains(&format!("potluck trust add NAME \"{bare}\" --project acme/")), "{hint}");
    assert_eq!(get(&ben, "acme/web", "00").code, 3);

    ben.run(["trust", "add", "ann", key.trim(), "--project", "acme/*"]).ok();
    let report = json(&import(&ben, &bundle).ok());
    assert_eq!((&report["entries"]["taken"], &report["ended"]["how"]), (&2.into(), &"whole".into()));
    get(&ben, "acme/web", "00").ok();
    assert_eq!(fs::read(ben.path("out")).unwrap(), large);
    let report = json(&import(&ben, &bundle).ok());
    assert_eq!((&report["entries"]["known"], &report["blobs"]), (&2.into(), &0.into()));

    // What was cut off on the way, and what is no bundle.
    let whole = fs::read(&bundle).unwrap();
    fs::write(ben.path("cut"), &whole[..whole.len() / 2]).unwrap();
    let cut = import(&ben, &ben.path("cut"));
    assert_eq!(cut.code, 1);
    assert_eq!(json(cut.stdout.lines().next().unwrap())["ended"]["how"], "cut-off");
    fs::write(ben.path("foreign"), b"something else").unwrap();
    assert_eq!(import(&ben, &ben.path("foreign")).code, 1);
    assert_eq!(import(&ben, &ben.path("absent")).code, 1);
}

#[test]
fn bundles_flow_through_pipes() {
    let (ann, ben) = (Person::at_home(), Person::at_home());
    let (_ann, _ben) = (ann.up(&[]), ben.up(&[]));
    put(&ann, "p", "00", &noise(1_000_000));
    ben.run(["trust", "add", "ann", ann.run(["key", "show", "me"]).ok().trim(), "--project", "p"]).ok();
    let mut export =
        ann.command(["--json", "export"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let imported = ben.ran(ben.command(["--json", "import"]).stdin(export.stdout.take().unwrap()));
    let exported = export.wait_with_output().unwrap();
    assert!(exported.status.success());
    let told = json(String::from_utf8(exported.stderr).unwrap().trim());
    assert_eq!(told["entries"], 1, "the answer is where it does not disturb");
    assert_eq!(json(&imported.ok())["entries"]["taken"], 1);
}

#[test]
fn where_there_is_nothing_to_export_no_file_is_left() {
    let ann = Person::at_home();
    let _ann = ann.up(&[]);
    let folder = ann.path("to");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("bundle").display().to_string();
    assert_eq!(ann.run(["export", &file]).code, 3);
    put(&ann, "p", "00", b"bytes");
    assert_eq!(ann.run(["export", "--toolchain", "1.94", &file]).code, 3);
    assert_eq!(ann.run(["export", "--project", "p/[", &file]).code, 2);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    assert_eq!(ann.run(["export", &folder.join("no/bundle").display().to_string()]).code, 1);
    ann.run(["export", &file]).ok();
    // As other programs see it.
    let listed = std::process::Command::new("tar").args(["--zstd", "-tf", &file]).output().unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    assert!(names.starts_with("potluck-bundle\nentry/") && names.ends_with("potluck-end\n"), "{names}");
}
