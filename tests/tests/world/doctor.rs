//! Every fault that `kubectl muster doctor` knows is found first, with a remedy, and a healthy installation has none.

use muster_tests::scenarios::doctor;

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_found_and_health_is_recognised() {
    let figures = doctor::run().await.unwrap();
    assert_eq!(figures.healthy, [""; 0]);
    assert_eq!(figures.may_write, [""; 0]);
    assert!(figures.faults.len() >= 20, "{}", figures.faults.len());
    assert_eq!(figures.missed(), [""; 0]);
}
