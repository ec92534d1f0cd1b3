use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::runtime::watcher::Event;
use muster_core::autoscale::reservation::{self, JobAction, JobEvent, JobKey, Outcome};
use muster_crds::legacy::HorizontalRunnerAutoscaler;
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::index::{Feed, Watching as _};
use crate::testing::{Bench, Fault, NOW, at, id};

fn event(job: u64, action: JobAction) -> JobEvent {
    JobEvent {
        key: JobKey::new(None, 1, job),
        action,
        runner: None,
        created_at: None,
    }
}

fn on(job: u64, action: JobAction, runner: &str) -> JobEvent {
    JobEvent {
        runner: Some(runner.into()),
        ..event(job, action)
    }
}

fn bench() -> Bench {
    Bench::new(100).with("x", "acme/api", &["linux"], None)
}

async fn commit(bench: &Bench, event: JobEvent) -> Result<Outcome, NotWritten> {
    bench
        .writers
        .commit(&id("x-hra"), event, Instant::now() + Duration::from_secs(8))
        .await
}

async fn commit_all(bench: &Bench, events: Vec<JobEvent>) -> Vec<Result<Outcome, NotWritten>> {
    futures::future::join_all(events.into_iter().map(|event| commit(bench, event))).await
}

use JobAction::{Completed, InProgress, Queued};

#[tokio::test(start_paused = true)]
async fn a_list_is_created_then_appended_to_without_precondition() {
    let bench = bench();
    assert_eq!(commit(&bench, event(1, Queued)).await, Ok(Outcome::Added));
    assert_eq!(commit(&bench, event(2, Queued)).await, Ok(Outcome::Added));
    assert_eq!(
        commit(&bench, on(1, InProgress, "x-a-b")).await,
        Ok(Outcome::Updated)
    );
    assert_eq!(
        commit(&bench, on(1, Completed, "x-a-b")).await,
        Ok(Outcome::Finished)
    );
    assert_eq!(
        commit(&bench, on(1, Completed, "x-a-b")).await,
        Ok(Outcome::AlreadyFinished)
    );
    let shapes: Vec<Vec<(String, String)>> = bench
        .cluster
        .patches()
        .iter()
        .map(|patch| {
            let text =
                |operation: &serde_json::Value, field: &str| operation[field].as_str().unwrap().to_owned();
            patch
                .as_array()
                .unwrap()
                .iter()
                .map(|op| (text(op, "op"), text(op, "path")))
                .collect()
        })
        .collect();
    let op = |op: &str, path: &str| (op.to_owned(), path.to_owned());
    let test = || op("test", "/metadata/generation");
    assert_eq!(
        shapes,
        [
            vec![test(), op("add", "/spec/capacityReservations")],
            vec![op("add", "/spec/capacityReservations/-")],
            vec![test(), op("replace", "/spec/capacityReservations/0")],
            vec![test(), op("replace", "/spec/capacityReservations/0")],
        ],
        "and nothing for what changes nothing"
    );
    assert_eq!(
        bench.cluster.jobs("x-hra"),
        [("1/1@x-a-b".into(), 0), ("1/2".into(), 1)]
    );
}

#[tokio::test(start_paused = true)]
async fn what_arrives_while_a_patch_is_under_way_shares_the_next() {
    let bench = bench();
    bench.cluster.delay(Duration::from_millis(30));
    let begun = Instant::now();
    let outcomes = commit_all(&bench, (1..=64).map(|job| event(job, Queued)).collect()).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Ok(Outcome::Added)));
    // The first is written at once, with whoever was there; all others together.
    assert!(
        bench.cluster.patches().len() <= 2,
        "{}",
        bench.cluster.patches().len()
    );
    assert!(
        begun.elapsed() <= Duration::from_millis(120),
        "{:?}",
        begun.elapsed()
    );
    let mut effective: Vec<_> = bench
        .cluster
        .ledger("x-hra")
        .iter()
        .map(|entry| entry.effective_time)
        .collect();
    assert_eq!(effective.len(), 64);
    effective.dedup();
    assert_eq!(effective.len(), 64, "each later than the one before");
}

#[tokio::test(start_paused = true)]
async fn those_who_send_again_share_the_next_patch_also_when_some_are_late() {
    const SENDERS: u64 = 32;
    const ROUNDS: u64 = 6;
    let run = async |late: fn(u64) -> Duration| {
        let bench = bench();
        bench.cluster.delay(Duration::from_millis(100));
        let begun = Instant::now();
        let senders = (0..SENDERS).map(async |sender| {
            for round in 0..ROUNDS {
                tokio::time::sleep(late(sender)).await;
                let job = event(1 + sender * ROUNDS + round, Queued);
                assert_eq!(commit(&bench, job).await, Ok(Outcome::Added));
            }
        });
        futures::future::join_all(senders).await;
        (bench.cluster.patches().len(), begun.elapsed())
    };
    // The first of all is written at once, and the others with it or in the next one.
    let rounds = usize::try_from(ROUNDS).unwrap() + 2;
    let (patches, elapsed) = run(|_| Duration::ZERO).await;
    assert!(patches <= rounds, "{patches}");
    let least = Duration::from_millis(100) * u32::try_from(patches).unwrap();
    assert_eq!(elapsed, least, "nobody else is waited for");
    let (patches, elapsed) = run(|sender| Duration::from_millis(sender / 4)).await;
    assert!(patches <= rounds, "{patches}");
    assert!(elapsed <= Duration::from_secs(1), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn writers_take_turns_and_what_waits_for_one_is_written_with_it() {
    let names: Vec<String> = (0..2 * CALLS).map(|number| format!("p{number}")).collect();
    let bench = names.iter().fold(Bench::new(100), |bench, name| {
        bench.with(name, "acme/api", &["linux"], None)
    });
    bench.cluster.delay(Duration::from_millis(30));
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(8);
    let ids: Vec<_> = names.iter().map(|name| id(&format!("{name}-hra"))).collect();
    let late = async {
        // The second half of the writers still waits for its turn.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let last = ids.last().unwrap();
        bench.writers.commit(last, event(2, Queued), deadline).await
    };
    let first = ids
        .iter()
        .map(|id| bench.writers.commit(id, event(1, Queued), deadline));
    let (outcomes, late) = futures::join!(futures::future::join_all(first), late);
    assert!(outcomes.iter().all(|outcome| *outcome == Ok(Outcome::Added)));
    assert_eq!(late, Ok(Outcome::Added));
    assert_eq!(begun.elapsed(), Duration::from_millis(60));
    assert_eq!(bench.cluster.patches().len(), names.len());
}

#[tokio::test(start_paused = true)]
async fn a_lone_sender_does_not_wait_for_company() {
    let bench = bench();
    let begun = Instant::now();
    for job in 1..=10 {
        assert_eq!(commit(&bench, event(job, Queued)).await, Ok(Outcome::Added));
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_refused_change_is_folded_again_from_what_is_there_now() {
    let bench = bench();
    commit(&bench, event(1, Queued)).await.unwrap();
    bench.cluster.faults([Fault::Overtaken]);
    assert_eq!(commit(&bench, event(1, Completed)).await, Ok(Outcome::Finished));
    assert_eq!(
        bench.cluster.jobs("x-hra"),
        [("1/1".into(), 0), ("9/9".into(), 1)]
    );
    assert_eq!(bench.metrics.conflicts.get(), 1);
    // Additions need no precondition: somebody else's entry does not disturb them.
    bench.cluster.faults([Fault::Overtaken]);
    assert_eq!(commit(&bench, event(2, Queued)).await, Ok(Outcome::Added));
    assert_eq!(bench.metrics.conflicts.get(), 1);
    assert_eq!(bench.cluster.jobs("x-hra").len(), 4);
    // The index knows that it is behind: the next change reads first instead of being refused.
    assert_eq!(commit(&bench, event(2, Completed)).await, Ok(Outcome::Finished));
    assert_eq!(bench.metrics.conflicts.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_twice_is_appended_and_so_is_what_follows() {
    let bench = bench();
    for job in 1..=20 {
        commit(&bench, event(job, Queued)).await.unwrap();
    }
    let before = bench.cluster.patches().len();
    // Somebody else writes before each of our patches.
    bench.cluster.faults([Fault::Overtaken; 100]);
    for job in 1..=20 {
        assert_eq!(
            commit(&bench, on(job, Completed, "x-a-b")).await,
            Ok(Outcome::Finished),
            "{job}"
        );
    }
    assert_eq!(
        bench.metrics.conflicts.get(),
        2,
        "only the first two were refused"
    );
    assert_eq!(bench.cluster.patches().len() - before, 2 + 20);
    let now = Timestamp::from_second(NOW).unwrap();
    let ledger = bench.cluster.ledger("x-hra");
    // The other's entries, which are all of one job.
    assert_eq!(reservation::demand(&ledger, now), 1);
    assert_eq!(reservation::compact(&ledger, now).len(), 21);
    // Once nobody disturbs any more, changes are made in place again.
    bench.cluster.clear_faults();
    tokio::time::sleep(Duration::from_secs(3)).await;
    commit(&bench, event(30, Queued)).await.unwrap();
    let entries = bench.cluster.ledger("x-hra").len();
    assert_eq!(commit(&bench, event(30, Completed)).await, Ok(Outcome::Finished));
    assert_eq!(bench.cluster.ledger("x-hra").len(), entries);
}

#[tokio::test(start_paused = true)]
async fn what_must_remove_an_entry_is_not_appended_and_not_left_behind() {
    let old = json!([{"replicas": 1, "effectiveTime": at(-10), "expirationTime": at(1800)}]);
    let bench = Bench::new(100).with("x", "acme/api", &["linux"], Some(old));
    let consuming = JobEvent {
        created_at: Timestamp::from_second(NOW - 60).ok(),
        ..on(1, Completed, "x-a-b")
    };
    commit(&bench, event(2, Queued)).await.unwrap();
    bench.cluster.faults([Fault::Overtaken; 5]);
    let outcomes = commit_all(&bench, vec![consuming, event(2, Completed), event(3, Queued)]).await;
    assert_eq!(
        outcomes,
        [Ok(Outcome::Consumed), Ok(Outcome::Finished), Ok(Outcome::Added)]
    );
    let jobs = bench.cluster.jobs("x-hra");
    assert!(jobs.iter().all(|(name, _)| !name.is_empty()), "{jobs:?}");
}

#[tokio::test(start_paused = true)]
async fn errors_are_retried_and_nothing_is_added_twice() {
    let bench = bench();
    bench
        .cluster
        .faults([Fault::FailBefore, Fault::FailAfter, Fault::FailBefore]);
    assert_eq!(
        commit(&bench, event(1, Queued)).await,
        Ok(Outcome::Unchanged),
        "the second try had been applied"
    );
    assert_eq!(bench.cluster.jobs("x-hra"), [("1/1".into(), 1)]);
    bench.cluster.faults([Fault::Hang]);
    assert_eq!(commit(&bench, event(2, Queued)).await, Ok(Outcome::Added));
    assert_eq!(bench.cluster.jobs("x-hra").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_confirmed_in_time_is_said_so() {
    let bench = bench();
    bench.cluster.faults([Fault::FailBefore; 200]);
    let begun = Instant::now();
    assert_eq!(
        commit(&bench, event(1, Queued)).await,
        Err(NotWritten::Unconfirmed)
    );
    assert_eq!(begun.elapsed(), Duration::from_secs(8));
    assert_eq!(bench.metrics.waiting.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_autoscaler_ends_its_writer_and_delays_no_other() {
    let bench = bench().with("y", "acme/web", &["linux"], None);
    commit(&bench, event(1, Queued)).await.unwrap();
    bench.cluster.delete("x-hra");
    let deadline = Instant::now() + Duration::from_secs(8);
    let y = id("y-hra");
    let (x, y) = futures::join!(
        commit(&bench, event(2, Queued)),
        bench.writers.commit(&y, event(3, Queued), deadline)
    );
    assert_eq!((x, y), (Err(NotWritten::Gone), Ok(Outcome::Added)));
    assert_eq!(commit(&bench, event(4, Queued)).await, Err(NotWritten::Gone));
    // One of the same name is another one.
    bench.cluster.put("x-hra", "x", None);
    HorizontalRunnerAutoscaler::observe(&bench.index, &bench.cluster.watched("x-hra"), false);
    assert_eq!(commit(&bench, event(5, Queued)).await, Ok(Outcome::Added));
    bench.writers.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_and_closing_commits_what_waits() {
    let bench = Bench::new(3).with("x", "acme/api", &["linux"], None);
    bench.cluster.delay(Duration::from_millis(100));
    let writers = Arc::clone(&bench.writers);
    let waiting = tokio::spawn({
        let deadline = Instant::now() + Duration::from_secs(8);
        async move {
            let id = id("x-hra");
            futures::future::join_all((1..=5).map(|job| writers.commit(&id, event(job, Queued), deadline)))
                .await
        }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    bench.writers.close().await;
    let outcomes = waiting.await.unwrap();
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| **outcome == Ok(Outcome::Added))
            .count(),
        3
    );
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| **outcome == Err(NotWritten::Busy))
            .count(),
        2
    );
    assert_eq!(bench.cluster.jobs("x-hra").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_watch_and_own_commits_agree_on_who_holds_a_job() {
    let bench = bench();
    commit(&bench, event(1, Queued)).await.unwrap();
    let holders = |job: u64| {
        let key = JobKey::new(None, 1, job);
        bench
            .index
            .with_ledger(&id("x-hra"), |ledger, _| ledger.book.holds(&key))
            .unwrap()
    };
    assert!(holders(1), "known before the watch says so");
    let mut feed = Feed::default();
    let old = bench.cluster.watched("x-hra");
    commit(&bench, event(2, Queued)).await.unwrap();
    feed.apply::<HorizontalRunnerAutoscaler>(&bench.index, Event::Apply(old));
    assert!(holders(2), "an older event does not undo a commit");
    // Somebody replaces the object: their will.
    bench.cluster.put(
        "x-hra",
        "x",
        Some(json!([{"name": "1/7", "replicas": 1, "effectiveTime": at(0), "expirationTime": at(600)}])),
    );
    let replaced = bench.cluster.watched("x-hra");
    feed.apply::<HorizontalRunnerAutoscaler>(&bench.index, Event::Init);
    feed.apply::<HorizontalRunnerAutoscaler>(&bench.index, Event::InitApply(replaced));
    assert!(feed.apply::<HorizontalRunnerAutoscaler>(&bench.index, Event::InitDone));
    assert_eq!((holders(1), holders(2), holders(7)), (false, false, true));
    feed.apply::<HorizontalRunnerAutoscaler>(&bench.index, Event::Init);
    feed.apply::<HorizontalRunnerAutoscaler>(&bench.index, Event::InitDone);
    assert!(bench.index.view(&id("x-hra")).is_none(), "not listed any more");
}

fn ledger_of(entries: usize, expired: bool) -> Bench {
    let list: Vec<_> = (0..entries)
        .map(|job| {
            let until = if expired && job % 2 == 0 { at(-1) } else { at(6000) };
            json!({"name": format!("1/{job}"), "replicas": 1, "effectiveTime": at(0), "expirationTime": until})
        })
        .collect();
    Bench::new(100).with("x", "acme/api", &["linux"], Some(json!(list)))
}

#[tokio::test]
async fn a_large_ledger_is_pruned_with_the_events_and_a_small_one_is_left_to_the_autoscaler() {
    let now = Timestamp::from_second(NOW).unwrap();
    let prepared = |bench: &Bench| {
        let new = event(1_000_000, Queued);
        bench
            .index
            .with_ledger(&id("x-hra"), |ledger, _| {
                prepare(ledger, &[&new], Mode::InPlace, SignedDuration::from_mins(30), now)
            })
            .unwrap()
    };
    assert_eq!(prepared(&ledger_of(200, true)).operations.len(), 1);
    assert_eq!(
        prepared(&ledger_of(3000, false)).operations.len(),
        1,
        "nothing to drop"
    );
    let large = prepared(&ledger_of(3000, true));
    assert_eq!(large.operations.len(), 1 + 1500 + 1);
    assert_eq!(large.operations[0]["op"], "test");
    assert!(
        (150 << 10..250 << 10).contains(&large.object_bytes),
        "{}",
        large.object_bytes
    );
}

#[tokio::test]
async fn at_one_mebibyte_new_jobs_are_refused_and_finished_ones_pass() {
    let bench = ledger_of(9_000, false);
    let now = Timestamp::from_second(NOW).unwrap();
    let events = [event(1_000_000, Queued), event(5, Completed)];
    let prepared = bench
        .index
        .with_ledger(&id("x-hra"), |ledger, _| {
            let events: Vec<&JobEvent> = events.iter().collect();
            prepare(ledger, &events, Mode::InPlace, SignedDuration::from_mins(30), now)
        })
        .unwrap();
    assert_eq!(prepared.delta.outcomes, [Outcome::Full, Outcome::Finished]);
    assert!(!prepared.operations.is_empty());
}
