// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line as people and scripts meet it: what is printed, the exit codes, and OpenSSH's view of our files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use potluck_keys::pair::Pair;
use potluck_keys::signed::{Claim, Signed};
use potluck_keys::standing::Succession;
use potluck_keys::time::Time;
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{BlobOutput, Entry, Labels, Output};
use potluck_tests::program::Person;
use snapbox::{assert_data_eq, str};

const NOW: Time = Time::from_millis(1_795_240_800_000);

fn line(pair: &Pair) -> String {
    pair.public().to_openssh(pair.comment())
}

fn pair(seed: u8, name: &str) -> Pair {
    Pair::from_seed(&[seed; 32], name)
}

fn entry(output: &str) -> Entry {
    Entry {
        project: Project::new("acme/web").unwrap(),
        recipe: Recipe::new("rustc@1").unwrap(),
        action: ActionId::from_bytes([7; 32]),
        output: Output::Blob(BlobOutput { digest: Digest::of(output.as_bytes()), size: output.len() as u64 }),
        labels: Labels::default(),
        taints: Vec::new(),
        issued: NOW,
        not_after: NOW.plus(std::time::Duration::from_secs(86_400)),
        replaces: None,
    }
}

fn write<T: Claim>(person: &Person, name: &str, claim: &Signed<T>) {
    fs::write(person.path(name), claim.bytes()).unwrap();
}

fn check(person: &Person, files: &[&str], at: &str) -> potluck_tests::program::Ran {
    person.run(["trust", "check", "--at", at].iter().chain(files))
}

const SAME_DAY: &str = "2026-11-21T07:00:00Z";

fn ssh_keygen(args: &[&str]) -> String {
    let output = Command::new("ssh-keygen").args(args).output().expect("ssh-keygen is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_shows_a_newcomer_the_way() {
    assert_data_eq!(
        Person::new().run(["--help"]).ok(),
        str![[r#"
A peer-to-peer build cache: everyone brings what they have built, and eats only what trusted cooks
have made

Usage: potluck [OPTIONS] <COMMAND>

First steps:
  potluck demo                                     see it work, on this machine alone
  potluck init                                     make this node's folder and its key
  potluck up                                       start the daemon
  potluck setup cargo                              have cargo build through it, here and elsewhere
  potluck trust add ann "ssh-ed25519 AAAA… ann" --project 'acme/*'

Start here:
  demo          See it work: one developer builds, another one builds from what she made, a third one is refused
  init          Make this node's folder: settings, an empty list of whom to believe, and the key `me`
  up            Start the daemon that serves the build tools on this machine; returns when it is ready
  down          End the daemon
  status        Show what the daemon does: networks, peers, catalogs, hits and misses, what was refused and why
  why           Explain a look-up: where it was looked for, who was asked, what was refused and by which rule

Whom to believe:
  trust         Say whom you believe, in which projects, and see what follows from it
  key           Make, list, show, import and revoke the keys that sign what you publish
  audit         Go through all claims: who contradicts himself, who contradicts others, and what is doubted

Whom to share with:
  network       Make a Network, invite others to it, or join one
  share         Share a Project on a Network: what is built in it may go there, and is looked for there
  unshare       Share a Project no longer; what others have fetched already stays with them

By hand:
  put           Store a file or a folder, and claim that it is what a key gave
  get           Bring the file or folder that a key gave, from here or from whom you trust
  export        Write what you believe, and have, into one file, for machines that no network reaches
  import        Take what you believe from a file that `export` made; everything else in it is left alone

What is kept:
  gc            Make room in the store: what was not used for longest goes first, the sooner the faster it is made again
  pin           Keep something however full the store is: a file or a folder with all that is in it
  verify        Read all that is stored and check it; what is damaged is put aside, and fetched again from whom you trust

Your tools:
  setup         Wire a tool up so that it uses this node, or take that back
  doctor        Say whether the node, or a tool with it, works as it should; and if not, what to do
  cargo         See what became of the last build, what spoils sharing, and whether it is right; build for others
  gocacheprog   Answer go on standard input and output; `potluck setup go` has go start it
  nx            Run a command of Nx so that it does not fail when the daemon ends: `potluck nx npx nx run-many -t build`

For your shell:
  completions   Print completions for a shell
  man           Print the manual page, or write one for each verb

Options:
      --home <DIR>  The node's folder [default: the platform's data folder] [env: POTLUCK_HOME]
      --json        Print one JSON object a line, for scripts
  -q, --quiet       Say less
  -h, --help        Print help
  -V, --version     Print version

Exit codes:
  0  done
  1  failed
  2  the command line makes no sense
  3  what was asked for is not there: a miss
  4  refused by the policy
  5  the daemon cannot be reached

"#]]
    );
}

#[test]
fn init_makes_a_private_home_once() {
    let person = Person::new();
    assert_data_eq!(
        person.run(["init"]).ok(),
        str![[r#"
Made a home at [HERE]/home

"#]]
    );
    assert_data_eq!(
        person.run(["init"]).ok(),
        str![[r#"
There is a home at [HERE]/home already; nothing was changed.

"#]]
    );
    for (path, mode) in
        [("home", 0o700), ("home/keys", 0o700), ("home/keys/me", 0o600), ("home/trust.toml", 0o600)]
    {
        assert_eq!(fs::metadata(person.path(path)).unwrap().permissions().mode() & 0o777, mode, "{path}");
    }
    let shown = person.run(["key", "show", "me"]).ok();
    assert!(shown.starts_with("ssh-ed25519 AAAA") && shown.lines().count() == 1, "{shown}");
    assert_data_eq!(
        person.run(["trust", "list"]).stderr,
        str![[r#"
There are no rules, so nobody is believed. Add one: potluck trust add NAME KEY --project GLOB

"#]]
    );
}

#[test]
fn without_a_home_the_way_to_one_is_shown() {
    let ran = Person::new().run(["key", "list"]);
    assert_eq!(ran.code, 1);
    assert_data_eq!(
        ran.stderr,
        str![[r#"
error: there is no potluck home at [HERE]/home
hint: `potluck init` makes one

"#]]
    );
}

#[test]
fn a_missing_word_and_an_unknown_one_are_usage_errors() {
    for args in [&[][..], &["cook"], &["key"], &["trust", "add", "ann"], &["init", "--jsonn"]] {
        assert_eq!(Person::new().run(args).code, 2, "{args:?}");
    }
}

#[test]
fn openssh_reads_the_keys_we_make() {
    let person = Person::at_home();
    let made = person.run(["key", "new", "alice"]).ok();
    let file = person.path("home/keys/alice").display().to_string();
    assert_eq!(ssh_keygen(&["-y", "-f", &file]), made);
    let listed = ssh_keygen(&["-l", "-f", &file]);
    assert_eq!(ssh_keygen(&["-l", "-f", &format!("{file}.pub")]), listed);
    assert!(listed.starts_with("256 SHA256:") && listed.ends_with(" alice (ED25519)\n"), "{listed}");
    let mut protected = person.command(["key", "new", "locked", "--protect"]);
    let made = person.ran(protected.env("POTLUCK_PASSPHRASE", "correct horse")).ok();
    let file = person.path("home/keys/locked").display().to_string();
    assert_eq!(ssh_keygen(&["-y", "-P", "correct horse", "-f", &file]), made);
}

#[test]
fn keys_that_openssh_makes_are_taken_over() {
    let person = Person::at_home();
    for (name, passphrase) in [("plain", ""), ("locked", "secret")] {
        let file = person.path(name).display().to_string();
        ssh_keygen(&["-q", "-t", "ed25519", "-N", passphrase, "-C", name, "-f", &file]);
        let mut import = person.command(["key", "import", name]);
        let shown = person.ran(import.env("POTLUCK_PASSPHRASE", passphrase)).ok();
        assert_eq!(shown, fs::read_to_string(person.path(&format!("{name}.pub"))).unwrap());
        let (theirs, ours) =
            (fs::read(&file).unwrap(), fs::read(person.path("home/keys").join(name)).unwrap());
        assert_eq!(theirs, ours, "the file is taken over as it is");
    }
    let mut again = person.command(["key", "import", "locked", "other"]);
    assert_data_eq!(
        person.ran(again.env("POTLUCK_PASSPHRASE", "wrong")).stderr,
        str![[r#"
error: locked: the passphrase is wrong
hint: try again with the right one

"#]]
    );
    assert_data_eq!(
        person.run(["key", "import", "locked", "other"]).stderr,
        str![[r#"
error: locked: the key is protected by a passphrase
hint: run it on a terminal, or set POTLUCK_PASSPHRASE

"#]]
    );
    let file = person.path("ecdsa").display().to_string();
    ssh_keygen(&["-q", "-t", "ecdsa", "-N", "", "-f", &file]);
    let ran = person.run(["key", "import", "ecdsa"]);
    assert_eq!(ran.code, 1);
    assert_data_eq!(
        ran.stderr,
        str![[r#"
error: ecdsa: this is not an OpenSSH key: unknown algorithm
hint: give an OpenSSH private key of type ed25519

"#]]
    );
}

#[test]
fn key_files_that_others_can_read_are_refused() {
    let person = Person::at_home();
    fs::set_permissions(person.path("home/keys/me"), fs::Permissions::from_mode(0o644)).unwrap();
    let ran = person.run(["key", "show", "me"]);
    assert_eq!(ran.code, 1);
    assert_data_eq!(
        ran.stderr,
        str![[r#"
error: [HERE]/home/keys/me can be used by others than its owner (mode 0644)
hint: chmod 600 [HERE]/home/keys/me

"#]]
    );
}

#[test]
fn a_key_that_is_not_there_is_not_found() {
    let ran = Person::at_home().run(["key", "show", "nobody", "--json"]);
    assert_eq!(ran.code, 3);
    assert_data_eq!(
        ran.stdout,
        str![[r#"
{"v":1,"error":{"kind":"not-found","message":"there is no key /"nobody/" in [HERE]/home/keys","hints":["`potluck key list` shows the keys there are"]}}

"#]]
    );
}

#[test]
fn trust_is_added_listed_and_removed() {
    let person = Person::at_home();
    let ann = line(&pair(1, "ann@acme"));
    assert_data_eq!(
        person.run(["trust", "add", "ann", &ann, "--project", "acme/*"]).ok(),
        str![[r#"
ann (SHA256:fe85JkIjo8VPe+XqXJGH5Mau1EMFdK1OdKvJUFicyA8) is now believed in acme/*

"#]]
    );
    assert_data_eq!(
        person.run(["trust", "add", "ann", &ann, "--project", "acme/*"]).ok(),
        str![[r#"
ann was believed in acme/* already

"#]]
    );
    fs::write(person.path("bob.pub"), line(&pair(2, "bob@acme"))).unwrap();
    let add = ["trust", "add", "bob", "bob.pub", "--project", "*", "--recipe", "rustc@*"];
    assert_data_eq!(
        person.run(add).ok(),
        str![[r#"
bob (SHA256:4A9jyZBOhnKZvcGQ6TRFbf5Gymb41AfYvYaVmWHD+G4) is now believed in *, recipe rustc@*

"#]]
    );
    assert_data_eq!(
        person.run(["trust", "list"]).ok(),
        str![[r#"
signer ann  SHA256:fe85JkIjo8VPe+XqXJGH5Mau1EMFdK1OdKvJUFicyA8  ([HERE]/home/trust.toml:20)
signer bob  SHA256:4A9jyZBOhnKZvcGQ6TRFbf5Gymb41AfYvYaVmWHD+G4  ([HERE]/home/trust.toml:27)
rule   acme/*  accepts ann  ([HERE]/home/trust.toml:23)
rule   *  accepts bob, recipe rustc@*  ([HERE]/home/trust.toml:30)

"#]]
    );
    assert_data_eq!(
        person.run(["trust", "list", "--json"]).ok(),
        str![[r#"
{"v":1,"signer":"ann","fingerprint":"SHA256:fe85JkIjo8VPe+XqXJGH5Mau1EMFdK1OdKvJUFicyA8","public":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c ann","at":"[HERE]/home/trust.toml:20"}
{"v":1,"signer":"bob","fingerprint":"SHA256:4A9jyZBOhnKZvcGQ6TRFbf5Gymb41AfYvYaVmWHD+G4","public":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU bob","at":"[HERE]/home/trust.toml:27"}
{"v":1,"rule":"acme/*","recipe":"*","accept":["ann"],"agree":1,"max_age_s":null,"taints":"refuse","strict":false,"rotate":false,"authority":[],"keep_older":false,"at":"[HERE]/home/trust.toml:23"}
{"v":1,"rule":"*","recipe":"rustc@*","accept":["bob"],"agree":1,"max_age_s":null,"taints":"refuse","strict":false,"rotate":false,"authority":[],"keep_older":false,"at":"[HERE]/home/trust.toml:30"}

"#]]
    );
    assert_data_eq!(
        person.run(["trust", "remove", "ann"]).ok(),
        str![[r#"
ann is no longer believed

"#]]
    );
    let ran = person.run(["trust", "remove", "ann"]);
    assert_eq!(ran.code, 3);
    assert_data_eq!(
        ran.stderr,
        str![[r#"
error: there is no signer "ann" in [HERE]/home/trust.toml
hint: `potluck trust list` shows the signers and where they stand

"#]]
    );
}

#[test]
fn what_cannot_be_believed_is_refused_and_nothing_is_written() {
    let person = Person::at_home();
    let ann = line(&pair(1, "ann"));
    person.run(["trust", "add", "ann", &ann, "--project", "acme/*"]).ok();
    let before = fs::read(person.path("home/trust.toml")).unwrap();
    let other = line(&pair(2, "other"));
    for (args, code) in [
        (["bob", "ssh-ed25519 AAAA", "a"], 2),
        (["bob", "no-such-file", "a"], 2),
        (["bob", ann.as_str(), "a"], 1),
        (["ann", other.as_str(), "a"], 1),
        (["bob", other.as_str(), "Acme"], 1),
        (["BOB", other.as_str(), "a"], 1),
    ] {
        let ran = person.run(["trust", "add", args[0], args[1], "--project", args[2]]);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
        assert!(
            ran.stderr.starts_with("error: ") && ran.stderr.contains("\nhint: "),
            "{args:?}: {}",
            ran.stderr
        );
        assert_eq!(fs::read(person.path("home/trust.toml")).unwrap(), before, "{args:?}");
    }
}

#[test]
fn a_rules_file_that_makes_no_sense_names_the_line_and_the_fix() {
    let person = Person::at_home();
    let text = "[signer.ci]\nkey = \"ssh-ed25519 AAAA\"\n";
    fs::write(person.path("home/trust.toml"), text).unwrap();
    let ran = person.run(["trust", "list"]);
    assert_eq!(ran.code, 1);
    assert_data_eq!(
        ran.stderr,
        str![[r#"
error: [HERE]/home/trust.toml:2: the key of "ci" cannot be used: this is not an OpenSSH key: Base64 encoding error: invalid Base64 length
hint: give the line that `potluck key show` or `ssh-keygen -y` prints: ssh-ed25519 AAAA… comment

"#]]
    );
    fs::write(person.path("home/trust.toml"), "[[rule]]\nproject = \"a\"\naccept = [\"ci\"]\n").unwrap();
    assert_data_eq!(
        person.run(["trust", "list"]).stderr,
        str![[r#"
error: [HERE]/home/trust.toml:3: there is no signer "ci"
hint: add `[signer.ci]` with its key, or correct the name

"#]]
    );
}

#[test]
fn check_says_which_rule_accepts_or_refuses_and_why() {
    let person = Person::at_home();
    let (ann, mallory) = (pair(1, "ann"), pair(9, "mallory"));
    write(&person, "ann.cose", &Signed::sign(&entry("x"), &[&ann]).unwrap());
    write(&person, "mallory.cose", &Signed::sign(&entry("y"), &[&mallory]).unwrap());
    assert_eq!(check(&person, &["ann.cose"], SAME_DAY).code, 4);
    assert_data_eq!(
        check(&person, &["ann.cose"], SAME_DAY).stdout,
        str![[r#"
refused: no rule covers the project acme/web and the recipe rustc@1

"#]]
    );
    person.run(["trust", "add", "ann", &line(&ann), "--project", "acme/*"]).ok();
    assert_data_eq!(
        check(&person, &["ann.cose"], SAME_DAY).ok(),
        str![[r#"
accepted by the rule at [HERE]/home/trust.toml:23, signed by ann

"#]]
    );
    assert_data_eq!(
        check(&person, &["mallory.cose"], SAME_DAY).stdout,
        str![[r#"
refused: signed by SHA256:doxiASlJnKSD9j+JpVoWpfEFHjUrsF9ZYr+cir4FYjo, of whom no rule has heard

"#]]
    );
    let late = check(&person, &["ann.cose"], "2026-11-23T00:00:00Z");
    assert_eq!(late.code, 4);
    assert_data_eq!(
        late.stdout,
        str![[r#"
refused by the rule at [HERE]/home/trust.toml:23: it expired at 2026-11-22T06:00:00Z

"#]]
    );
    let json = person.run(["trust", "check", "--json", "--at", SAME_DAY, "mallory.cose"]);
    assert_eq!(json.code, 4);
    assert_data_eq!(
        json.stdout,
        str![[r#"
{"v":1,"accepted":false,"reason":"unknown-signer","message":"signed by SHA256:doxiASlJnKSD9j+JpVoWpfEFHjUrsF9ZYr+cir4FYjo, of whom no rule has heard","hint":"to believe them: potluck trust add NAME /"ssh-ed25519 …/" --project GLOB","rule":null}

"#]]
    );
    fs::write(person.path("noise"), "noise").unwrap();
    let noise = check(&person, &["noise"], SAME_DAY);
    assert_eq!(noise.code, 1);
    assert_data_eq!(
        noise.stderr,
        str![[r#"
error: noise: the signed claim is malformed: expected a tag (at byte 0)
hint: give files with one signed entry or head each

"#]]
    );
}

#[test]
fn check_takes_several_files_as_votes() {
    let person = Person::at_home();
    let (ann, bob) = (pair(1, "ann"), pair(2, "bob"));
    let rules = format!(
        "[signer.ann]\nkey = \"{}\"\n[signer.bob]\nkey = \"{}\"\n\
         [[rule]]\nproject = \"acme/*\"\naccept = [\"ann\", \"bob\"]\nagree = 2\n",
        line(&ann),
        line(&bob)
    );
    fs::write(person.path("home/trust.toml"), rules).unwrap();
    write(&person, "ann.cose", &Signed::sign(&entry("x"), &[&ann]).unwrap());
    write(&person, "bob.cose", &Signed::sign(&entry("x"), &[&bob]).unwrap());
    let one = check(&person, &["ann.cose"], SAME_DAY);
    assert_eq!(one.code, 4);
    assert_data_eq!(
        one.stdout,
        str![[r#"
refused by the rule at [HERE]/home/trust.toml:5: 1 of the accepted signers name this output, 2 must

"#]]
    );
    assert_data_eq!(
        check(&person, &["ann.cose", "bob.cose"], SAME_DAY).ok(),
        str![[r#"
accepted by the rule at [HERE]/home/trust.toml:5, signed by ann, bob

"#]]
    );
}

#[test]
fn a_revocation_that_is_sent_around_counts() {
    let (ann, ben) = (Person::at_home(), Person::at_home());
    let key = ann.run(["key", "show", "me"]).ok();
    ben.run(["trust", "add", "ann", key.trim(), "--project", "*"]).ok();
    let text = fs::read(ann.path("home/keys/me")).unwrap();
    write(
        &ben,
        "claim",
        &Signed::sign(&entry("x"), &[&Pair::from_openssh(&text, || None).unwrap()]).unwrap(),
    );
    check(&ben, &["claim"], SAME_DAY).ok();
    let out = ben.path("revocation").display().to_string();
    let revoke =
        ["key", "revoke", "me", "--at", "2026-11-21T06:30:00Z", "--reason", "lost laptop", "--out", &out];
    assert_data_eq!(
        ann.run(revoke).ok(),
        str![[r#"
Revoked me as of 2026-11-21T06:30:00Z

"#]]
    );
    ben.run(["key", "import", "revocation"]).ok();
    let refused = check(&ben, &["claim"], SAME_DAY);
    assert_eq!(refused.code, 4);
    assert_data_eq!(
        refused.stdout,
        str![[r#"
refused by the rule at [HERE]/home/trust.toml:23: the key of ann was revoked as of 2026-11-21T06:30:00Z by ann

"#]]
    );
    // A damaged copy does not count, and is said not to.
    let claims = ben.path("home/keys/claims");
    let file = fs::read_dir(&claims).unwrap().next().unwrap().unwrap().path();
    fs::write(&file, "damaged").unwrap();
    let accepted = check(&ben, &["claim"], SAME_DAY);
    assert!(
        accepted.stderr.starts_with("warning: a claim about a key does not count"),
        "{}",
        accepted.stderr
    );
}

#[test]
fn a_successor_takes_over_where_the_rule_allows_it() {
    let (ann, ben) = (Person::at_home(), Person::at_home());
    let key = ann.run(["key", "show", "me"]).ok();
    ben.run(["trust", "add", "ann", key.trim(), "--project", "*"]).ok();
    ann.run(["key", "new", "next", "--succeeds", "me"]).ok();
    let succession = fs::read_dir(ann.path("home/keys/claims")).unwrap().next().unwrap().unwrap().path();
    let claim = Signed::<Succession>::decode(&fs::read(&succession).unwrap()).unwrap();
    assert_eq!(claim.authentic().unwrap().old.to_string(), {
        let json = ann.run(["key", "show", "me", "--json"]).ok();
        serde_json::from_str::<serde_json::Value>(&json).unwrap()["fingerprint"].as_str().unwrap().to_owned()
    });
    ben.run(["key", "import", &succession.display().to_string()]).ok();
    let text = fs::read(ann.path("home/keys/next")).unwrap();
    write(
        &ben,
        "claim",
        &Signed::sign(&entry("x"), &[&Pair::from_openssh(&text, || None).unwrap()]).unwrap(),
    );
    assert_eq!(check(&ben, &["claim"], SAME_DAY).code, 4, "the rule does not say rotate = true");
    let rules = fs::read_to_string(ben.path("home/trust.toml")).unwrap();
    fs::write(ben.path("home/trust.toml"), format!("{rules}rotate = true\n")).unwrap();
    assert_data_eq!(
        check(&ben, &["claim"], SAME_DAY).ok(),
        str![[r#"
accepted by the rule at [HERE]/home/trust.toml:23, signed by ann

"#]]
    );
}

#[test]
fn shells_and_manuals_know_every_verb() {
    let person = Person::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = person.run(["completions", shell]).ok();
        assert!(["init", "trust", "revoke"].iter().all(|verb| script.contains(verb)), "{shell}");
    }
    assert!(person.run(["man"]).ok().contains(".SH SUBCOMMANDS"));
    person.run(["man", "--dir", "pages"]).ok();
    assert_eq!(fs::read_dir(person.path("pages")).unwrap().count(), 48);
}

#[test]
fn a_read_only_home_is_a_clear_error() {
    // Root may write anywhere: a file in the place of the folder stands in for a folder that cannot be written.
    let person = Person::new();
    fs::write(person.home(), "").unwrap();
    let ran = person.run(["init"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.starts_with("error: cannot make the folder [HERE]/home: "), "{}", ran.stderr);
}
