//! The admission webhooks as the real API server calls them: `config/webhook`, pointed at a manager on loopback.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::{GroupVersionKind, Status},
};
use muster_crds::legacy::{HorizontalRunnerAutoscaler, RunnerDeployment};
use muster_tests::{
    control_plane::{MANAGER, manifests},
    keeper::workspace_dir,
    world::{LABEL, ORGANIZATION, World, wait_until_allowed},
};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_mins(1);
const TOKEN_EXPIRES_AT: &str = "actions-runner-controller/token-expires-at";

/// A manager that serves webhooks, and the configurations that send it what happens in the world's namespace.
struct Admitted {
    world: World,
}

impl Admitted {
    async fn start(name: &str) -> Self {
        let world = World::builder(name).admission().start().await.unwrap();
        Self { world }
    }

    fn client(&self) -> Client {
        self.world.client.clone()
    }

    /// Creates an object of our group as a client without field validation does.
    async fn create(&self, object: &Value, dry_run: bool) -> kube::Result<DynamicObject> {
        let mut object = object.clone();
        object["apiVersion"] = json!("actions.summerwind.dev/v1alpha1");
        object["metadata"]["namespace"] = json!(self.world.ns);
        let kind = object["kind"].as_str().unwrap();
        let resource =
            ApiResource::from_gvk(&GroupVersionKind::gvk("actions.summerwind.dev", "v1alpha1", kind));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client(), &self.world.ns, &resource);
        let object = serde_json::from_value(object).unwrap();
        let params = PostParams {
            dry_run,
            ..PostParams::default()
        };
        api.create(&params, &object).await
    }

    async fn create_pod(&self, pod: Value) -> kube::Result<Pod> {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.world.api().create(&PostParams::default(), &pod).await
    }

    async fn unregister(self) {
        self.world.unregister_webhooks().await.unwrap();
    }
}

fn resource(object: &DynamicObject) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap())
}

/// Starts the world's manager anew and answers the port of its webhooks.
async fn restart(world: &World, env: &[(&str, &str)], args: &[&str]) -> u16 {
    let mut manager = world.manager.lock().await;
    let manager = manager.as_mut().unwrap();
    let command = manager.command_mut();
    for (name, value) in env {
        command.env.insert((*name).to_owned(), (*value).to_owned());
    }
    command.args.extend(args.iter().map(|arg| (*arg).to_owned()));
    let port = command
        .args
        .iter()
        .find_map(|arg| arg.strip_prefix("--port="))
        .unwrap();
    let port = port.parse().unwrap();
    manager.restart().await.unwrap();
    port
}

fn status<T: std::fmt::Debug>(answer: kube::Result<T>) -> Status {
    match answer.unwrap_err() {
        kube::Error::Api(status) => *status,
        other => panic!("{other}"),
    }
}

/// A pod as a StatefulSet makes it for a RunnerSet, for the simulated node.
fn runner_pod(world: &World, metadata: &Value) -> Value {
    let env = json!([
        {"name": "RUNNER_ORG", "value": ORGANIZATION}, {"name": "RUNNER_REPO", "value": ""},
        {"name": "RUNNER_ENTERPRISE", "value": ""}, {"name": "RUNNER_LABELS", "value": LABEL},
        {"name": "RUNNER_EPHEMERAL", "value": "true"}, {"name": "GITHUB_URL", "value": world.github.base_url()},
    ]);
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {"restartPolicy": "Always", "containers": [{"name": "runner", "image": "runner", "env": env}]},
    })
}

fn labelled(name: &str) -> Value {
    json!({"name": name, "labels": {"actions-runner-controller/inject-registration-token": "true"}})
}

/// A variable of the container `runner`: its value, and whether it comes from elsewhere.
fn variable(pod: &Pod, name: &str) -> Option<(Option<String>, bool)> {
    let containers = &pod.spec.as_ref()?.containers;
    let env = containers
        .iter()
        .find(|container| container.name == "runner")?
        .env
        .clone()?;
    let variable = env.into_iter().find(|variable| variable.name == name)?;
    Some((variable.value, variable.value_from.is_some()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_work_is_refused_with_its_causes() {
    let admitted = Admitted::start("refused-objects").await;
    let text = fs::read_to_string(workspace_dir().join("tests/fixtures/rejections.yaml")).unwrap();
    let (mut refused, mut accepted) = (0, 0);
    for row in manifests::parse(&text).unwrap() {
        let (name, by) = (row["name"].as_str().unwrap(), row["by"].as_str().unwrap());
        let created = admitted.create(&row["manifest"], true).await;
        match by {
            "accepted" => {
                assert!(created.is_ok(), "{name}: {:?}", created.err());
                accepted += 1;
            }
            "webhook" => {
                let status = status(created);
                assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"), "{name}");
                assert!(
                    status.message.starts_with("admission webhook \"validate."),
                    "{name}: {}",
                    status.message
                );
                let details = status.details.unwrap();
                assert_eq!(details.group, "actions.summerwind.dev");
                assert_eq!(details.kind, row["manifest"]["kind"].as_str().unwrap());
                let path = if details.kind == "Runner" {
                    "spec"
                } else {
                    "spec.template.spec"
                };
                let field = if name.contains("kubernetes mode") {
                    "workVolumeClaimTemplate"
                } else {
                    "repository"
                };
                let causes: Vec<_> = details
                    .causes
                    .iter()
                    .map(|cause| (cause.reason.as_str(), cause.field.as_str()))
                    .collect();
                assert_eq!(
                    causes,
                    [("FieldValueInvalid", format!("{path}.{field}").as_str())],
                    "{name}"
                );
                refused += 1;
            }
            _ => {}
        }
    }
    assert!(
        refused >= 5 && accepted >= 15,
        "{refused} refused, {accepted} accepted"
    );

    new_kinds(&admitted).await;
    old_review_version(&admitted).await;
    admitted.unregister().await;
}

/// RunnerSet and autoscaler: refused is what never worked; the rest is a warning, which clients print.
async fn new_kinds(admitted: &Admitted) {
    let set = |labels: Value| {
        json!({"kind": "RunnerSet", "metadata": {"name": "set"}, "spec": {
            "organization": ORGANIZATION, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": labels}},
        }})
    };
    assert!(admitted.create(&set(json!({"a": "b"})), true).await.is_ok());
    let refused = status(admitted.create(&set(json!({"a": "c"})), true).await);
    assert_eq!(refused.details.unwrap().causes[0].field, "spec.selector");

    let body = json!({
        "apiVersion": "actions.summerwind.dev/v1alpha1", "kind": "HorizontalRunnerAutoscaler", "metadata": {"name": "a"},
        "spec": {"scaleTargetRef": {"name": "pool"}, "minReplicas": 1},
    });
    let uri = format!(
        "/apis/actions.summerwind.dev/v1alpha1/namespaces/{}/horizontalrunnerautoscalers?dryRun=All",
        admitted.world.ns
    );
    let request = http::Request::post(uri)
        .header("content-type", "application/json")
        .body(kube::client::Body::from(body.to_string().into_bytes()))
        .unwrap();
    let answer = admitted.client().send(request).await.unwrap();
    assert_eq!(answer.status(), 201);
    let warning = answer.headers().get("warning").unwrap().to_str().unwrap();
    assert!(warning.contains("spec.maxReplicas is missing"), "{warning}");
}

/// Configurations of ARC register `v1beta1` alone.
async fn old_review_version(admitted: &Admitted) {
    for hook in &admitted.world.webhooks {
        let mut webhooks = hook.data["webhooks"].clone();
        for webhook in webhooks.as_array_mut().unwrap() {
            webhook["admissionReviewVersions"] = json!(["v1beta1"]);
        }
        let api: Api<DynamicObject> = Api::all_with(admitted.client(), &resource(hook));
        let patch = Patch::Merge(json!({"webhooks": webhooks}));
        api.patch(&hook.name_any(), &PatchParams::default(), &patch)
            .await
            .unwrap();
    }
    // The API server takes over the change by and by; whichever version it speaks, the answer is the same.
    for _ in 0..20 {
        let bad = json!({"kind": "Runner", "metadata": {"name": "probe"}});
        assert_eq!(status(admitted.create(&bad, true).await).code, 422);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let pod = admitted
        .create_pod(runner_pod(&admitted.world, &labelled("beta")))
        .await
        .unwrap();
    assert_eq!(pod.spec.unwrap().restart_policy.as_deref(), Some("Never"));
}

#[tokio::test(flavor = "multi_thread")]
async fn runner_pods_get_what_they_register_with() {
    let admitted = Admitted::start("completed-pods").await;
    let world = &admitted.world;
    let pod = admitted
        .create_pod(runner_pod(world, &labelled("set-0")))
        .await
        .unwrap();
    assert_eq!(
        variable(&pod, "RUNNER_NAME"),
        Some((Some("set-0".to_owned()), false))
    );
    let (token, _) = variable(&pod, "RUNNER_TOKEN").unwrap();
    assert!(!token.unwrap().is_empty());
    assert!(pod.annotations()[TOKEN_EXPIRES_AT].ends_with('Z'));
    assert_eq!(
        pod.spec.as_ref().unwrap().restart_policy.as_deref(),
        Some("Never")
    );
    // The token is one: the runner comes up.
    world
        .until("the runner is registered", MINUTE, async |world: &World| {
            Ok(world.github.runners().iter().any(|runner| runner.name == "set-0"))
        })
        .await
        .unwrap();

    let mut nameless = labelled("");
    nameless["name"] = Value::Null;
    nameless["generateName"] = json!("drawn-");
    let pod = admitted.create_pod(runner_pod(world, &nameless)).await.unwrap();
    let (value, refers) = variable(&pod, "RUNNER_NAME").unwrap();
    assert!(refers || value == Some(pod.name_any()), "{value:?}");

    // Without the label, or without the variables, nothing is touched.
    let unlabelled = runner_pod(world, &json!({"name": "unlabelled"}));
    let mut other = runner_pod(world, &labelled("other"));
    other["spec"]["containers"][0]["env"] = json!([{"name": "RUNNER_ORG", "value": "acme"}]);
    for pod in [unlabelled, other] {
        let made = admitted.create_pod(pod).await.unwrap();
        assert_eq!(variable(&made, "RUNNER_TOKEN"), None);
        assert_eq!(
            made.spec.as_ref().unwrap().restart_policy.as_deref(),
            Some("Always")
        );
        assert!(!made.annotations().contains_key(TOKEN_EXPIRES_AT));
    }

    // No Secret, no token, no pod: and the sentence says which.
    let mut lost = labelled("lost");
    lost["annotations"] = json!({"actions-runner/github-api-creds-secret": "nowhere"});
    let refused = status(admitted.create_pod(runner_pod(world, &lost)).await);
    assert_eq!(refused.code, 500);
    assert!(refused.message.contains("/nowhere"), "{}", refused.message);
    admitted.unregister().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_is_down_blocks_nobody_else() {
    let admitted = Admitted::start("hook-down").await;
    let world = &admitted.world;
    // The world itself has asked whether the webhook answers.
    let before = world.metrics("manager").await.unwrap();
    world
        .deployment("pool", |spec| spec.replicas = Some(1))
        .await
        .unwrap();
    world.autoscaler("ledger", "nobody", |_| {}).await.unwrap();
    world
        .until("the pool's runner is there", MINUTE, async |world: &World| {
            Ok(!world.pods().await?.is_empty())
        })
        .await
        .unwrap();
    // It came with a token: nobody asked the webhook.
    let metrics = world.metrics("manager").await.unwrap();
    let answers = |metrics: &str, hook: &str| {
        let line = format!("muster_admission_answers_total{{webhook=\"{hook}\"");
        let found = metrics.lines().filter(|found| found.starts_with(&line));
        found.map(str::to_owned).collect::<Vec<_>>()
    };
    let (validate, pod) = (
        "/validate-actions-summerwind-dev-v1alpha1-runnerdeployment",
        "/mutate-runner-set-pod",
    );
    assert!(!answers(&metrics, validate).is_empty(), "{metrics}");
    assert_eq!(answers(&metrics, pod), answers(&before, pod));
    let complete = world.pods().await.unwrap().remove(0);

    world.kill_manager().await.unwrap();
    let begun = Instant::now();
    let mut unrelated = runner_pod(world, &json!({"name": "unrelated"}));
    unrelated["spec"]["containers"][0]["name"] = json!("app");
    admitted.create_pod(unrelated).await.unwrap();
    let mut again = Pod {
        spec: complete.spec.clone(),
        ..Pod::default()
    };
    again.metadata.name = Some("again".to_owned());
    again.metadata.labels = complete.metadata.labels.clone();
    again.spec.as_mut().unwrap().node_name = None;
    world.api().create(&PostParams::default(), &again).await.unwrap();
    // What the manager and the webhook server write, and finalizers, do not wait for it either.
    let scale = Patch::Merge(json!({"metadata": {"finalizers": []}, "spec": {"replicas": 2}}));
    let deployments: Api<RunnerDeployment> = world.api();
    deployments
        .patch("pool", &PatchParams::default(), &scale)
        .await
        .unwrap();
    let demand = Patch::Merge(json!({"spec": {"capacityReservations": [{"replicas": 1}]}}));
    let autoscalers: Api<HorizontalRunnerAutoscaler> = world.api();
    autoscalers
        .patch("ledger", &PatchParams::default(), &demand)
        .await
        .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

    // A RunnerSet's pod could not work without a token, and nobody judges a new object.
    let refused = status(admitted.create_pod(runner_pod(world, &labelled("set-0"))).await);
    assert!(
        refused.message.contains("failed calling webhook"),
        "{}",
        refused.message
    );
    let template = json!({"spec": {"organization": ORGANIZATION}});
    let object =
        json!({"kind": "RunnerDeployment", "metadata": {"name": "new"}, "spec": {"template": template}});
    assert!(admitted.create(&object, true).await.is_err());
    world.restart_manager().await.unwrap();
    assert!(admitted.create(&object, true).await.is_ok());
    admitted.unregister().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_invalid_can_still_be_deleted() {
    let admitted = Admitted::start("invalid-stored").await;
    let world = &admitted.world;
    let deployments: Api<RunnerDeployment> = world.api();
    let good = json!({"kind": "RunnerDeployment", "metadata": {"name": "good", "finalizers": ["example.com/keep"]}, "spec": {
        "replicas": 0, "template": {"spec": {"organization": ORGANIZATION}},
    }});
    admitted.create(&good, false).await.unwrap();
    let worse = Patch::Merge(json!({"spec": {"template": {"spec": {"organization": null}}}}));
    let refused = status(deployments.patch("good", &PatchParams::default(), &worse).await);
    assert_eq!(refused.reason, "Invalid");
    deployments
        .delete("good", &DeleteParams::default())
        .await
        .unwrap();
    deployments
        .patch("good", &PatchParams::default(), &worse)
        .await
        .unwrap();
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    deployments
        .patch("good", &PatchParams::default(), &free)
        .await
        .unwrap();
    world
        .until("it is gone", MINUTE, async |_| {
            Ok(deployments.get_opt("good").await?.is_none())
        })
        .await
        .unwrap();
    admitted.unregister().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_made_certificate_is_announced_and_served() {
    let world = World::new("self-signed").await.unwrap();
    let hooks = world.register_webhooks(|_| {}).await.unwrap();
    grant(&world, &hooks).await;
    let port = restart(
        &world,
        &[
            ("TMPDIR", &world.dir().join("empty").display().to_string()),
            ("POD_NAMESPACE", "muster-system"),
        ],
        &["--admission-self-signed"],
    )
    .await;
    let api: Api<Secret> = Api::namespaced(world.client.clone(), "muster-system");
    let secret = api.get("webhook-service-self-signed").await.unwrap();
    let authorities = secret.data.as_ref().unwrap()["ca.crt"].0.clone();
    let expected = json!(STANDARD.encode(&authorities));
    for hook in &hooks {
        let api: Api<DynamicObject> = Api::all_with(world.client.clone(), &resource(hook));
        let now = api.get(&hook.name_any()).await.unwrap();
        for webhook in now.data["webhooks"].as_array().unwrap() {
            assert_eq!(
                webhook["clientConfig"]["caBundle"], expected,
                "{}",
                webhook["name"]
            );
        }
    }

    // There is no Service network here: call as the API server would.
    let host = "webhook-service.muster-system.svc";
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(&authorities).unwrap()])
        .resolve(host, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .build()
        .unwrap();
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "operation": "CREATE", "object": {"metadata": {"name": "a"}},
    }});
    let url = format!("https://{host}:{port}/validate-actions-summerwind-dev-v1alpha1-runner");
    let answer = client.post(url).json(&review).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["response"]["status"]["code"], 422);

    // A second start keeps the certificate that the first one made.
    world.restart_manager().await.unwrap();
    let later = api.get("webhook-service-self-signed").await.unwrap();
    assert_eq!(later.data, secret.data);
    api.delete("webhook-service-self-signed", &DeleteParams::default())
        .await
        .unwrap();
    for hook in &hooks {
        let api: Api<DynamicObject> = Api::all_with(world.client.clone(), &resource(hook));
        api.delete(&hook.name_any(), &DeleteParams::default())
            .await
            .unwrap();
    }
}

/// The rights of `config/rbac/admission_self_signed_role.yaml`, for configurations of these names.
async fn grant(world: &World, hooks: &[DynamicObject]) {
    let path = workspace_dir().join("config/rbac/admission_self_signed_role.yaml");
    let text = fs::read_to_string(path).unwrap();
    let names: Vec<String> = hooks.iter().map(ResourceExt::name_any).collect();
    for mut document in manifests::parse(&text).unwrap() {
        if document["kind"] == "ClusterRole" {
            for rule in document["rules"].as_array_mut().unwrap() {
                if rule.get("resourceNames").is_some() {
                    rule["resourceNames"] = json!(names);
                }
            }
        }
        manifests::apply_value(&world.client, "muster-system", &document)
            .await
            .unwrap();
    }
    let manager = world.plane().unwrap().client(MANAGER).await.unwrap();
    for resource in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        wait_until_allowed(&manager, "list", "admissionregistration.k8s.io", resource)
            .await
            .unwrap();
    }
}
