// SPDX-License-Identifier: MIT OR Apache-2.0
//! One claim: who signed it, what it answers, and when.

use potluck_keys::policy::{CLOCK_SKEW, Misfit};
use potluck_keys::signed::{Claim, ClaimError};
use potluck_protocol::head::Head;

use super::*;

#[test]
fn without_rules_nobody_is_believed() {
    let empty = Policy::new(Rules::default());
    assert!(matches!(refused(&empty, &sign(&entry("x"), &["ann"])), Reason::NoRule { .. }));
}

#[test]
fn signers_without_a_rule_are_not_believed() {
    assert!(matches!(refused(&rules(&[]), &sign(&entry("x"), &["ann"])), Reason::NoRule { .. }));
}

#[test]
fn who_is_accepted_is_believed() {
    let claim = sign(&entry("x"), &["ann"]);
    let policy = ann_only("");
    let trusted = judge(&policy, &claim).unwrap();
    assert_eq!((trusted.rule(), trusted.signers()), (0, &[key("ann").signer()][..]));
    assert_eq!(trusted.output, entry("x").output);
    assert_eq!(trusted.signed(), &claim);
}

#[test]
fn a_stranger_is_not_believed() {
    let reason = refused(&ann_only(""), &sign(&entry("x"), &["mallory"]));
    assert_eq!(reason, Reason::UnknownSigner { signers: vec![key("mallory").signer()] });
}

#[test]
fn a_known_signer_that_the_rule_does_not_name_is_not_believed() {
    assert_eq!(refused(&ann_only(""), &sign(&entry("x"), &["ben"])), Reason::NotAccepted);
}

#[test]
fn who_is_accepted_in_one_project_is_not_believed_in_another() {
    let policy =
        rules(&["project = \"acme/web\"; accept = [\"ann\"]", "project = \"acme/api\"; accept = [\"ben\"]"]);
    let elsewhere = Entry { project: Project::new("acme/api").unwrap(), ..entry("x") };
    assert_eq!(refused(&policy, &sign(&elsewhere, &["ann"])), Reason::NotAccepted);
    assert!(judge(&policy, &sign(&elsewhere, &["ben"])).is_ok());
}

#[test]
fn a_project_that_no_rule_covers_accepts_nothing() {
    let policy = rules(&["project = \"acme/*\"; accept = [\"ann\"]"]);
    let below = Entry { project: Project::new("acme/web/deep").unwrap(), ..entry("x") };
    assert!(matches!(refused(&policy, &sign(&below, &["ann"])), Reason::NoRule { .. }));
}

#[test]
fn who_is_accepted_for_one_recipe_is_not_believed_for_another() {
    let policy = rules(&["project = \"*\"; recipe = \"rustc@*\"; accept = [\"ann\"]"]);
    assert!(judge(&policy, &sign(&entry("x"), &["ann"])).is_ok());
    let other = Entry { recipe: Recipe::new("gcc@1").unwrap(), ..entry("x") };
    assert!(matches!(refused(&policy, &sign(&other, &["ann"])), Reason::NoRule { recipe: Some(_), .. }));
}

/// Asks the one question of all cases and gives `claim` in answer.
fn in_answer(claim: &Entry) -> Reason {
    let (policy, question, claim) = (ann_only(""), entry(""), sign(claim, &["ann"]));
    reason(&policy, policy.judge(&claim, &Want::of(&question.scope()), NOW))
}

#[test]
fn an_answer_from_another_project_is_refused() {
    let claim = Entry { project: Project::new("acme/api").unwrap(), ..entry("x") };
    assert!(
        matches!(in_answer(&claim), Reason::Misfit { part: Misfit::Project, found } if found == "acme/api")
    );
}

#[test]
fn an_answer_of_another_recipe_is_refused() {
    let claim = Entry { recipe: Recipe::new("rustc@2").unwrap(), ..entry("x") };
    assert!(matches!(in_answer(&claim), Reason::Misfit { part: Misfit::Recipe, .. }));
}

#[test]
fn an_answer_to_another_question_is_refused() {
    let claim = Entry { action: ActionId::from_bytes([8; 32]), ..entry("x") };
    assert!(matches!(in_answer(&claim), Reason::Misfit { part: Misfit::Subject, .. }));
}

#[test]
fn who_may_speak_for_one_project_cannot_answer_for_another_with_its_action() {
    // Ben may speak for acme/api only. He signs, for acme/api, the action of acme/web.
    let policy =
        rules(&["project = \"acme/web\"; accept = [\"ann\"]", "project = \"acme/api\"; accept = [\"ben\"]"]);
    let claim = sign(&Entry { project: Project::new("acme/api").unwrap(), ..entry("evil") }, &["ben"]);
    let question = entry("");
    let outcome = policy.judge(&claim, &Want::of(&question.scope()), NOW);
    assert!(matches!(reason(&policy, outcome), Reason::Misfit { part: Misfit::Project, .. }));
}

#[test]
fn a_claim_of_one_kind_is_none_of_another() {
    let claim = sign(&entry("x"), &["ann"]);
    let error = Signed::<Head>::decode(claim.bytes()).unwrap_err();
    assert_eq!(error, ClaimError::WrongContext { want: Head::CONTEXT, found: Entry::CONTEXT.to_owned() });
    let error = Signed::<Entry>::decode(revoke("ann", NOW, "ann").bytes()).unwrap_err();
    assert!(matches!(error, ClaimError::WrongContext { .. }));
}

#[test]
fn rewriting_the_kind_breaks_the_signature() {
    // Revocation and Succession have names of one length, so that only the name changes.
    let claim = revoke("ann", NOW, "ann");
    let at = claim.bytes().windows(10).position(|part| part == b"revocation").unwrap();
    let mut forged = claim.bytes().to_vec();
    forged[at..at + 10].copy_from_slice(b"succession");
    let forged = Signed::<Succession>::decode(&forged).unwrap();
    assert_eq!(forged.authentic().unwrap_err(), ClaimError::BadSignature(key("ann").signer()));
}

#[test]
fn a_signature_on_another_payload_is_refused() {
    let (good, other) = (sign(&entry("x"), &["ann"]), sign(&entry("y"), &["ann"]));
    let mut forged = good.bytes().to_vec();
    let end = forged.len();
    forged[end - 64..].copy_from_slice(&other.bytes()[other.bytes().len() - 64..]);
    let forged = Signed::<Entry>::decode(&forged).unwrap();
    let (policy, question) = (ann_only(""), entry(""));
    let outcome = policy.judge(&forged, &Want::of(&question.scope()), NOW);
    assert_eq!(reason(&policy, outcome), Reason::NotGenuine(ClaimError::BadSignature(key("ann").signer())));
}

#[test]
fn a_strangers_signature_under_an_accepted_name_is_refused() {
    let claim = sign(&entry("x"), &["mallory"]);
    let (mallory, ann) = (key("mallory").signer(), key("ann").signer());
    let mut forged = claim.bytes().to_vec();
    let at = forged.windows(32).position(|part| part == mallory.as_bytes()).unwrap();
    forged[at..at + 32].copy_from_slice(ann.as_bytes());
    let forged = Signed::<Entry>::decode(&forged).unwrap();
    let (policy, question) = (ann_only(""), entry(""));
    let outcome = policy.judge(&forged, &Want::of(&question.scope()), NOW);
    assert_eq!(reason(&policy, outcome), Reason::NotGenuine(ClaimError::BadSignature(ann)));
}

#[test]
fn any_flipped_bit_is_refused() {
    let claim = sign(&entry("x"), &["ann"]);
    let (policy, question) = (ann_only(""), entry(""));
    for bit in 0..8 * claim.bytes().len() {
        let mut forged = claim.bytes().to_vec();
        forged[bit / 8] ^= 1 << (bit % 8);
        let accepted = Signed::<Entry>::decode(&forged)
            .is_ok_and(|forged| policy.judge(&forged, &Want::of(&question.scope()), NOW).is_ok());
        assert!(!accepted, "bit {bit}");
    }
}

#[test]
fn a_claim_holds_to_its_last_millisecond_and_no_longer() {
    let claim = sign(&Entry { not_after: NOW, ..entry("x") }, &["ann"]);
    assert!(judge(&ann_only(""), &claim).is_ok());
    let late = NOW.plus(Duration::from_millis(1));
    let outcome = judge_at(&ann_only(""), &claim, late);
    assert_eq!(reason(&ann_only(""), outcome), Reason::Expired { not_after: NOW });
}

#[test]
fn an_expired_claim_that_is_played_again_is_refused_although_it_was_believed() {
    let (policy, claim) = (ann_only(""), sign(&entry("x"), &["ann"]));
    assert!(judge(&policy, &claim).is_ok());
    let replayed = Signed::<Entry>::decode(claim.bytes()).unwrap();
    let later = NOW.plus(25 * HOUR);
    for claim in [&claim, &replayed] {
        assert!(matches!(reason(&policy, judge_at(&policy, claim, later)), Reason::Expired { .. }));
    }
}

#[test]
fn a_clock_may_be_ahead_by_the_allowance_and_no_more() {
    let issued = NOW.plus(CLOCK_SKEW);
    assert!(judge(&ann_only(""), &sign(&Entry { issued, ..entry("x") }, &["ann"])).is_ok());
    let issued = issued.plus(Duration::from_millis(1));
    let reason = refused(&ann_only(""), &sign(&Entry { issued, ..entry("x") }, &["ann"]));
    assert_eq!(reason, Reason::NotYet { issued });
}

#[test]
fn the_allowance_for_clocks_does_not_prolong_a_claim() {
    let claim = sign(&Entry { not_after: before(Duration::from_millis(1)), ..entry("x") }, &["ann"]);
    assert!(matches!(refused(&ann_only(""), &claim), Reason::Expired { .. }));
}

#[test]
fn a_rule_may_ask_for_fresher_claims_than_their_signer() {
    let policy = ann_only("max-age = \"1h\"");
    assert!(judge(&policy, &sign(&entry("x"), &["ann"])).is_ok(), "exactly an hour old");
    let issued = before(HOUR + Duration::from_millis(1));
    let reason = refused(&policy, &sign(&Entry { issued, ..entry("x") }, &["ann"]));
    assert_eq!(reason, Reason::TooOld { issued, max_age: HOUR });
}

#[test]
fn a_generous_rule_does_not_prolong_a_claim() {
    let claim = sign(&Entry { not_after: before(Duration::from_millis(1)), ..entry("x") }, &["ann"]);
    assert!(matches!(refused(&ann_only("max-age = \"1000d\""), &claim), Reason::Expired { .. }));
}

#[test]
fn a_claim_cannot_end_before_it_begins_nor_last_for_ever() {
    for not_after in [before(HOUR), NOW.plus(3 * 366 * 24 * HOUR)] {
        let claim = sign(&Entry { not_after, ..entry("x") }, &["ann"]);
        assert!(matches!(claim.authentic(), Err(ClaimError::Payload { .. })));
    }
}

#[test]
fn a_taint_is_refused_unless_the_rule_lists_it() {
    let claim = sign(&tainted(&["network"]), &["ann"]);
    assert_eq!(refused(&ann_only(""), &claim), Reason::Tainted { taint: "network".to_owned() });
    assert!(matches!(refused(&ann_only("taints = \"refuse\""), &claim), Reason::Tainted { .. }));
    assert!(matches!(refused(&ann_only("taints = [\"clock\"]"), &claim), Reason::Tainted { .. }));
    assert!(judge(&ann_only("taints = [\"network\"]"), &claim).is_ok());
}

#[test]
fn every_taint_must_be_listed() {
    let claim = sign(&tainted(&["clock", "network"]), &["ann"]);
    let reason = refused(&ann_only("taints = [\"clock\"]"), &claim);
    assert_eq!(reason, Reason::Tainted { taint: "network".to_owned() });
    assert!(judge(&ann_only("taints = [\"network\", \"clock\"]"), &claim).is_ok());
}

#[test]
fn nothing_that_was_claimed_is_shown_before_a_signature_was_verified() {
    // What does not decode is still a Signed<T>; its content is looked at only once the signature is known to fit.
    let claim = sign(&Entry { not_after: before(2 * HOUR), ..entry("x") }, &["mallory"]);
    assert!(matches!(refused_unasked(&claim), Reason::UnknownSigner { .. }));
}

/// As [`refused`], for claims that do not even tell their question.
fn refused_unasked(claim: &Signed<Entry>) -> Reason {
    let (policy, question) = (ann_only(""), entry(""));
    reason(&policy, policy.judge(claim, &Want::of(&question.scope()), NOW))
}

#[test]
fn an_accepted_signer_who_signs_nonsense_is_named() {
    let claim = sign(&Entry { not_after: before(2 * HOUR), ..entry("x") }, &["ann"]);
    let reason = refused_unasked(&claim);
    assert!(
        matches!(reason, Reason::NotGenuine(ClaimError::Payload { signer, .. }) if signer == key("ann").signer())
    );
}
