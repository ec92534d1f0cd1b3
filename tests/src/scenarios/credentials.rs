//! Several logins at once: two GitHub Apps and a personal access token, each in a namespace of its own, and each rotated
//! (spec 02 §4, 90 PAIN-22). The fake GitHub knows whose token is whose.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    control_plane::{ControlPlane, manifests},
    github::{CredentialUse, FakeApp, ViolationKind},
    world::World,
};

const SECRET: &str = "login";
const PATIENCE: Duration = Duration::from_mins(2);
/// A rotated login must be in use this soon.
pub const ROTATED_WITHIN: Duration = Duration::from_secs(10);

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Runners that registered, by owner.
    pub runners: BTreeMap<String, usize>,
    /// Credentials that each owner saw, with the number of calls.
    pub uses: BTreeMap<String, Vec<(String, u64)>>,
    /// Calls with a credential that is not the owner's.
    pub foreign: usize,
    /// From the change of the Secret to the first call with the new login, by owner.
    pub rotated_after: BTreeMap<String, Duration>,
    /// Calls with the old login later than [`ROTATED_WITHIN`] after the change.
    pub stale_calls: usize,
    /// Until a pool whose login was revoked worked again after the Secret had a good one, by owner.
    pub healed_after: BTreeMap<String, Duration>,
}

/// A login of a tenant.
#[derive(Clone, Debug)]
enum Login {
    Token(String),
    App { id: u64, key: String },
}

impl Login {
    /// Its name in the fake's book.
    fn name(&self) -> String {
        match self {
            Self::Token(token) => format!("token {token}"),
            Self::App { id, .. } => format!("installation {id}"),
        }
    }

    fn secret(&self) -> Value {
        let data = match self {
            // People leave line ends in there (spec 02 Q28).
            Self::Token(token) => json!({"github_token": format!("{token}\n")}),
            Self::App { id, key } => json!({"github_app_id": id.to_string(),
                "github_app_installation_id": format!("{id}\n"), "github_app_private_key": key}),
        };
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": data})
    }
}

/// A namespace with a login of its own, before and after its rotation.
#[derive(Clone, Debug)]
struct Tenant {
    owner: String,
    ns: String,
    old: Login,
    new: Login,
}

/// Runs `runners` runners in each of three namespaces, rotates the three logins, and revokes one. For so long after the
/// rotation the old logins must not be used.
pub async fn credentials(plane: Arc<ControlPlane>, runners: usize, quiet: Duration) -> Result<Credentials> {
    let mut apps = Vec::new();
    let mut app = |id: u64| -> Result<Login> {
        let (key, public) = key_pair()?;
        apps.push(FakeApp {
            app_id: id.to_string(),
            installation_id: id,
            public_key: Some(public),
        });
        Ok(Login::App { id, key })
    };
    let logins = [
        (app(101)?, app(102)?),
        (app(201)?, app(202)?),
        (
            Login::Token("ghp_old".to_owned()),
            Login::Token("ghp_new".to_owned()),
        ),
    ];
    let world = World::builder("credentials")
        .on(plane.clone())
        .cluster_wide()
        .github(|options| options.apps = apps)
        .start()
        .await?;
    let mut tenants = Vec::new();
    for (index, (old, new)) in logins.into_iter().enumerate() {
        let tenant = Tenant {
            owner: format!("tenant-{index}"),
            ns: plane.namespace("tenant").await?,
            old,
            new,
        };
        for login in [&tenant.old, &tenant.new] {
            match login {
                Login::Token(token) => {
                    world.github.accept_token(token);
                    world.github.confine_token(token, &tenant.owner);
                }
                Login::App { id, .. } => world.github.confine_installation(*id, &tenant.owner),
            }
        }
        tenants.push(tenant);
    }
    let mut figures = Credentials::default();
    for tenant in &tenants {
        apply(&world, &tenant.ns, &tenant.old.secret()).await?;
        apply(&world, &tenant.ns, &deployment(&tenant.owner, runners)).await?;
    }
    for tenant in &tenants {
        until_registered(&world, tenant, runners).await?;
        figures
            .runners
            .insert(tenant.owner.clone(), registered(&world, tenant));
    }
    rotate(&world, &tenants, runners, quiet, &mut figures).await?;
    revoke(&world, &tenants, runners, &mut figures).await?;

    let foreign = |kind| kind == ViolationKind::ForeignCredential;
    let violations = world.github.violations();
    figures.foreign = violations
        .iter()
        .filter(|violation| foreign(violation.kind))
        .count();
    for noted in world.github.credential_uses() {
        let of_owner = figures.uses.entry(noted.owner).or_default();
        of_owner.push((noted.credential, noted.calls));
    }
    Ok(figures)
}

/// Changes the three Secrets, and asks for one runner more every second until the new login was seen: a new runner needs a
/// registration token of it.
async fn rotate(
    world: &World,
    tenants: &[Tenant],
    runners: usize,
    quiet: Duration,
    figures: &mut Credentials,
) -> Result<()> {
    let mut changed = Vec::new();
    for tenant in tenants {
        apply(world, &tenant.ns, &tenant.new.secret()).await?;
        changed.push((tenant, world.github.now()));
    }
    let begun = Instant::now();
    let mut wanted = runners;
    while figures.rotated_after.len() < tenants.len() && begun.elapsed() < PATIENCE {
        wanted += 1;
        for (tenant, at) in &changed {
            apply(world, &tenant.ns, &deployment(&tenant.owner, wanted)).await?;
            if let Some(noted) = noted(world, tenant, &tenant.new) {
                let after = noted.first.duration_since(*at).unsigned_abs();
                figures.rotated_after.entry(tenant.owner.clone()).or_insert(after);
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // What would use the old login still has its chance.
    tokio::time::sleep(quiet.saturating_sub(begun.elapsed())).await;
    for (tenant, at) in &changed {
        let last = noted(world, tenant, &tenant.old).map(|noted| noted.last.duration_since(*at));
        let late = last.is_some_and(|last| Duration::try_from(last).is_ok_and(|last| last > ROTATED_WITHIN));
        figures.stale_calls += usize::from(late);
    }
    Ok(())
}

/// GitHub revokes the login, a pool asks for more runners and gets none; then the Secret has a good one again: how soon are
/// the runners there?
async fn revoke(world: &World, tenants: &[Tenant], runners: usize, figures: &mut Credentials) -> Result<()> {
    for tenant in tenants {
        let Login::Token(token) = &tenant.new else {
            continue;
        };
        world.github.revoke_token(token);
        // The token that runners register with is good for an hour: only another scope needs a new one.
        let other = format!("{}-more", tenant.owner);
        let mut more = deployment(&tenant.owner, runners);
        set(&mut more, "/metadata/name", json!(other));
        set(&mut more, "/spec/template/spec/organization", Value::Null);
        set(
            &mut more,
            "/spec/template/spec/repository",
            json!(format!("{}/more", tenant.owner)),
        );
        apply(world, &tenant.ns, &more).await?;
        let refused = async |world: &World| {
            let runners: kube::Api<muster_crds::legacy::Runner> =
                kube::Api::namespaced(world.client.clone(), &tenant.ns);
            let all = runners
                .list(&kube::api::ListParams::default())
                .await
                .context("could not list the Runners")?;
            let told = |runner: &muster_crds::legacy::Runner| {
                let conditions = runner
                    .status
                    .iter()
                    .flat_map(|status| status.conditions.iter().flatten());
                conditions
                    .into_iter()
                    .any(|condition| condition.reason == "GitHubUnauthorized")
            };
            Ok(all.items.iter().filter(|runner| told(runner)).count() >= runners_of(&all.items, &other))
        };
        world
            .until("the Runners say that the login is refused", PATIENCE, refused)
            .await?;
        world.github.accept_token("ghp_newer");
        world.github.confine_token("ghp_newer", &tenant.owner);
        apply(world, &tenant.ns, &Login::Token("ghp_newer".to_owned()).secret()).await?;
        let at = Instant::now();
        let prefix = format!("{other}-");
        let back = async |world: &World| {
            let online = world.github.runners().into_iter();
            Ok(online.filter(|runner| runner.name.starts_with(&prefix)).count() == runners)
        };
        world.until("the pool works again", PATIENCE, back).await?;
        figures.healed_after.insert(tenant.owner.clone(), at.elapsed());
    }
    Ok(())
}

fn runners_of(all: &[muster_crds::legacy::Runner], deployment: &str) -> usize {
    let prefix = format!("{deployment}-");
    let of = |runner: &&muster_crds::legacy::Runner| {
        runner
            .metadata
            .name
            .as_ref()
            .is_some_and(|name| name.starts_with(&prefix))
    };
    all.iter().filter(of).count().max(1)
}

fn set(document: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap_or_default();
    if let Some(fields) = document.pointer_mut(parent).and_then(Value::as_object_mut) {
        if value.is_null() {
            fields.remove(key);
        } else {
            fields.insert(key.to_owned(), value);
        }
    }
}

fn deployment(owner: &str, replicas: usize) -> Value {
    json!({"apiVersion": "actions.summerwind.dev/v1alpha1", "kind": "RunnerDeployment",
        "metadata": {"name": owner},
        "spec": {"replicas": replicas, "template": {"spec": {"organization": owner,
            "githubAPICredentialsFrom": {"secretRef": {"name": SECRET}}}}}})
}

async fn apply(world: &World, ns: &str, document: &Value) -> Result<()> {
    manifests::apply_value(&world.client, ns, document)
        .await
        .map(drop)
}

fn registered(world: &World, tenant: &Tenant) -> usize {
    let prefix = format!("{}-", tenant.owner);
    let runners = world.github.runners().into_iter();
    runners.filter(|runner| runner.name.starts_with(&prefix)).count()
}

async fn until_registered(world: &World, tenant: &Tenant, runners: usize) -> Result<()> {
    let there = async |world: &World| Ok(registered(world, tenant) == runners);
    world
        .until("the tenant's runners are there", PATIENCE, there)
        .await
}

fn noted(world: &World, tenant: &Tenant, login: &Login) -> Option<CredentialUse> {
    let uses = world.github.credential_uses().into_iter();
    let mut of_login = uses.filter(|noted| noted.credential == login.name());
    of_login.find(|noted| noted.owner == tenant.owner)
}

/// A private key for the Secret, and its public half for the fake.
pub fn key_pair() -> Result<(String, String)> {
    let pair = KeyPair::generate(KeySize::Rsa2048).context("could not make a key")?;
    let private: Pkcs8V1Der<'_> = pair.as_der().context("could not write the key")?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().context("could not write the key")?;
    let pem = |label: &str, der: &[u8]| {
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            STANDARD.encode(der)
        )
    };
    Ok((
        pem("PRIVATE KEY", private.as_ref()),
        pem("PUBLIC KEY", public.as_ref()),
    ))
}
