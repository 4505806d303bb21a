// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several signers: how many must agree, and who counts as one.

use potluck_keys::signed::ClaimError;

use super::*;

fn two_of_three() -> Policy {
    rules(&["project = \"*\"; accept = [\"ann\", \"ben\", \"ci\"]; agree = 2"])
}

#[test]
fn one_signer_is_not_two() {
    assert_eq!(refused(&two_of_three(), &sign(&entry("x"), &["ann"])), Reason::TooFew { have: 1, need: 2 });
}

#[test]
fn two_signers_with_claims_of_their_own_agree() {
    let later = Entry { issued: before(HOUR / 2), ..entry("x") };
    let claims = [sign(&entry("x"), &["ann"]), sign(&later, &["ben"])];
    let (policy, want) = (two_of_three(), entry("x"));
    let choice = policy.choose(&claims, &Want::of(&want.scope()), NOW);
    assert_eq!(choice.outcome.unwrap().signers().len(), 2);
}

#[test]
fn two_signatures_on_one_claim_agree() {
    assert!(judge(&two_of_three(), &sign(&entry("x"), &["ann", "ben"])).is_ok());
}

#[test]
fn one_key_cannot_sign_one_claim_twice() {
    let keys = [key("ann"), key("ann")];
    let error = Signed::sign(&entry("x"), &[&keys[0], &keys[1]]).unwrap_err();
    assert_eq!(error, ClaimError::Signatures);
}

#[test]
fn a_threshold_is_not_met_by_one_key_with_two_claims() {
    let later = Entry { issued: before(HOUR / 2), ..entry("x") };
    let claims = [sign(&entry("x"), &["ann"]), sign(&later, &["ann"])];
    assert_eq!(
        reason(&two_of_three(), choose(&two_of_three(), &claims).outcome),
        Reason::TooFew { have: 1, need: 2 }
    );
}

#[test]
fn a_threshold_is_not_met_by_the_same_claim_twice() {
    let claims = [sign(&entry("x"), &["ann"]), sign(&entry("x"), &["ann"])];
    assert!(matches!(
        reason(&two_of_three(), choose(&two_of_three(), &claims).outcome),
        Reason::TooFew { .. }
    ));
}

#[test]
fn a_threshold_is_not_met_by_a_key_and_its_successor() {
    let mut policy = rules(&["project = \"*\"; accept = [\"ann\", \"ben\"]; agree = 2; rotate = true"]);
    assert!(policy.heed_succession(&succeed("ann", "ann2", before(HOUR / 2))).unwrap());
    let later = Entry { issued: before(HOUR / 4), ..entry("x") };
    let claims = [sign(&entry("x"), &["ann"]), sign(&later, &["ann2"])];
    assert_eq!(reason(&policy, choose(&policy, &claims).outcome), Reason::TooFew { have: 1, need: 2 });
}

#[test]
fn a_threshold_is_met_by_a_successor_and_another_signer() {
    let mut policy = rules(&["project = \"*\"; accept = [\"ann\", \"ben\"]; agree = 2; rotate = true"]);
    policy.heed_succession(&succeed("ann", "ann2", before(HOUR / 2))).unwrap();
    let later = Entry { issued: before(HOUR / 4), ..entry("x") };
    let claims = [sign(&entry("x"), &["ben"]), sign(&later, &["ann2"])];
    assert_eq!(chosen(&policy, &claims), entry("x").output);
}

#[test]
fn one_key_cannot_stand_under_two_names() {
    let line = key("ann").public().to_openssh("");
    let text = format!("[signer.a]\nkey = \"{line}\"\n[signer.b]\nkey = \"{line}\"\n");
    let error = Rules::read(&[Layer::new(Path::new("trust.toml"), text)]).unwrap_err();
    assert!(error.to_string().contains("same key"), "{error}");
}

#[test]
fn signers_who_name_different_outputs_do_not_agree() {
    let claims = [sign(&entry("x"), &["ann"]), sign(&entry("y"), &["ben"])];
    let choice = choose(&two_of_three(), &claims);
    assert_eq!(choice.outputs, 2, "the disagreement is seen");
    assert_eq!(reason(&two_of_three(), choice.outcome), Reason::TooFew { have: 1, need: 2 });
}

#[test]
fn two_who_agree_outvote_the_one_who_is_preferred() {
    let claims = [sign(&entry("x"), &["ann"]), sign(&entry("y"), &["ben"]), sign(&entry("y"), &["ci"])];
    assert_eq!(chosen(&two_of_three(), &claims), entry("y").output);
}

#[test]
fn signers_whom_the_rule_does_not_name_do_not_count() {
    assert_eq!(
        refused(&two_of_three(), &sign(&entry("x"), &["ann", "sec"])),
        Reason::TooFew { have: 1, need: 2 }
    );
    assert_eq!(
        refused(&two_of_three(), &sign(&entry("x"), &["ann", "mallory"])),
        Reason::TooFew { have: 1, need: 2 }
    );
}

#[test]
fn a_revoked_signer_does_not_count() {
    let mut policy = two_of_three();
    policy.heed_revocation(&revoke("ben", before(2 * HOUR), "ben")).unwrap();
    assert!(judge(&policy, &sign(&entry("x"), &["ann", "ben"])).is_err());
    assert!(judge(&policy, &sign(&entry("x"), &["ann", "ci"])).is_ok());
}

#[test]
fn an_expired_vote_does_not_count() {
    let short = Entry { not_after: before(HOUR / 2), ..entry("x") };
    let claims = [sign(&entry("x"), &["ann"]), sign(&short, &["ben"])];
    assert!(matches!(
        reason(&two_of_three(), choose(&two_of_three(), &claims).outcome),
        Reason::TooFew { .. }
    ));
}

#[test]
fn a_strangers_further_signature_changes_nothing() {
    assert!(judge(&ann_only(""), &sign(&entry("x"), &["ann", "mallory"])).is_ok());
}

#[test]
fn a_known_signers_bad_signature_spoils_the_claim() {
    let claim = sign(&entry("x"), &["ann", "ben"]);
    let mut forged = claim.bytes().to_vec();
    // One of the two signatures ends the claim; which one depends on the order of the keys.
    *forged.last_mut().unwrap() ^= 1;
    let forged = Signed::<Entry>::decode(&forged).unwrap();
    let (policy, question) = (ann_only(""), entry(""));
    let outcome = policy.judge(&forged, &Want::of(&question.scope()), NOW);
    assert!(matches!(reason(&policy, outcome), Reason::NotGenuine(ClaimError::BadSignature(_))));
}
