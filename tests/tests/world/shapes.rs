//! Every shape of a runner's pod on the real API server. Their contents are snapshots in `muster-core`.

use muster_tests::{control_plane::ControlPlane, scenarios::shapes};

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_of_a_pod_is_accepted() {
    let plane = ControlPlane::shared().await.unwrap();
    let figures = shapes::run(&plane).await.unwrap();
    assert!(figures.refused.is_empty(), "{}", figures.refused.join("\n"));
    assert!(figures.shapes >= 40, "{} shapes", figures.shapes);
}
