// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys that are revoked, and keys that follow others.

use potluck_keys::policy::{CLOCK_SKEW, MAX_SUCCESSIONS};

use super::*;

fn issued(issued: Time) -> Signed<Entry> {
    sign(&Entry { issued, ..entry("x") }, &["ann"])
}

#[test]
fn a_revoked_key_is_not_believed_after_the_instant() {
    let mut policy = ann_only("");
    assert!(policy.heed_revocation(&revoke("ann", before(2 * HOUR), "ann")).unwrap());
    assert!(matches!(refused(&policy, &issued(before(HOUR))), Reason::Revoked { .. }));
}

#[test]
fn nor_before_it_since_a_thief_can_date_claims_back() {
    let mut policy = ann_only("");
    policy.heed_revocation(&revoke("ann", before(HOUR), "ann")).unwrap();
    let (ann, at) = (key("ann").signer(), before(HOUR));
    assert_eq!(refused(&policy, &issued(before(2 * HOUR))), Reason::Revoked { signer: ann, at, by: ann });
}

#[test]
fn unless_the_owner_keeps_what_is_older() {
    let mut policy = ann_only("after-revocation = \"keep-older\"");
    policy.heed_revocation(&revoke("ann", before(HOUR), "ann")).unwrap();
    assert!(judge(&policy, &issued(before(2 * HOUR))).is_ok());
    assert!(
        matches!(refused(&policy, &issued(before(HOUR))), Reason::Revoked { .. }),
        "at the instant itself"
    );
    assert!(matches!(refused(&policy, &issued(before(HOUR / 2))), Reason::Revoked { .. }));
}

#[test]
fn a_claim_that_was_believed_dies_with_its_key() {
    let (mut policy, claim) = (ann_only(""), issued(before(HOUR)));
    assert!(judge(&policy, &claim).is_ok());
    policy.heed_revocation(&revoke("ann", NOW, "ann")).unwrap();
    assert!(
        matches!(refused(&policy, &claim), Reason::Revoked { .. }),
        "although its signature was verified before"
    );
}

#[test]
fn an_authority_that_the_rule_names_can_revoke() {
    let mut policy = ann_only("authority = [\"sec\"]");
    assert!(policy.heed_revocation(&revoke("ann", before(HOUR), "sec")).unwrap());
    assert!(
        matches!(refused(&policy, &issued(before(HOUR))), Reason::Revoked { by, .. } if by == key("sec").signer())
    );
}

#[test]
fn nobody_else_can() {
    let mut policy = ann_only("authority = [\"sec\"]");
    for by in ["ben", "mallory"] {
        assert!(!policy.heed_revocation(&revoke("ann", before(HOUR), by)).unwrap(), "{by}");
    }
    assert!(judge(&policy, &issued(before(HOUR))).is_ok());
}

#[test]
fn an_authority_of_one_rule_has_no_say_in_another() {
    let mut policy = rules(&[
        "project = \"acme/api\"; accept = [\"ann\"]; authority = [\"sec\"]",
        "project = \"acme/web\"; accept = [\"ann\"]",
    ]);
    policy.heed_revocation(&revoke("ann", before(HOUR), "sec")).unwrap();
    assert!(judge(&policy, &issued(before(HOUR))).is_ok());
    let api = Entry { project: Project::new("acme/api").unwrap(), ..entry("x") };
    assert!(matches!(refused(&policy, &sign(&api, &["ann"])), Reason::Revoked { .. }));
}

#[test]
fn a_forged_revocation_is_not_heeded() {
    let mut bytes = revoke("ann", before(HOUR), "ann").bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let mut policy = ann_only("");
    assert!(policy.heed_revocation(&Signed::decode(&bytes).unwrap()).is_err());
    assert!(judge(&policy, &issued(before(HOUR))).is_ok());
}

#[test]
fn a_revocation_dated_ahead_waits_for_its_day() {
    let at = NOW.plus(CLOCK_SKEW + Duration::from_millis(1));
    let mut policy = ann_only("");
    policy.heed_revocation(&revoke("ann", at, "ann")).unwrap();
    let claim = issued(before(HOUR));
    assert!(judge(&policy, &claim).is_ok());
    let outcome = judge_at(&policy, &claim, NOW.plus(Duration::from_millis(1)));
    assert!(
        matches!(reason(&policy, outcome), Reason::Revoked { .. }),
        "within the clocks' allowance of its day"
    );
}

#[test]
fn of_several_revocations_the_earliest_instant_counts() {
    let mut policy = ann_only("after-revocation = \"keep-older\"");
    assert!(policy.heed_revocation(&revoke("ann", before(HOUR), "ann")).unwrap());
    assert!(policy.heed_revocation(&revoke("ann", before(3 * HOUR), "ann")).unwrap());
    assert!(
        !policy.heed_revocation(&revoke("ann", NOW, "ann")).unwrap(),
        "a later one cannot bring claims back"
    );
    assert!(matches!(refused(&policy, &issued(before(2 * HOUR))), Reason::Revoked { .. }));
    assert!(judge(&policy, &issued(before(4 * HOUR))).is_ok());
}

#[test]
fn a_revocation_heard_twice_is_no_news() {
    let mut policy = ann_only("");
    assert!(policy.heed_revocation(&revoke("ann", NOW, "ann")).unwrap());
    assert!(!policy.heed_revocation(&revoke("ann", NOW, "ann")).unwrap());
}

/// A claim of half an hour ago by a key that took over an hour ago.
fn by_successor(name: &str) -> Signed<Entry> {
    sign(&Entry { issued: before(HOUR / 2), ..entry("x") }, &[name])
}

#[test]
fn a_successor_is_believed_where_the_rule_allows_it() {
    let mut policy = ann_only("rotate = true");
    assert!(policy.heed_succession(&succeed("ann", "ann2", before(HOUR))).unwrap());
    let claim = by_successor("ann2");
    assert_eq!(judge(&policy, &claim).unwrap().signers(), [key("ann").signer()], "in the old key's place");
}

#[test]
fn and_nowhere_else() {
    let mut policy = ann_only("");
    policy.heed_succession(&succeed("ann", "ann2", before(HOUR))).unwrap();
    assert_eq!(refused(&policy, &by_successor("ann2")), Reason::NotAccepted);
}

#[test]
fn a_succession_needs_both_signatures() {
    let claim = Succession { old: key("ann").signer(), new: key("ann2").signer(), issued: before(HOUR) };
    for signers in [&["ann"][..], &["ann2"], &["ann", "mallory"], &["ann2", "mallory"]] {
        let keys: Vec<_> = signers.iter().map(|name| key(name)).collect();
        let claim = Signed::sign(&claim, &keys.iter().collect::<Vec<_>>()).unwrap();
        let mut policy = ann_only("rotate = true");
        assert!(policy.heed_succession(&claim).is_err(), "{signers:?}");
        assert!(judge(&policy, &by_successor("ann2")).is_err(), "{signers:?}");
    }
}

#[test]
fn from_then_on_the_old_key_is_not_believed_any_more() {
    let mut policy = ann_only("rotate = true");
    policy.heed_succession(&succeed("ann", "ann2", before(HOUR))).unwrap();
    assert!(matches!(refused(&policy, &by_successor("ann")), Reason::Superseded { .. }));
    assert!(judge(&policy, &issued(before(HOUR))).is_ok(), "what it claimed until then stays");
}

#[test]
fn successions_may_follow_each_other_but_not_for_ever() {
    let mut policy = ann_only("rotate = true");
    let name = |n: usize| if n == 0 { "ann".to_owned() } else { format!("ann{n}") };
    let succeed = |policy: &mut Policy, n| {
        assert!(policy.heed_succession(&succeed(&name(n), &name(n + 1), before(HOUR))).unwrap());
    };
    (0..MAX_SUCCESSIONS).for_each(|n| succeed(&mut policy, n));
    assert!(judge(&policy, &by_successor(&name(MAX_SUCCESSIONS))).is_ok());
    succeed(&mut policy, MAX_SUCCESSIONS);
    assert_eq!(refused(&policy, &by_successor(&name(MAX_SUCCESSIONS + 1))), Reason::NotAccepted);
}

#[test]
fn successions_in_a_circle_end() {
    let mut policy = ann_only("rotate = true");
    policy.heed_succession(&succeed("ann", "x", before(3 * HOUR))).unwrap();
    policy.heed_succession(&succeed("x", "y", before(2 * HOUR))).unwrap();
    policy.heed_succession(&succeed("y", "x", before(HOUR))).unwrap();
    let _ = judge(&policy, &by_successor("y"));
    assert!(judge(&policy, &by_successor("mallory")).is_err());
}

#[test]
fn of_two_successors_neither_is_believed() {
    let mut policy = ann_only("rotate = true");
    policy.heed_succession(&succeed("ann", "ann2", before(HOUR))).unwrap();
    policy.heed_succession(&succeed("ann", "thief", before(2 * HOUR))).unwrap();
    for name in ["ann2", "thief"] {
        let disputed = Reason::DisputedSuccession { signer: key("ann").signer() };
        assert_eq!(refused(&policy, &by_successor(name)), disputed, "{name}");
    }
}

#[test]
fn a_stranger_cannot_succeed_anybody() {
    let mut policy = ann_only("rotate = true");
    assert!(!policy.heed_succession(&succeed("mallory", "mallory2", before(HOUR))).unwrap());
    assert!(matches!(refused(&policy, &by_successor("mallory2")), Reason::UnknownSigner { .. }));
}

#[test]
fn a_revoked_key_has_no_successor() {
    let mut policy = ann_only("rotate = true");
    policy.heed_succession(&succeed("ann", "ann2", before(2 * HOUR))).unwrap();
    policy.heed_revocation(&revoke("ann", before(HOUR), "ann")).unwrap();
    let reason = refused(&policy, &by_successor("ann2"));
    assert!(matches!(reason, Reason::Revoked { signer, .. } if signer == key("ann").signer()));
}

#[test]
fn unless_it_was_named_before_and_the_owner_keeps_what_is_older() {
    let mut policy = ann_only("rotate = true; after-revocation = \"keep-older\"");
    policy.heed_succession(&succeed("ann", "ann2", before(2 * HOUR))).unwrap();
    policy.heed_revocation(&revoke("ann", before(HOUR), "ann")).unwrap();
    assert!(judge(&policy, &by_successor("ann2")).is_ok());
}

#[test]
fn a_successor_can_be_revoked_itself() {
    let mut policy = ann_only("rotate = true");
    policy.heed_succession(&succeed("ann", "ann2", before(HOUR))).unwrap();
    policy.heed_revocation(&revoke("ann2", before(HOUR / 2), "ann2")).unwrap();
    assert!(matches!(refused(&policy, &by_successor("ann2")), Reason::Revoked { .. }));
    assert!(judge(&policy, &issued(before(2 * HOUR))).is_ok(), "the old key's earlier claims are untouched");
}

#[test]
fn a_key_cannot_follow_itself() {
    let claim = Succession { old: key("ann").signer(), new: key("ann").signer(), issued: NOW };
    let signed = Signed::sign(&claim, &[&key("ann")]).unwrap();
    assert!(ann_only("rotate = true").heed_succession(&signed).is_err());
}
