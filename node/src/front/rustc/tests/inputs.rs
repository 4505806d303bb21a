// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever a unit is made from: a change of it must be a miss, or the unit must not have been published.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::super::toolchain::{Toolchain, linker};
use super::super::{Decision, plan};
use super::{Checkout, Memory};

/// A workspace with one member, as cargo compiles it: in the workspace's folder.
fn checkout(top: &Path, name: &str, make: &dyn Fn(&mut Checkout)) -> Checkout {
    let mut checkout = Checkout::new(&top.join(name), "");
    checkout.source = "pkg/src/lib.rs".to_owned();
    checkout.env.push(("CARGO_MANIFEST_DIR", Some(checkout.folder.join("pkg").display().to_string())));
    checkout.write("pkg/Cargo.toml", "");
    checkout.write("pkg/src/lib.rs", "pub fn f() {}");
    make(&mut checkout);
    checkout
}

/// Builds one checkout, then an equal one, then an equal one with a change.
async fn changed(what: &str, make: &dyn Fn(&mut Checkout), change: &dyn Fn(&mut Checkout)) {
    let folder = tempfile::tempdir().unwrap();
    let door = Memory::default();
    let line = checkout(folder.path(), "a", make).build(&door).await;
    assert_eq!(line["published"], true, "{what}: {line}");
    let line = checkout(folder.path(), "b", make).build(&door).await;
    assert_eq!(line["outcome"], "restored", "{what}: an equal one: {line}");
    let mut other = checkout(folder.path(), "c", make);
    change(&mut other);
    let line = other.build(&door).await;
    assert_eq!(line["outcome"], "compiled", "{what}: {line}");
}

#[tokio::test]
async fn a_file_that_is_read_counts_wherever_it_lies() {
    let code = |text: &'static str| move |one: &mut Checkout| one.write("pkg/src/lib.rs", text);
    let with = |text: &'static str, name: &'static str, before: &'static str| {
        move |one: &mut Checkout| {
            code(text)(one);
            one.write(name, before);
        }
    };
    let inside = with("pub const X: &str = include_str!(\"data.txt\");", "pkg/src/data.txt", "one");
    changed("inside", &inside, &|one| one.write("pkg/src/data.txt", "two")).await;
    let outside = with("pub const X: &str = include_str!(\"../../data.txt\");", "data.txt", "one");
    changed("outside", &outside, &|one| one.write("data.txt", "two")).await;
    let module = with("#[path = \"../../beyond.rs\"] pub mod beyond;", "beyond.rs", "pub fn f() {}");
    changed("module", &module, &|one| one.write("beyond.rs", "pub fn g() {}")).await;
    let macros = with("pub const MIGRATIONS: &str = \"../migrations\";", "migrations/1.sql", "one");
    changed("a folder for macros", &macros, &|one| one.write("migrations/2.sql", "two")).await;
    let plain = code("pub fn f() {}");
    changed("the workspace's manifest", &plain, &|one| one.write("Cargo.toml", "two")).await;
    changed("added", &plain, &|one| one.write("pkg/templates/new.html", "x")).await;
    changed("edited with an old time", &plain, &|one| {
        one.write("pkg/src/lib.rs", "pub fn g() {}");
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs::File::options()
            .write(true)
            .open(one.folder.join("pkg/src/lib.rs"))
            .unwrap()
            .set_modified(old)
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn variables_flags_and_generated_code_count() {
    let set = |name: &'static str, value: &'static str| {
        move |one: &mut Checkout| one.env.push((name, Some(value.to_owned())))
    };
    let text = |text: &'static str| move |one: &mut Checkout| one.write("pkg/src/lib.rs", text);
    let make = |one: &mut Checkout| {
        text("pub const X: &str = env!(\"POTLUCK_TEST\");")(one);
        set("POTLUCK_TEST", "one")(one);
    };
    changed("env", &make, &set("POTLUCK_TEST", "two")).await;
    let make = text("pub const X: Option<&str> = option_env!(\"POTLUCK_TEST\");");
    changed("option_env", &make, &set("POTLUCK_TEST", "")).await;
    let plain = text("pub fn f() {}");
    changed("version", &plain, &set("CARGO_PKG_VERSION", "2.0.0")).await;
    let cfg =
        |cfg: &'static str| move |one: &mut Checkout| one.args.extend(["--cfg".to_owned(), cfg.to_owned()]);
    changed("feature", &plain, &cfg("feature=\"x\"")).await;
    changed("cfg", &plain, &cfg("tokio_unstable")).await;
    let generated = |one: &mut Checkout| {
        text("include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\"));")(one);
        one.write("target/debug/build/app-1/out/made.rs", "pub fn f() {}");
        one.env
            .push(("OUT_DIR", Some(one.folder.join("target/debug/build/app-1/out").display().to_string())));
    };
    changed("generated", &generated, &|one| {
        one.write("target/debug/build/app-1/out/made.rs", "pub fn g() {}");
    })
    .await;
}

/// A macro compiled beside the checkout, whose content follows from `value`.
fn make_macro(one: &Checkout, value: &str) -> String {
    let source = one.folder.join("target/tag.rs");
    let code = format!(
        "use proc_macro::TokenStream; #[proc_macro] pub fn tag(_: TokenStream) -> TokenStream {{ \
         \"{value}\".parse().unwrap() }}"
    );
    fs::write(&source, code).unwrap();
    let made = one.output("libtag-0123456789abcdef.so");
    let mut rustc = Command::new("rustc");
    rustc.args([
        "--extern",
        "proc_macro",
        "--crate-name=tag",
        "--crate-type=proc-macro",
        "--edition=2021",
        "-Cmetadata=1",
    ]);
    // Its own paths would make two of the same differ.
    rustc.arg(format!("--remap-path-prefix={}=/x", one.folder.display()));
    assert!(rustc.arg("-o").arg(&made).arg(&source).status().unwrap().success());
    made.display().to_string()
}

#[tokio::test]
async fn libraries_count_by_name_and_content() {
    let with = |name: &'static str, value: &'static str| {
        move |one: &mut Checkout| {
            let made = make_macro(one, value);
            one.args.extend(["--extern".to_owned(), format!("{name}={made}")]);
        }
    };
    changed("macro", &with("tag", "1"), &|one| drop(make_macro(one, "2"))).await;
    changed("renamed", &with("tag", "1"), &|one| {
        one.args.pop();
        one.args.push(format!("other={}", one.output("libtag-0123456789abcdef.so").display()));
    })
    .await;
    let native = |one: &mut Checkout| {
        one.write("../native/libz.a", archive("one"));
        let folder = one.folder.join("../native").display().to_string();
        one.args.extend(["-L".to_owned(), format!("native={folder}"), "-lstatic=z".to_owned()]);
    };
    changed("native", &native, &|one| one.write("../native/libz.a", archive("two"))).await;
}

/// An archive with one member.
fn archive(text: &str) -> String {
    format!("!<arch>\n{:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n{text}\n", "x/", 0, 0, 0, 644, text.len() + 1)
}

#[tokio::test]
async fn a_library_outside_that_the_source_binds_is_not_cached() {
    let folder = tempfile::tempdir().unwrap();
    let one = checkout(folder.path(), "a", &|one| {
        one.write("pkg/src/lib.rs", "#[link(name = \"z\", kind = \"static\")] extern \"C\" {}");
        one.write("../native/libz.a", archive("one"));
        one.args.extend(["-L".to_owned(), format!("native={}", one.folder.join("../native").display())]);
    });
    // It becomes the compiler there, which a test cannot see the end of.
    let call = one.call();
    let Decision::Cacheable(placed) = plan(&call) else { panic!() };
    let mut inputs = super::super::key::Inputs::default();
    let mut sources = super::super::sources::Sources::gather(&call, &placed, &[]).unwrap();
    assert!(sources.links);
    let error = super::super::externs::gather(&call, &placed, &sources, &mut inputs).unwrap_err();
    assert!(error.to_string().contains("may be linked"), "{error}");
    sources.links = false;
    super::super::externs::gather(&call, &placed, &sources, &mut inputs).unwrap();
}

#[tokio::test]
async fn what_depends_on_where_it_lies_is_not_published() {
    let folder = tempfile::tempdir().unwrap();
    let door = Memory::default();
    let home = "/potluck-test/somebody";
    for (name, code, reason) in [
        (
            "value",
            "pub const X: &str = env!(\"CARGO_MANIFEST_DIR\");",
            "it may depend on the value of CARGO_MANIFEST_DIR",
        ),
        (
            "length",
            "pub const X: usize = env!(\"CARGO_MANIFEST_DIR\").len();",
            "it may depend on the value of",
        ),
        (
            "said",
            "fn unused() { let _path = \"/potluck-test/somebody/x\"; }",
            "the home folder is named in stderr",
        ),
    ] {
        let line = checkout(folder.path(), name, &|one| {
            one.write("pkg/src/lib.rs", code);
            one.env.push(("HOME", Some(home.to_owned())));
        })
        .build(&door)
        .await;
        assert_eq!(line["published"], false, "{name}: {line}");
        assert!(line["reason"].as_str().unwrap().contains(reason), "{name}: {line}");
    }
    let fine = "pub const X: &str = include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/src/lib.rs\"));";
    let line = checkout(folder.path(), "fine", &|one| one.write("pkg/src/lib.rs", fine)).build(&door).await;
    assert_eq!(line["published"], true, "a folder that only finds a file: {line}");
}

#[tokio::test]
async fn what_a_package_says_about_a_home_is_no_leak_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let said = "/// As in `/somebody/x`.\npub fn f() {}";
    let made = "pub const X: &str = concat!(\"/some\", \"body/x\");";
    let registry = "registry/src/index";
    for (place, name, code, home, published) in [
        (registry, "said", said, "/somebody", true),
        ("work", "said", said, "/somebody", false),
        (registry, "made", made, "/somebody", false),
        (registry, "long", "/// As in `/homes/somebody/x`.\npub fn f() {}", "/homes/somebody", false),
    ] {
        let mut one = Checkout::new(&folder.path().join(place).join(name), code);
        one.env.push(("HOME", Some(home.to_owned())));
        one.env.push(("CARGO_HOME", Some(folder.path().display().to_string())));
        let line = one.build(&Memory::default()).await;
        assert_eq!(line["published"], published, "{place} {name}: {line}");
        let named = line["reason"].as_str().is_some_and(|reason| reason.contains("the home folder is named"));
        assert_eq!(named, !published, "{place} {name}: {line}");
    }
}

#[tokio::test]
async fn what_is_changed_while_it_is_compiled_is_not_published() {
    let folder = tempfile::tempdir().unwrap();
    for (name, new) in [("template.html", "two"), ("another.html", "new")] {
        let door = Memory::default();
        let one = checkout(folder.path(), name, &|one| {
            one.write("pkg/src/lib.rs", "pub fn f() {}");
            one.write("pkg/template.html", "one");
        });
        let path = one.folder.join("pkg").join(name);
        door.0.lock().unwrap().meanwhile = Some(Box::new(move || {
            let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
            fs::write(&path, new).unwrap();
            if let Ok(modified) = modified {
                // Neither its size nor its time tells.
                fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
            }
        }));
        let line = one.build(&door).await;
        assert_eq!(line["published"], false, "{name}: {line}");
        assert!(line["reason"].as_str().unwrap().contains("was changed while it was compiled"), "{line}");
    }
}

#[tokio::test]
async fn a_checkout_behind_a_link_shares_with_others() {
    let folder = tempfile::tempdir().unwrap();
    let door = Memory::default();
    let make = |one: &mut Checkout| one.write("pkg/src/lib.rs", super::CODE);
    checkout(folder.path(), "a", &make).build(&door).await;
    fs::create_dir(folder.path().join("b")).unwrap();
    std::os::unix::fs::symlink("b", folder.path().join("link")).unwrap();
    let linked = checkout(folder.path(), "link", &make);
    assert_eq!(linked.build(&door).await["outcome"], "restored");
    assert!(String::from_utf8(linked.read("app-1.d")).unwrap().contains("/link/target/debug/deps/"));
}

/// cargo names the sources of a path dependency outside of the workspace by their absolute paths.
#[tokio::test]
async fn diagnostics_name_the_real_folder_and_are_stored_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let door = Memory::default();
    let absolute = |one: &mut Checkout| {
        one.write("pkg/src/lib.rs", super::CODE);
        one.source = one.folder.join("pkg/src/lib.rs").display().to_string();
    };
    assert_eq!(checkout(folder.path(), "a", &absolute).build(&door).await["published"], true);
    let held = door.0.lock().unwrap().blobs.values().cloned().collect::<Vec<_>>();
    let texts: Vec<_> = held.iter().filter_map(|blob| str::from_utf8(blob).ok()).collect();
    let warned = texts.iter().find(|text| text.contains("never used")).unwrap();
    assert!(warned.contains("@potluck:workspace@/pkg/src/lib.rs"), "{warned}");
    assert!(!warned.contains("/potluck/workspace"), "{warned}");
    assert_eq!(checkout(folder.path(), "b", &absolute).build(&door).await["outcome"], "restored");
}

#[test]
fn a_compiler_is_known_through_rustup_and_unknown_behind_a_script() {
    let folder = tempfile::tempdir().unwrap();
    let one = checkout(folder.path(), "a", &|_| {});
    let mut call = one.call();
    let Decision::Cacheable(placed) = plan(&call) else { panic!() };
    call.args[0] = "rustc".into();
    let known = Toolchain::identify(&call, &placed.unit).unwrap();
    assert!(known.version.starts_with("rustc ") && !known.host().is_empty(), "{known:?}");
    call.args[0] = known.sysroot.join("bin/rustc").into();
    assert_eq!(Toolchain::identify(&call, &placed.unit).unwrap().identity, known.identity);
    let script = one.folder.join("target/rustc");
    fs::write(&script, "#!/bin/sh\nexec rustc --cfg more \"$@\"\n").unwrap();
    Command::new("chmod").arg("+x").arg(&script).status().unwrap();
    call.args[0] = script.into();
    let error = Toolchain::identify(&call, &placed.unit).unwrap_err();
    assert!(error.to_string().contains("in place of the compiler"), "{error}");
    // Nowhere to remember it: it must not be hashed anew for each unit.
    call.args[0] = "rustc".into();
    call.toolchains = one.folder.join("Cargo.toml");
    assert!(Toolchain::identify(&call, &placed.unit).is_err());
    call.toolchains = one.folder.join("target/remembered");
    let (name, _) = (Toolchain::identify(&call, &placed.unit).unwrap(), ());
    assert_eq!(name.identity, known.identity);
    for entry in fs::read_dir(&call.toolchains).unwrap() {
        fs::write(entry.unwrap().path(), "damaged\n{}").unwrap();
    }
    assert_eq!(Toolchain::identify(&call, &placed.unit).unwrap().identity, known.identity);
}

#[cfg(target_os = "linux")]
#[test]
fn a_linker_counts_by_content_and_a_script_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let one = checkout(folder.path(), "a", &|_| {});
    let mut call = one.call();
    let Decision::Cacheable(placed) = plan(&call) else { panic!() };
    let host = Toolchain::identify(&call, &placed.unit).unwrap().host().to_owned();
    let known = linker(&call, &placed.unit, &host).unwrap();
    let path = call.var("PATH").unwrap().to_owned();
    let real =
        path.split(':').map(|folder| Path::new(folder).join("cc")).find(|file| file.is_file()).unwrap();
    let mut bytes = fs::read(fs::canonicalize(real).unwrap()).unwrap();
    let own = one.folder.join("target/bin");
    one.write("target/bin/cc", "not to be run");
    call.env.insert("PATH".into(), format!("{}:{path}", own.display()).into());
    assert_eq!(linker(&call, &placed.unit, &host).unwrap(), known, "what cannot be run is passed over");
    bytes.push(0);
    one.write("target/bin/cc", bytes);
    Command::new("chmod").arg("+x").arg(own.join("cc")).status().unwrap();
    assert_ne!(linker(&call, &placed.unit, &host).unwrap(), known);
    one.write("target/bin/cc", "#!/bin/sh\n");
    assert!(linker(&call, &placed.unit, &host).is_err());
    call.env.insert("PATH".into(), path.into());
    call.env.insert("LD_RUN_PATH".into(), "/x".into());
    assert_ne!(linker(&call, &placed.unit, &host).unwrap(), known);
}
