// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands of README.md that need several machines, run as they are written there, each person's on a host of her
//! own. Files that one person hands to others are copied to their folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use potluck_tests::hosts::Lab;
use potluck_tests::program::{Person, potluck, repository};

use super::noise;

/// A command of the page: who runs it, what, and what it is shown to print.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    who: String,
    command: String,
    shown: Vec<String>,
}

/// The commands of a section: lines of console blocks that begin with a name and `$`; those below are what they print.
fn steps(page: &str, section: &str) -> Vec<Step> {
    let inside =
        page.split("\n## ").find_map(|part| part.strip_prefix(section)).expect("there is such a section");
    let mut steps: Vec<Step> = Vec::new();
    for block in inside.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap_or_default().lines() {
            match line.split_once("$ ").filter(|(who, _)| who.chars().all(char::is_alphanumeric)) {
                Some((who, command)) => {
                    steps.push(Step { who: who.to_owned(), command: command.to_owned(), shown: Vec::new() });
                }
                None => steps.last_mut().expect("a block begins with a command").shown.push(line.to_owned()),
            }
        }
    }
    steps
}

/// Whether a line was printed that has the same words as the one shown, as far as that goes.
fn is_printed(shown: &str, printed: &str) -> bool {
    let wanted: Vec<_> = shown.split_whitespace().take_while(|word| *word != "…").collect();
    printed.lines().any(|line| line.split_whitespace().take(wanted.len()).eq(wanted.iter().copied()))
}

/// Runs a step in a shell. A look at the status is repeated until it shows what the page shows.
fn run(person: &Person, step: &Step) {
    let mut printed = String::new();
    for _ in 0..300 {
        let mut shell = person.shell(&step.command);
        let path = std::env::var("PATH").unwrap_or_default();
        let ours = potluck().parent().unwrap().display().to_string();
        shell.env("PATH", format!("{ours}:{path}"));
        printed = person.ran(&mut shell).ok();
        if step.shown.iter().all(|line| is_printed(line, &printed)) {
            return;
        }
        assert!(step.command.starts_with("potluck status"), "{step:?} printed\n{printed}");
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{step:?} printed at last\n{printed}");
}

/// Copies what somebody wrote for others to their folders.
fn hand_over(from: &Person, people: &BTreeMap<String, Person>) {
    for entry in fs::read_dir(from.path("")).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let is_for_others =
            |name: &Path| name.extension().is_some_and(|kind| kind == "invite" || kind == "pub");
        for person in people.values() {
            if is_for_others(Path::new(&name)) && !person.path(&name).exists() {
                fs::copy(entry.path(), person.path(&name)).unwrap();
            }
        }
    }
}

/// Runs a section; whoever gets has what the first one put in the end.
fn play(section: &str) {
    let Some(mut lab) = Lab::new() else { return };
    let page = fs::read_to_string(repository().join("README.md")).unwrap();
    let steps = steps(&page, section);
    let switch = lab.switch("switch");
    let mut people = BTreeMap::new();
    for step in &steps {
        if !people.contains_key(&step.who) {
            let host = lab.host(&step.who);
            lab.plug(&host, &switch, &format!("10.77.0.{}/24", people.len() + 1));
            people.insert(step.who.clone(), host.newcomer());
        }
    }
    assert_eq!(people.len(), 3, "the page tells of three");
    let output = noise(2 << 20, 3);
    for person in people.values() {
        fs::write(person.path("out"), &output).unwrap();
    }
    let mut got = 0;
    for step in &steps {
        let person = &people[&step.who];
        run(person, step);
        hand_over(person, &people);
        if step.command.starts_with("potluck get") {
            assert!(fs::read(person.path("back")).unwrap() == output, "{step:?}");
            got += 1;
        }
    }
    assert_eq!(got, 2, "the two others get it");
    for person in people.values() {
        person.run(["down"]).ok();
    }
}

#[test]
fn sharing_in_the_office_goes_as_the_page_says() {
    play("Share in the office\n");
}

#[test]
fn reading_a_project_s_cache_goes_as_the_page_says() {
    play("Read a project's cache\n");
}

#[test]
fn the_page_is_read_as_people_read_it() {
    let page = "# x\n\n## One\n\n```console\nann$ potluck a\nb  c …\nben$ potluck d >e\n```\n\n## Two\n";
    let step = |who: &str, command: &str, shown: &[&str]| Step {
        who: who.to_owned(),
        command: command.to_owned(),
        shown: shown.iter().map(|line| (*line).to_owned()).collect(),
    };
    assert_eq!(
        steps(page, "One\n"),
        [step("ann", "potluck a", &["b  c …"]), step("ben", "potluck d >e", &[])]
    );
    assert!(is_printed("b  c …", "a\n b c d\n") && !is_printed("b c", "b\nc\n"));
}
