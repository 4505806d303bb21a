// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is not worth fetching.

use super::*;
use crate::fetch::plan::TRY_AGAIN;
use crate::fetch::standing::Record;

/// Where all holders were measured, and even together cannot send it as fast as it can be made, nobody waits for it; now
/// and then it is tried all the same.
#[test]
fn what_takes_longer_to_fetch_than_to_make_is_not_fetched() {
    let record = |rate| Record { rate, ..Default::default() };
    let known =
        |rates: &[(&str, u64)]| rates.iter().map(|(name, rate)| (peer(name), record(*rate))).collect();
    let large = |cost_ms| {
        let blobs = vec![Need { size: 100 << 20, ..need(1) }];
        Verdict::Needs { blobs, cost: Duration::from_millis(cost_ms) }
    };
    let told = |rates: &[(&str, u64)], verdict: Verdict| {
        let mut case = Case::with(&[]);
        case.plan = Fetch::new(1).remembering(known(rates));
        rates.iter().for_each(|(name, _)| drop(case.met(name)));
        let ask = asked(&case.look(1, 1, 100))[0].0;
        case.answer(ask, 1, verdict)
    };
    let not_worth_it = vec![settle(1, 1, Some(Miss::NotWorthIt))];
    assert_eq!(told(&[("ann", 1 << 20)], large(600)), not_worth_it);
    assert_eq!(told(&[("ann", 1 << 20), ("bob", 1 << 20)], large(600)), not_worth_it);
    for (rates, verdict) in [
        (vec![("ann", 1 << 20)], large(60_000)),
        (vec![("ann", 1 << 20)], needs([1], 600)),
        (vec![("ann", 1 << 20)], large(0)),
        (vec![("ann", 0)], large(600)),
        (vec![("ann", 1 << 20), ("bob", 0)], large(600)),
        (vec![("ann", 1 << 20), ("bob", 100 << 20)], large(600)),
    ] {
        assert!(!told(&rates, verdict.clone()).contains(&not_worth_it[0]), "{rates:?} {verdict:?}");
    }
    let mut case = Case::with(&[]);
    case.plan = Fetch::new(1).remembering(known(&[("ann", 1 << 20)]));
    case.met("ann");
    let tried = (1..=64_u8).filter(|number| {
        let ask = question(&case.look(u64::from(*number), *number, 100));
        !case.answer(ask, *number, large(600)).contains(&settle(
            (*number).into(),
            *number,
            Some(Miss::NotWorthIt),
        ))
    });
    assert_eq!(tried.count(), 64 / TRY_AGAIN as usize);
}
