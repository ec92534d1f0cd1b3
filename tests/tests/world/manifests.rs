//! Custom resources on the real API server: every sample applies strictly, every rejection is as documented (spec 01 §13).

use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use muster_tests::{
    control_plane::{ControlPlane, manifests},
    keeper::workspace_dir,
};
use serde::Deserialize;
use serde_json::{Value, json};

fn resource(object: &DynamicObject) -> ApiResource {
    let types = object.types.as_ref().unwrap();
    let kind = GroupVersionKind::try_from(types).unwrap();
    let plural = format!("{}s", kind.kind.to_lowercase());
    ApiResource::from_gvk_with_plural(&kind, &plural)
}

/// Creates an object as `kubectl create --validate=…` does: a plain POST (server-side apply is stricter about nulls and unknown fields).
async fn create(
    client: &Client,
    ns: &str,
    object: &DynamicObject,
    validation: &str,
    dry_run: bool,
) -> kube::Result<Value> {
    let resource = resource(object);
    let dry_run = if dry_run { "&dryRun=All" } else { "" };
    let uri = format!(
        "/{}/{}/namespaces/{ns}/{}?fieldValidation={validation}{dry_run}",
        if resource.group.is_empty() { "api" } else { "apis" },
        resource.api_version,
        resource.plural
    );
    let body = serde_json::to_vec(object).unwrap();
    let request = http::Request::post(uri)
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    client.request(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_applies_with_strict_validation() {
    let plane = ControlPlane::shared().await.unwrap();
    let client = plane.admin().await.unwrap();
    let samples = workspace_dir().join("config/samples");
    let mut applied = 0;
    for dir in [
        samples.clone(),
        samples.join("legacy"),
        samples.join("runnersets"),
    ] {
        for (file, text) in manifests::yaml_files(&dir).unwrap() {
            if file.ends_with("kustomization.yaml") {
                continue;
            }
            // Samples may use the same names.
            let ns = plane.namespace("samples").await.unwrap();
            for document in manifests::parse(&text).unwrap() {
                let object: DynamicObject = serde_json::from_value(document).unwrap();
                let created = create(&client, &ns, &object, "Strict", false).await;
                created.unwrap_or_else(|error| panic!("{file}: {error}"));
                applied += 1;
            }
        }
    }
    assert!(applied >= 17, "{applied} objects");
}

#[derive(Deserialize)]
struct Rejection {
    name: String,
    by: String,
    manifest: Value,
    status: Option<Value>,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rejection_is_as_documented() {
    let plane = ControlPlane::shared().await.unwrap();
    let client = plane.admin().await.unwrap();
    let ns = plane.namespace("rejections").await.unwrap();
    let text = std::fs::read_to_string(workspace_dir().join("tests/fixtures/rejections.yaml")).unwrap();
    let rows = manifests::parse(&text).unwrap();
    assert!(rows.len() >= 50, "{} rows", rows.len());
    for (index, row) in rows.into_iter().enumerate() {
        let row: Rejection = serde_json::from_value(row).unwrap();
        let mut object: DynamicObject = serde_json::from_value(row.manifest).unwrap();
        object.metadata.name = Some(format!("row-{index}"));
        object.metadata.namespace = Some(ns.clone());
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &ns, &resource(&object));
        // A webhook may only reject what the schema lets through.
        let allowed_by_schema =
            matches!(row.by.as_str(), "accepted" | "webhook" | "strict") || row.status.is_some();
        let relaxed = create(&client, &ns, &object, "Warn", row.status.is_none()).await;
        assert_eq!(
            relaxed.is_ok(),
            allowed_by_schema,
            "{}: {:?}",
            row.name,
            relaxed.err()
        );
        if row.status.is_some() {
            object.metadata.name = Some(format!("row-{index}-strict"));
        }
        let strict = create(&client, &ns, &object, "Strict", true).await;
        assert_eq!(
            strict.is_ok(),
            allowed_by_schema && row.by != "strict",
            "{} (strict): {:?}",
            row.name,
            strict.err()
        );
        if let Some(status) = row.status {
            object.metadata.name = Some(format!("row-{index}"));
            let patch = Patch::Merge(json!({ "status": status }));
            let written = api
                .patch_status(&object.name_any(), &PatchParams::default(), &patch)
                .await;
            assert_eq!(
                written.is_ok(),
                row.by == "accepted",
                "{} (status): {:?}",
                row.name,
                written.err()
            );
        }
    }
}
