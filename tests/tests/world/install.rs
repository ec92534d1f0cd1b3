//! The installation, as far as it needs no helm: the chart's values and rights, what it renders, and the drain that ends a release. The rest is
//! `make accept SUITE=install`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::{Api, ResourceExt, api::ListParams};
use muster_crds::legacy::Runner;
use muster_tests::{
    control_plane::{ControlPlane, manifests},
    install::{
        NAMESPACE, RELEASE,
        rights::{Right, of_rules},
        values,
    },
    keeper::{Keeper, workspace_dir},
    process::Process,
    world::{Kind, ORGANIZATION, World},
};
use serde_json::{Value, json};

#[test]
fn every_value_is_set_by_one_of_the_values_files() {
    let files: Vec<Value> = values::files()
        .unwrap()
        .iter()
        .map(|(_, path)| values::read(path).unwrap())
        .collect();
    assert!(files.len() >= 30, "{} files", files.len());
    let missing: Vec<String> = values::known()
        .unwrap()
        .iter()
        .filter(|path| !files.iter().any(|file| values::sets(file, path)))
        .map(|path| path.join("."))
        .collect();
    assert!(
        missing.is_empty(),
        "set these in a file of tests/fixtures/values: {missing:?}"
    );
}

#[test]
fn the_schema_knows_every_value_of_values_yaml() {
    fn leaves(
        value: &Value,
        path: &mut Vec<String>,
        known: &BTreeSet<Vec<String>>,
        missing: &mut Vec<String>,
    ) {
        if known.contains(path) {
            return;
        }
        match value.as_object() {
            Some(parts) if !parts.is_empty() => {
                for (name, part) in parts {
                    path.push(name.clone());
                    leaves(part, path, known, missing);
                    path.pop();
                }
            }
            // An empty section whose parts the schema lists.
            Some(_) if known.iter().any(|other| other.starts_with(path)) => {}
            _ => missing.push(path.join(".")),
        }
    }
    let mut missing = Vec::new();
    leaves(
        &values::defaults().unwrap(),
        &mut Vec::new(),
        &values::known().unwrap(),
        &mut missing,
    );
    assert!(missing.is_empty(), "values.schema.json does not know {missing:?}");
}

/// The rights in a YAML file, by the name of the role.
fn roles(file: &str) -> BTreeMap<String, BTreeSet<Right>> {
    let text = std::fs::read_to_string(workspace_dir().join(file)).unwrap();
    let mut roles: BTreeMap<String, BTreeSet<Right>> = BTreeMap::new();
    for document in manifests::parse(&text).unwrap() {
        let kind = document["kind"].as_str().unwrap_or_default();
        let hook = document.pointer("/metadata/annotations/helm.sh~1hook");
        if !["Role", "ClusterRole"].contains(&kind) || hook.is_some() {
            continue;
        }
        let rules: Vec<PolicyRule> = serde_json::from_value(document["rules"].clone()).unwrap();
        let name = document["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        roles.entry(name).or_default().extend(of_rules(&rules));
    }
    roles
}

fn union(file: &str, names: &[&str]) -> BTreeSet<Right> {
    let roles = roles(file);
    names
        .iter()
        .flat_map(|name| {
            roles
                .get(*name)
                .unwrap_or_else(|| panic!("{file} has no role {name}"))
                .clone()
        })
        .collect()
}

#[test]
fn the_charts_roles_are_those_of_config() {
    let golden = |name: &str| format!("tests/fixtures/golden/{name}.yaml");
    let own = |name: &str| format!("{RELEASE}-{name}");
    let manager = [own("manager"), own("manager-secrets")];
    let manager: Vec<&str> = manager.iter().map(String::as_str).collect();
    let rbac = "config/rbac";
    assert_eq!(
        union(&golden("default"), &manager),
        union(&format!("{rbac}/manager_role.yaml"), &["manager-role"])
    );
    assert_eq!(
        union(&golden("default"), &[&own("leader-election")]),
        union(
            &format!("{rbac}/leader_election_role.yaml"),
            &["leader-election-role"]
        )
    );
    let mut with_accounts = union(&format!("{rbac}/manager_role.yaml"), &["manager-role"]);
    for (file, name) in [
        ("runner_status_update_hook_role", "runner-status-update-hook"),
        (
            "allow_granting_kubernetes_container_mode_permissions_role",
            "allow-granting-kubernetes-container-mode-permissions",
        ),
    ] {
        with_accounts.extend(union(&format!("{rbac}/{file}.yaml"), &[name]));
    }
    assert_eq!(union(&golden("container-mode"), &manager), with_accounts);
    // One name, a ClusterRole and the Role of replay; the proxy's reviews are the chart's own.
    let mut server = union(&golden("one-namespace"), &[&own("github-webhook-server")]);
    server.retain(|right| !right.resource.ends_with("reviews"));
    let mut of_config = union(
        &format!("{rbac}/github-webhook-server_role.yaml"),
        &["github-webhook-server"],
    );
    of_config.extend(union(
        &format!("{rbac}/github-webhook-server_replay_role.yaml"),
        &["github-webhook-server-replay"],
    ));
    assert_eq!(server, of_config);
    assert_eq!(
        union(&golden("own-certificate"), &[&own("manager-admission")]),
        union(
            &format!("{rbac}/admission_self_signed_role.yaml"),
            &["admission-self-signed"]
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_chart_renders_is_strictly_valid() {
    let plane = ControlPlane::shared().await.unwrap();
    let client = plane.admin().await.unwrap();
    let foreign = workspace_dir().join("tests/fixtures/foreign-kinds");
    manifests::apply_crds(&client, &foreign).await.unwrap();
    for ns in [NAMESPACE, "runners"] {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ns}});
        manifests::apply_value(&client, ns, &namespace).await.unwrap();
    }
    let mut objects = 0;
    for (file, text) in manifests::yaml_files(&workspace_dir().join("tests/fixtures/golden")).unwrap() {
        for document in manifests::parse(&text).unwrap() {
            let valid = manifests::validate(&client, NAMESPACE, &document).await;
            valid.unwrap_or_else(|error| panic!("{file}: {error:#}"));
            objects += 1;
        }
    }
    assert!(objects > 100, "{objects} objects");
}

/// `manager drain`, with the command line that the world's manager has.
async fn drain(world: &World, keeper: &std::sync::Arc<Keeper>) -> Process {
    let mut manager = world.manager.lock().await;
    let manager = manager.as_mut().unwrap();
    let mut command = manager.command_mut().clone();
    manager.kill().unwrap();
    command.name = "drain".to_owned();
    command.args.insert(0, "drain".to_owned());
    command.args.push("--drain-timeout=60s".to_owned());
    command.ready = None;
    Process::start(keeper, command).await.unwrap()
}

async fn a_drain_ends_all_runners_and_frees_what_users_wrote(kind: Kind) {
    let world = World::builder("drain").kind(kind).start().await.unwrap();
    let keeper = std::sync::Arc::new(Keeper::new("drain").unwrap());
    world.pool("pool", |pool| pool.replicas = Some(3)).await.unwrap();
    let lone = json!({"apiVersion": "actions.summerwind.dev/v1alpha1", "kind": "Runner", "metadata": {"name": "lone"},
        "spec": {"organization": ORGANIZATION, "labels": ["lone"]}});
    world.apply(&lone.to_string()).await.unwrap();
    let patience = Duration::from_secs(90);
    let registered = async |world: &World| Ok(world.github.runners().len() == 4);
    world
        .until("all runners are registered", patience, registered)
        .await
        .unwrap();
    world.queue_job(Duration::from_secs(6));
    let busy = async |world: &World| Ok(world.github.runners().iter().any(|runner| runner.busy));
    world.until("one is busy", patience, busy).await.unwrap();

    let mut process = drain(&world, &keeper).await;
    let ended = process.running_mut().unwrap().wait(patience).await.unwrap();
    assert!(ended.success(), "{}", process.log_tail(4_000));

    assert_eq!(world.github.job_stats().open(), 0, "the job was not waited for");
    assert!(world.github.runners().is_empty(), "{:?}", world.github.runners());
    let left = world.leftovers().await.unwrap();
    assert_eq!(
        (left.pods, left.stateful_sets, left.registered),
        (0, 0, 0),
        "{left:?}"
    );
    // What users wrote is there, and nothing holds it.
    let runners: Api<Runner> = world.api();
    let runners = runners.list(&ListParams::default()).await.unwrap().items;
    let names: Vec<String> = runners.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["lone"]);
    assert!(
        runners[0].finalizers().is_empty(),
        "{:?}",
        runners[0].finalizers()
    );
    assert_eq!(world.pool_state("pool").await.unwrap().desired, Some(3));
    let violations = world.github.violations();
    assert!(violations.is_empty(), "{violations:?}");
}

over_both_kinds!(a_drain_ends_all_runners_and_frees_what_users_wrote);

#[tokio::test(flavor = "multi_thread")]
async fn definitions_are_brought_up_to_date() {
    let world = World::builder("definitions").start().await.unwrap();
    let keeper = std::sync::Arc::new(Keeper::new("definitions").unwrap());
    let mut command = world.manager.lock().await.as_mut().unwrap().command_mut().clone();
    command.name = "definitions".to_owned();
    command.args.insert(0, "definitions".to_owned());
    command.ready = None;
    // The manager's own account may not.
    let mut refused = Process::start(&keeper, command.clone()).await.unwrap();
    let ended = refused
        .running_mut()
        .unwrap()
        .wait(Duration::from_secs(30))
        .await
        .unwrap();
    assert!(!ended.success());
    assert!(
        refused.log_tail(4_000).contains("could not apply the definition"),
        "{}",
        refused.log_tail(4_000)
    );
    let admin: &Path = &world.admin_kubeconfig().unwrap();
    command.args.push(format!("--kubeconfig={}", admin.display()));
    let mut process = Process::start(&keeper, command).await.unwrap();
    let ended = process
        .running_mut()
        .unwrap()
        .wait(Duration::from_secs(30))
        .await
        .unwrap();
    assert!(ended.success(), "{}", process.log_tail(4_000));
}
