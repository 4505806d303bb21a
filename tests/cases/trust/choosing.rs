// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several claims: preference, contradiction, replacement, and that verifying them together changes nothing.

use potluck_protocol::entry::claim_digest;

use super::*;

fn any_of_two(more: &str) -> Policy {
    rules(&[&format!("project = \"*\"; accept = [\"ann\", \"ben\"]; {more}")])
}

/// A claim of `name` that says it replaces `before`.
fn replacement(output: &str, name: &str, before_it: &Signed<Entry>) -> Signed<Entry> {
    let replaces = Some(claim_digest(before_it));
    sign(&Entry { issued: before(HOUR / 2), replaces, ..entry(output) }, &[name])
}

fn later(output: &str) -> Entry {
    Entry { issued: before(HOUR / 2), ..entry(output) }
}

#[test]
fn the_signer_named_first_is_preferred() {
    let claims = [sign(&entry("b"), &["ben"]), sign(&later("a"), &["ann"])];
    assert_eq!(chosen(&any_of_two(""), &claims), entry("a").output);
}

#[test]
fn rules_are_tried_in_order_and_the_first_that_can_accept_does() {
    let policy = rules(&[
        "project = \"*\"; accept = [\"ann\"]; max-age = \"1m\"",
        "project = \"acme/**\"; accept = [\"ben\"]",
        "project = \"*\"; accept = [\"ann\"]",
    ]);
    let claims = [sign(&entry("a"), &["ann"]), sign(&entry("b"), &["ben"])];
    assert_eq!(choose(&policy, &claims).outcome.unwrap().rule(), 1);
    assert_eq!(choose(&policy, &claims[..1]).outcome.unwrap().rule(), 2, "a later rule may be more generous");
}

#[test]
fn of_several_refusals_the_closest_is_given_with_its_rule() {
    let policy = rules(&[
        "project = \"*\"; accept = [\"ben\"]",
        "project = \"*\"; accept = [\"ann\"]; max-age = \"1m\"",
    ]);
    let claim = sign(&entry("x"), &["ann"]);
    let refusal = judge(&policy, &claim).unwrap_err();
    assert!(matches!(refusal.reason, Reason::TooOld { .. }), "{refusal}");
    assert_eq!(refusal.rule.as_ref(), Some(&policy.rules().rules[1].origin));
    assert!(refusal.to_string().contains("trust.toml:"), "{refusal}");
}

#[test]
fn nothing_is_chosen_of_nothing() {
    assert_eq!(reason(&ann_only(""), choose(&ann_only(""), &[]).outcome), Reason::Nothing);
}

#[test]
fn of_two_contradicting_claims_the_earlier_is_served_and_both_are_kept_as_evidence() {
    let claims = [sign(&later("y"), &["ann"]), sign(&entry("x"), &["ann"])];
    assert_eq!(chosen(&ann_only(""), &claims), entry("x").output);
    let policy = ann_only("");
    let choice = choose(&policy, &claims);
    let [evidence] = &choice.equivocations[..] else { panic!("one signer contradicts itself") };
    assert_eq!(evidence.signer, key("ann").signer());
    assert_eq!((evidence.earlier, evidence.later), (&claims[1], &claims[0]));
}

#[test]
fn a_strict_rule_serves_none_of_two_contradicting_claims() {
    let claims = [sign(&entry("x"), &["ann"]), sign(&later("y"), &["ann"])];
    let reason = reason(&ann_only(""), choose(&ann_only("strict = true"), &claims).outcome);
    assert_eq!(reason, Reason::Equivocation { signer: key("ann").signer() });
}

#[test]
fn a_strict_rule_still_believes_others() {
    let claims = [sign(&entry("x"), &["ann"]), sign(&later("y"), &["ann"]), sign(&entry("z"), &["ben"])];
    assert_eq!(chosen(&any_of_two("strict = true"), &claims), entry("z").output);
}

#[test]
fn a_claim_that_names_what_it_replaces_is_no_contradiction() {
    let first = sign(&entry("x"), &["ann"]);
    let claims = [replacement("y", "ann", &first), first];
    let policy = ann_only("strict = true");
    assert!(choose(&policy, &claims).equivocations.is_empty());
    assert_eq!(chosen(&policy, &claims), entry("y").output);
}

#[test]
fn a_chain_of_replacements_ends_in_its_last() {
    let first = sign(&entry("x"), &["ann"]);
    let second = replacement("y", "ann", &first);
    let third = replacement("z", "ann", &second);
    assert_eq!(chosen(&ann_only("strict = true"), &[second, third, first]), entry("z").output);
}

#[test]
fn nobody_can_replace_what_another_signer_claimed() {
    let anns = sign(&entry("x"), &["ann"]);
    let claims = [replacement("evil", "ben", &anns), anns];
    assert_eq!(chosen(&any_of_two(""), &claims), entry("x").output);
    let strangers = [replacement("evil", "mallory", &claims[1]), claims[1].clone()];
    assert_eq!(chosen(&any_of_two(""), &strangers), entry("x").output);
}

#[test]
fn the_same_output_twice_is_no_contradiction() {
    let claims = [sign(&entry("x"), &["ann"]), sign(&later("x"), &["ann"])];
    let policy = ann_only("strict = true");
    assert!(choose(&policy, &claims).equivocations.is_empty());
    assert!(choose(&policy, &claims).outcome.is_ok());
}

#[test]
fn a_contradiction_is_seen_even_when_one_claim_has_expired() {
    let expired = Entry { not_after: before(HOUR / 2), ..entry("x") };
    let claims = [sign(&expired, &["ann"]), sign(&later("y"), &["ann"])];
    assert_eq!(choose(&ann_only(""), &claims).equivocations.len(), 1);
    let outcome = choose(&ann_only("strict = true"), &claims).outcome;
    assert!(matches!(reason(&ann_only(""), outcome), Reason::Equivocation { .. }));
}

#[test]
fn a_contradiction_between_a_key_and_its_successor_is_one() {
    let mut policy = ann_only("strict = true; rotate = true");
    policy.heed_succession(&succeed("ann", "ann2", before(HOUR / 2))).unwrap();
    let claims = [sign(&entry("x"), &["ann"]), sign(&later("y"), &["ann2"])];
    assert!(matches!(reason(&policy, choose(&policy, &claims).outcome), Reason::Equivocation { .. }));
}

#[test]
fn the_order_in_which_claims_arrive_does_not_matter() {
    let claims = [
        sign(&entry("x"), &["ann"]),
        sign(&later("y"), &["ann"]),
        sign(&entry("z"), &["ben"]),
        sign(&entry("x"), &["mallory"]),
        sign(&tainted(&["network"]), &["ben"]),
    ];
    let policy = any_of_two("");
    let first = choose(&policy, &claims).outcome.unwrap().signed().clone();
    for turn in 1..claims.len() {
        let mut turned = claims.to_vec();
        turned.rotate_left(turn);
        assert_eq!(choose(&policy, &turned).outcome.unwrap().signed(), &first);
        turned.reverse();
        assert_eq!(choose(&policy, &turned).outcome.unwrap().signed(), &first);
    }
}

#[test]
fn nor_does_it_when_contradicting_claims_bear_one_date() {
    let claims = ["u", "v", "w"].map(|output| sign(&entry(output), &["ann"]));
    let first = chosen(&ann_only(""), &claims);
    let turned = [claims[2].clone(), claims[0].clone(), claims[1].clone()];
    assert_eq!(chosen(&ann_only(""), &turned), first);
}

#[test]
fn a_flood_of_strangers_does_not_drown_an_honest_claim() {
    let mut claims: Vec<_> = (0..50).map(|n| sign(&entry(&format!("evil {n}")), &["mallory"])).collect();
    claims.insert(25, sign(&entry("x"), &["ann"]));
    let policy = ann_only("strict = true");
    let choice = choose(&policy, &claims);
    assert_eq!(choice.outputs, 1);
    assert_eq!(choice.outcome.unwrap().output, entry("x").output);
}

#[test]
fn verifying_together_finds_what_verifying_one_by_one_finds() {
    let mut claims: Vec<_> = (0..40).map(|n| sign(&entry(&n.to_string()), &[NAMES[n % 4]])).collect();
    for bad in [0, 17, 39] {
        let mut forged = claims[bad].bytes().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        claims[bad] = Signed::decode(&forged).unwrap();
    }
    let policy = rules(&["project = \"*\"; accept = [\"ann\", \"ben\", \"ci\", \"sec\"]"]);
    let together: Vec<_> =
        claims.iter().map(|claim| Signed::<Entry>::decode(claim.bytes()).unwrap()).collect();
    policy.verify(&together);
    let question = entry("");
    let accepted = |claim: &Signed<Entry>| policy.judge(claim, &Want::of(&question.scope()), NOW).is_ok();
    for (at, (one, other)) in claims.iter().zip(&together).enumerate() {
        assert_eq!(accepted(one), accepted(other));
        assert_eq!(accepted(one), ![0, 17, 39].contains(&at), "{at}");
    }
}
