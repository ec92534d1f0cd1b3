//! The control plane itself: it serves what the other tests build on, and it never outlives its owner.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use muster_tests::control_plane::{ControlPlane, MANAGER, Options, client_from, manifests};

/// Set for the process that [`nothing_is_left_when_the_owner_is_killed`] kills.
const HOLD: &str = "MUSTER_TEST_HOLD_CONTROL_PLANE";

#[tokio::test]
async fn control_plane_serves_kubernetes_and_our_kinds() {
    let plane = ControlPlane::shared().await.unwrap();
    let client = plane.admin().await.unwrap();
    let version = client.apiserver_version().await.unwrap();
    assert!(version.git_version.starts_with("v1."), "{version:?}");
    let ns = plane.namespace("serves").await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &ns);
    assert!(pods.list(&ListParams::default()).await.unwrap().items.is_empty());
    for name in plane.crds() {
        assert!(name.ends_with(".actions.summerwind.dev"), "{name}");
    }
}

#[tokio::test]
async fn strict_validation_names_the_unknown_field() {
    let plane = ControlPlane::shared().await.unwrap();
    let client = plane.admin().await.unwrap();
    let ns = plane.namespace("strict").await.unwrap();
    let good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n";
    let bad = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndate: {k: v}\n";
    let applied = manifests::apply_yaml(&client, &ns, &format!("---\n{good}---\n{good}"))
        .await
        .unwrap();
    assert_eq!(applied.len(), 2);
    let error = manifests::apply_yaml(&client, &ns, bad).await.unwrap_err();
    assert!(format!("{error:#}").contains("date"), "{error:#}");
}

#[tokio::test]
async fn users_have_the_rights_that_the_authorizer_gives_them() {
    let plane = ControlPlane::shared().await.unwrap();
    let ns = plane.namespace("rights").await.unwrap();
    let account = client_from(&plane.service_account(&ns, "robot").await.unwrap())
        .await
        .unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(account, &ns);
    let refused = maps.list(&ListParams::default()).await.unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.is_forbidden()),
        "{refused}"
    );
    let role = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: read-maps}, \
                rules: [{apiGroups: [''], resources: [configmaps], verbs: [list]}]}";
    manifests::apply_yaml(&plane.admin().await.unwrap(), &ns, role)
        .await
        .unwrap();
    plane
        .grant(&format!("system:serviceaccount:{ns}:robot"), "read-maps")
        .await
        .unwrap();
    // The authorizer learns of a binding by its own watch.
    let until = Instant::now() + Duration::from_secs(10);
    while let Err(error) = maps.list(&ListParams::default()).await {
        assert!(Instant::now() < until, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let write = maps
        .create(&PostParams::default(), &ConfigMap::default())
        .await
        .unwrap_err();
    assert!(
        matches!(&write, kube::Error::Api(status) if status.is_forbidden()),
        "{write}"
    );
    assert!(plane.kubeconfig(MANAGER).unwrap().exists());
}

#[tokio::test]
async fn nothing_is_left_when_the_owner_is_killed() {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args([
            "control_plane::hold_a_control_plane",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env(HOLD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(owner.stdout.take().unwrap());
    let line = tokio::task::spawn_blocking(move || {
        output
            .lines()
            .map_while(Result::ok)
            .find(|line| line.contains("HOLDING "))
            .unwrap()
    })
    .await
    .unwrap();
    let mut words = line
        .split("HOLDING ")
        .nth(1)
        .unwrap()
        .split(' ')
        .map(str::to_owned);
    let dir = words.next().unwrap();
    let pids: Vec<String> = words.collect();
    assert_eq!(pids.len(), 3);
    assert!(Path::new(&dir).exists());
    assert!(pids.iter().all(|pid| is_alive(pid)));

    owner.kill().unwrap();
    owner.wait().unwrap();

    let until = Instant::now() + Duration::from_secs(20);
    while Path::new(&dir).exists() || pids.iter().any(|pid| is_alive(pid)) {
        assert!(Instant::now() < until, "left behind: {dir} or {pids:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
#[ignore = "only as the process that another test kills"]
async fn hold_a_control_plane() {
    if std::env::var_os(HOLD).is_none() {
        return;
    }
    let plane = ControlPlane::start_with(Options {
        crds: None,
        ..Options::default()
    })
    .await
    .unwrap();
    let pids: Vec<String> = plane.pids().iter().map(ToString::to_string).collect();
    println!("\nHOLDING {} {}", plane.dir().display(), pids.join(" "));
    tokio::time::sleep(Duration::from_mins(10)).await;
}

/// Whether the process exists and is no zombie.
fn is_alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}
