// SPDX-License-Identifier: MIT OR Apache-2.0
//! What changes: Heads only move forward, each on its own line.

use potluck_protocol::head::{CATALOG, Head, Instance, Ledger, Line, Step, StepError};

use super::*;

fn head(sequence: u64) -> Head {
    Head {
        project: Project::new("acme/web").unwrap(),
        name: Text::new(CATALOG).unwrap(),
        recipe: None,
        instance: Instance::from_bytes([1; 16]),
        sequence,
        root: Digest::of(&sequence.to_le_bytes()),
        size: 100,
        issued: before(HOUR),
        not_after: NOW.plus(HOUR),
    }
}

fn by(head: &Head, name: &str) -> Signed<Head> {
    Signed::sign(head, &[&key(name)]).unwrap()
}

fn both() -> Policy {
    rules(&["project = \"*\"; accept = [\"ann\", \"ben\"]"])
}

fn take(ledger: &mut Ledger, head: &Head) -> Result<Step, StepError> {
    take_by(ledger, head, "ann")
}

fn take_by(ledger: &mut Ledger, head: &Head, name: &str) -> Result<Step, StepError> {
    ledger.take(&judge(&both(), &by(head, name)).unwrap())
}

#[test]
fn the_first_head_and_every_later_one_move_forward() {
    let mut ledger = Ledger::default();
    assert_eq!(take(&mut ledger, &head(1)), Ok(Step::Forward));
    assert_eq!(take(&mut ledger, &head(2)), Ok(Step::Forward));
    assert_eq!(take(&mut ledger, &head(9)), Ok(Step::Forward), "some may have been missed");
}

#[test]
fn the_same_head_again_is_no_news() {
    let mut ledger = Ledger::default();
    take(&mut ledger, &head(2)).unwrap();
    assert_eq!(take(&mut ledger, &head(2)), Ok(Step::Again));
}

#[test]
fn a_head_with_a_lower_sequence_is_a_rollback() {
    let mut ledger = Ledger::default();
    take(&mut ledger, &head(5)).unwrap();
    assert_eq!(take(&mut ledger, &head(4)), Err(StepError::Rollback { have: 5, got: 4 }));
    assert_eq!(take(&mut ledger, &head(5)), Ok(Step::Again), "the refusal changed nothing");
}

#[test]
fn a_rollback_is_still_one_after_a_restart() {
    let mut ledger = Ledger::default();
    take(&mut ledger, &head(5)).unwrap();
    let line = Line {
        signer: key("ann").signer(),
        project: head(5).project,
        name: head(5).name,
        instance: head(5).instance,
    };
    let seen = *ledger.last(&line).unwrap();
    let mut restored = Ledger::restore([(line, seen)]);
    assert_eq!(take(&mut restored, &head(4)), Err(StepError::Rollback { have: 5, got: 4 }));
}

#[test]
fn another_root_under_the_same_sequence_is_a_fork() {
    let mut ledger = Ledger::default();
    take(&mut ledger, &head(5)).unwrap();
    let fork = Head { root: Digest::of(b"elsewhere"), ..head(5) };
    assert!(matches!(take(&mut ledger, &fork), Err(StepError::Fork { sequence: 5, .. })));
    assert_eq!(take(&mut ledger, &head(5)), Ok(Step::Again), "the first one stands");
}

#[test]
fn a_head_past_its_end_is_a_freeze() {
    // Whoever keeps newer Heads from us can offer the last one only until it ends.
    let frozen = Head { not_after: before(Duration::from_millis(1)), ..head(5) };
    assert!(matches!(refused(&both(), &by(&frozen, "ann")), Reason::Expired { .. }));
}

#[test]
fn a_fast_forward_by_a_stranger_is_refused() {
    assert!(matches!(refused(&both(), &by(&head(u64::MAX), "mallory")), Reason::UnknownSigner { .. }));
}

#[test]
fn lines_of_other_machines_names_projects_and_signers_are_their_own() {
    let mut ledger = Ledger::default();
    take(&mut ledger, &head(5)).unwrap();
    let machine = Head { instance: Instance::from_bytes([2; 16]), ..head(1) };
    assert_eq!(take(&mut ledger, &machine), Ok(Step::Forward));
    let project = Head { project: Project::default(), ..head(1) };
    assert_eq!(take(&mut ledger, &project), Ok(Step::Forward));
    let recipe = Some(Recipe::new("ccache@1").unwrap());
    let name = Head { name: Text::new("manifest").unwrap(), recipe, ..head(1) };
    assert_eq!(take(&mut ledger, &name), Ok(Step::Forward));
    assert_eq!(take_by(&mut ledger, &head(1), "ben"), Ok(Step::Forward));
    assert_eq!(take(&mut ledger, &head(4)), Err(StepError::Rollback { have: 5, got: 4 }));
}

#[test]
fn a_refusal_on_one_line_leaves_all_lines_as_they_were() {
    // Signed by two: forward for ben, backward for ann.
    let mut ledger = Ledger::default();
    take(&mut ledger, &head(5)).unwrap();
    let two = Signed::sign(&head(3), &[&key("ann"), &key("ben")]).unwrap();
    let policy = both();
    assert!(ledger.take(&judge(&policy, &two).unwrap()).is_err());
    assert_eq!(take_by(&mut ledger, &head(1), "ben"), Ok(Step::Forward));
}

#[test]
fn of_several_heads_of_one_name_the_newest_wins_whoever_made_it() {
    let recipe = Some(Recipe::new("ccache@1").unwrap());
    let manifest = |sequence, age| {
        let name = Text::new("manifest").unwrap();
        Head { name, recipe: recipe.clone(), issued: before(age), ..head(sequence) }
    };
    let (old, new) = (manifest(9, HOUR), manifest(1, HOUR / 2));
    let claims = [by(&old, "ann"), by(&new, "ben")];
    let policy = both();
    let choice = policy.choose(&claims, &Want::of(&old.scope()), NOW);
    assert!(choice.equivocations.is_empty(), "to move on is no contradiction");
    assert_eq!(choice.outcome.unwrap().root, new.root);
}

#[test]
fn a_head_for_one_recipe_is_none_for_another() {
    let policy = rules(&["project = \"*\"; recipe = \"rustc@*\"; accept = [\"ann\"]"]);
    let name = Text::new("manifest").unwrap();
    let manifest = Head { name, recipe: Some(Recipe::new("ccache@1").unwrap()), ..head(1) };
    assert!(matches!(refused(&policy, &by(&manifest, "ann")), Reason::NoRule { .. }));
    assert!(judge(&policy, &by(&head(1), "ann")).is_ok(), "a catalog lists claims of all recipes");
}
