//! Changes of objects of any kind that can be undone.

use anyhow::{Context, Result};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    discovery::{self, Scope},
};
use serde_json::{Value, json};

use crate::control_plane::manifests;

/// Which object.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    /// `group/version`, or `v1`.
    pub(super) api: &'static str,
    pub(super) kind: &'static str,
    pub(super) namespace: &'static str,
    pub(super) name: &'static str,
}

/// One change.
pub(super) enum Edit {
    /// An object that was not there.
    Create(Value),
    /// An object that was not there, with this status.
    CreateWithStatus(Value, Value),
    /// An object that was not there and is deleted at once: its finalizers keep it.
    CreateDeleted(Value),
    /// Another text of an object.
    Change(At, fn(&mut Value)),
    /// Another status.
    ChangeStatus(At, fn(&mut Value)),
    /// The object goes.
    Delete(At),
}

/// How a change is undone.
pub(super) enum Undo {
    Remove(Value),
    Restore(Value),
    RestoreStatus(Value),
    Recreate(Value),
}

pub(super) struct Editor {
    client: Client,
}

impl Editor {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    async fn api(&self, api: &str, kind: &str, namespace: &str) -> Result<Api<DynamicObject>> {
        let (group, version) = api.split_once('/').unwrap_or(("", api));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let (resource, capabilities) = discovery::pinned_kind(&self.client, &gvk)
            .await
            .with_context(|| format!("the API server does not serve {kind}"))?;
        Ok(match capabilities.scope {
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), namespace, &resource),
        })
    }

    async fn api_of(&self, object: &Value) -> Result<(Api<DynamicObject>, String)> {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let api = self
            .api(text("/apiVersion"), text("/kind"), text("/metadata/namespace"))
            .await?;
        Ok((api, text("/metadata/name").to_owned()))
    }

    async fn get(&self, at: At) -> Result<(Api<DynamicObject>, Value)> {
        let api = self.api(at.api, at.kind, at.namespace).await?;
        let object = api.get(at.name).await;
        let object = object.with_context(|| format!("could not get {} {}", at.kind, at.name))?;
        let mut value = serde_json::to_value(object).context("could not write an object")?;
        if let Some(fields) = value.as_object_mut() {
            fields.insert("apiVersion".to_owned(), json!(at.api));
            fields.insert("kind".to_owned(), json!(at.kind));
        }
        Ok((api, value))
    }

    pub(super) async fn apply(&self, edits: Vec<Edit>) -> Result<Vec<Undo>> {
        let mut undo = Vec::new();
        for edit in edits {
            undo.push(self.one(edit).await?);
        }
        Ok(undo)
    }

    async fn one(&self, edit: Edit) -> Result<Undo> {
        match edit {
            Edit::Create(object) => {
                self.create(&object).await?;
                Ok(Undo::Remove(object))
            }
            Edit::CreateWithStatus(object, status) => {
                self.create(&object).await?;
                let (api, name) = self.api_of(&object).await?;
                let patch = Patch::Merge(json!({ "status": status }));
                api.patch_status(&name, &PatchParams::default(), &patch)
                    .await
                    .context("could not write a status")?;
                Ok(Undo::Remove(object))
            }
            Edit::CreateDeleted(object) => {
                self.create(&object).await?;
                let (api, name) = self.api_of(&object).await?;
                let deleted = api.delete(&name, &DeleteParams::default()).await;
                deleted.map(drop).context("could not delete an object")?;
                Ok(Undo::Remove(object))
            }
            Edit::Change(at, change) => {
                let (api, before) = self.get(at).await?;
                let mut after = before.clone();
                change(&mut after);
                replace(&api, at.name, after, false).await?;
                Ok(Undo::Restore(before))
            }
            Edit::ChangeStatus(at, change) => {
                let (api, before) = self.get(at).await?;
                let mut after = before.clone();
                change(&mut after);
                replace(&api, at.name, after, true).await?;
                Ok(Undo::RestoreStatus(before))
            }
            Edit::Delete(at) => {
                let (api, before) = self.get(at).await?;
                let deleted = api.delete(at.name, &DeleteParams::default()).await;
                deleted.map(drop).context("could not delete an object")?;
                Ok(Undo::Recreate(before))
            }
        }
    }

    async fn create(&self, object: &Value) -> Result<()> {
        manifests::apply_value(&self.client, "default", object)
            .await
            .map(drop)
    }

    /// Undoes changes, the last one first.
    pub(super) async fn undo(&self, undo: Vec<Undo>) -> Result<()> {
        for one in undo.into_iter().rev() {
            match one {
                Undo::Remove(object) => self.remove(&object).await?,
                Undo::Restore(before) => {
                    let (api, name) = self.api_of(&before).await?;
                    replace(&api, &name, before, false).await?;
                }
                Undo::RestoreStatus(before) => {
                    let (api, name) = self.api_of(&before).await?;
                    replace(&api, &name, before, true).await?;
                }
                Undo::Recreate(before) => self.recreate(before).await?,
            }
        }
        Ok(())
    }

    async fn remove(&self, object: &Value) -> Result<()> {
        let (api, name) = self.api_of(object).await?;
        let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        let freed = api.patch(&name, &PatchParams::default(), &free).await;
        if let Err(kube::Error::Api(status)) = &freed
            && status.is_not_found()
        {
            return Ok(());
        }
        freed.context("could not free an object")?;
        let params = DeleteParams::default().grace_period(0);
        match api.delete(&name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(error).context("could not delete an object"),
        }
    }

    async fn recreate(&self, before: Value) -> Result<()> {
        let (api, name) = self.api_of(&before).await?;
        let status = before.get("status").cloned();
        let mut object = before;
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in [
                "uid",
                "resourceVersion",
                "creationTimestamp",
                "generation",
                "managedFields",
            ] {
                metadata.remove(field);
            }
        }
        let parsed: DynamicObject = serde_json::from_value(object).context("an object cannot be read")?;
        // A definition that was deleted is there until its objects are gone.
        let mut made = api.create(&PostParams::default(), &parsed).await;
        for _ in 0..100 {
            match &made {
                Err(kube::Error::Api(status)) if status.is_already_exists() => {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    made = api.create(&PostParams::default(), &parsed).await;
                }
                _ => break,
            }
        }
        made.with_context(|| format!("could not make {name} again"))?;
        if let Some(status) = status
            && name != "runnersets.actions.summerwind.dev"
        {
            let patch = Patch::Merge(json!({ "status": status }));
            let patched = api.patch_status(&name, &PatchParams::default(), &patch).await;
            match patched {
                Ok(_) => {}
                // Not every kind has one.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error).context("could not write a status"),
            }
        }
        Ok(())
    }

    /// Writes the status of a Deployment, as its controller does.
    pub(super) async fn set_ready(&self, namespace: &str, name: &str, ready: i32) -> Result<()> {
        let api = self.api("apps/v1", "Deployment", namespace).await?;
        let patch = Patch::Merge(json!({"status": {"replicas": ready, "readyReplicas": ready}}));
        api.patch_status(name, &PatchParams::default(), &patch)
            .await
            .map(drop)
            .context("could not write a status")
    }
}

/// Replaces an object under the resource version that it has now.
async fn replace(api: &Api<DynamicObject>, name: &str, mut object: Value, is_status: bool) -> Result<()> {
    let current = api.get(name).await.context("could not get an object")?;
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert(
            "resourceVersion".to_owned(),
            json!(current.metadata.resource_version),
        );
        metadata.remove("managedFields");
    }
    let object: DynamicObject = serde_json::from_value(object).context("an object cannot be read")?;
    let params = PostParams::default();
    let replaced = if is_status {
        api.replace_status(name, &params, &object).await
    } else {
        api.replace(name, &params, &object).await
    };
    replaced
        .map(drop)
        .with_context(|| format!("could not replace {name}"))
}
