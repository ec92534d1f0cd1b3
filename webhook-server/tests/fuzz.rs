//! The checks of `fuzz/` on random damage to real payloads, for machines that have no fuzzer: a short run with every `make test`, a
//! long one with `PROPTEST_CASES=1000000` (`make accept SUITE=main-job ACCEPT_ARGS="--only fuzz"`).

#![allow(missing_docs, clippy::expect_used, clippy::indexing_slicing)]

use proptest::{collection::vec, option, prelude::*, sample::Index};

#[path = "../../fuzz/checks.rs"]
mod checks;

const SEEDS: [&str; 6] = [
    include_str!("../../fuzz/seeds/queued.json"),
    include_str!("../../fuzz/seeds/in_progress.json"),
    include_str!("../../fuzz/seeds/completed.json"),
    include_str!("../../fuzz/seeds/check_run.json"),
    include_str!("../../fuzz/seeds/push.json"),
    include_str!("../../fuzz/seeds/pull_request.json"),
];

/// JSON that is of another type, or larger, than what stands there.
const ODD: [&str; 14] = [
    "null",
    "0",
    "-1",
    "1e400",
    "18446744073709551616",
    "true",
    "\"\"",
    "\"\\u0000\\ud800\"",
    "[]",
    "[[[[]]]]",
    "{}",
    "{\"id\":1}",
    "\"9999-99-99T99:99:99Z\"",
    "\"\u{1F980}\"",
];

/// One change to a payload.
#[derive(Clone, Debug)]
enum Damage {
    /// Other bytes in place of as many.
    Overwrite(Index, Vec<u8>),
    Cut(Index),
    Insert(Index, Vec<u8>),
    /// A part again, elsewhere.
    Repeat(Index, Index, u8),
    /// Another value for the n-th member.
    Value(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let bytes = || vec(any::<u8>(), 1..6);
    prop_oneof![
        1 => (any::<Index>(), bytes()).prop_map(|(at, bytes)| Damage::Overwrite(at, bytes)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), bytes()).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => (any::<Index>(), any::<Index>(), any::<u8>()).prop_map(|(from, to, length)| Damage::Repeat(from, to, length)),
        4 => (any::<Index>(), any::<Index>()).prop_map(|(at, odd)| Damage::Value(at, odd)),
    ]
}

/// A payload with up to four changes, or anything at all.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let seed = proptest::sample::select(SEEDS.as_slice());
    let damaged = (seed, vec(damage(), 0..5))
        .prop_map(|(seed, changes)| changes.iter().fold(seed.as_bytes().to_vec(), changed));
    prop_oneof![9 => damaged, 1 => vec(any::<u8>(), 0..64)]
}

fn changed(mut body: Vec<u8>, change: &Damage) -> Vec<u8> {
    let length = body.len();
    let place = |at: &Index| at.index(length + 1);
    match change {
        Damage::Overwrite(at, bytes) => {
            for (slot, byte) in body.iter_mut().skip(place(at)).zip(bytes) {
                *slot = *byte;
            }
        }
        Damage::Cut(at) => body.truncate(place(at)),
        Damage::Insert(at, bytes) => {
            body.splice(place(at)..place(at), bytes.iter().copied());
        }
        Damage::Repeat(from, to, count) => {
            let part: Vec<u8> = body
                .iter()
                .skip(place(from))
                .take(usize::from(*count))
                .copied()
                .collect();
            body.splice(place(to)..place(to), part);
        }
        Damage::Value(at, odd) => {
            let members: Vec<usize> = (0..length).filter(|&at| body[at] == b':').collect();
            if !members.is_empty() {
                let begin = at.get(&members) + 1;
                let end = (begin..length)
                    .find(|&at| matches!(body[at], b',' | b'}'))
                    .unwrap_or(length);
                body.splice(begin..end, odd.get(&ODD).bytes());
            }
        }
    }
    body
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn signature(
        body in body(),
        sha256 in option::of(vec(any::<u8>(), 0..80)),
        tag in option::of("(sha(1|256|512)=)?[0-9a-fA-F]{0,66}"),
        kind in option::of(prop_oneof![
            Just("application/x-www-form-urlencoded".to_owned()), Just("application/json; charset=utf-8".to_owned()), "[ -~]{0,40}"
        ]),
    ) {
        checks::signature(&body, sha256.as_deref(), tag.as_deref().map(str::as_bytes), kind.as_deref().map(str::as_bytes));
    }

    #[test]
    fn payload(body in body()) {
        checks::payload(&body);
    }

    #[test]
    fn routing(body in body()) {
        checks::routing(&body);
    }
}

/// Most of what is tried must get past the parser, or the tests above look at nothing.
#[test]
fn damage_leaves_much_that_can_be_read() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let tried = 400;
    let bodies = (0..tried).map(|_| body().new_tree(&mut runner).expect("a body").current());
    let read = bodies.filter(|body| {
        let events = ["workflow_job", "check_run", "push", "pull_request"];
        events
            .iter()
            .any(|event| muster_github::events::parse(event, body).is_ok())
    });
    assert!(read.count() > tried / 5);
}
