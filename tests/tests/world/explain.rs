//! `kubectl muster explain` names the cause first, with a reader's rights, and shows no secret.

use muster_tests::scenarios::explain::{Extent, run};

#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_names_the_cause_first_and_shows_no_secret() {
    let figures = run(Extent::Few).await.unwrap();
    assert!(figures.is_good(), "{}", figures.line());
    assert!(figures.causes >= 12, "{}", figures.line());
}
