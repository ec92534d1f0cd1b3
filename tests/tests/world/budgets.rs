//! GitHub budgets over simulated time; no control plane takes part.

use std::time::Duration;

use muster_tests::scenarios::budgets::{Load, simulate};

const SMALL: Load = Load {
    scopes: 4,
    runners: 16,
    minutes: 20,
    life: (5, 10),
    ephemeral: true,
    limit: 5_000,
    credentials: 1,
    etags: true,
    seed: 7,
};

#[tokio::test]
async fn twice_the_runners_cost_the_same_listings() {
    let one = simulate(&SMALL).await.unwrap();
    let two = simulate(&Load { runners: 32, ..SMALL }).await.unwrap();
    // A call a minute and scope, but for the moments at which each begins and ends.
    assert!(one.listings <= 4 * 20, "{one:?}");
    assert!(two.listings.abs_diff(one.listings) <= 4, "{one:?}\n{two:?}");
    assert!(one.free > 0 && one.waits == 0, "{one:?}");
}

#[tokio::test]
async fn a_small_limit_is_kept_and_what_is_urgent_does_not_wait() {
    let load = Load {
        limit: 120,
        minutes: 60,
        ephemeral: false,
        life: (15, 40),
        etags: false,
        ..SMALL
    };
    let one = simulate(&load).await.unwrap();
    assert_eq!(one.refused, 0, "{one:?}");
    assert!(one.charged <= 120 && one.critical > 20, "{one:?}");
    assert!(one.critical_wait <= Duration::from_secs(5), "{one:?}");
    assert!(one.waits > 0 && one.starved == 0, "the limit was felt: {one:?}");
    let three = simulate(&Load {
        credentials: 3,
        ..load
    })
    .await
    .unwrap();
    assert!(three.refused == 0 && three.most_charged <= 120, "{three:?}");
    assert!(three.charged > one.charged, "{one:?}\n{three:?}");
}
