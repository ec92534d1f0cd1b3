//! The fake against plain HTTP clients.

mod agents;
mod rest;
mod webhooks;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::agent::{Assignment, RunnerScope, SYSTEM_LABELS};

/// A client that looks like a controller.
struct Client {
    http: reqwest::Client,
    base: String,
    authorization: String,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The `rel="next"` URL of the `Link` header.
    fn next(&self) -> Option<String> {
        let link = self
            .header("link")
            .split(", ")
            .find(|link| link.ends_with("rel=\"next\""))?
            .to_owned();
        Some(link.split_once('<')?.1.split_once('>')?.0.to_owned())
    }
}

impl Client {
    fn new(github: &FakeGitHub) -> Self {
        Self {
            http: reqwest::Client::builder()
                .no_proxy()
                .user_agent("test")
                .build()
                .unwrap(),
            base: github.base_url(),
            authorization: format!("Bearer {DEFAULT_TOKEN}"),
        }
    }

    async fn try_call(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> reqwest::Result<Answer> {
        let url = if path.starts_with("http") {
            path.to_owned()
        } else {
            format!("{}{path}", self.base)
        };
        let mut request = self
            .http
            .request(method.parse().unwrap(), url)
            .header("authorization", &self.authorization);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer {
            status,
            headers,
            body: response.text().await?,
        })
    }

    async fn call(&self, method: &str, path: &str) -> Answer {
        self.try_call(method, path, &[]).await.unwrap()
    }

    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path).await
    }
}

/// A runner agent.
#[derive(Clone)]
struct Agent {
    http: reqwest::Client,
    base: String,
    id: u64,
    token: String,
}

impl Agent {
    async fn register(github: &FakeGitHub, scope: RunnerScope, name: &str, labels: &[&str]) -> Self {
        Self::try_register(github, scope, name, labels, None)
            .await
            .unwrap()
    }

    async fn try_register(
        github: &FakeGitHub,
        scope: RunnerScope,
        name: &str,
        labels: &[&str],
        group: Option<&str>,
    ) -> Result<Self, u16> {
        let client = Client::new(github);
        let path = format!("{}/actions/runners/registration-token", scope.api_path());
        let token = client.call("POST", &path).await;
        assert_eq!(token.status, 201);
        let labels: Vec<&str> = SYSTEM_LABELS.iter().chain(labels).copied().collect();
        let mut body = json!({
            "scope": scope, "token": token.json()["token"], "name": name, "labels": labels, "ephemeral": true
        });
        if let Some(group) = group {
            body["group"] = json!(group);
        }
        let url = format!("{}_agent/register", github.base_url());
        let answer = client.http.post(url).json(&body).send().await.unwrap();
        if answer.status() != 201 {
            return Err(answer.status().as_u16());
        }
        let answer: Value = answer.json().await.unwrap();
        Ok(Self {
            http: client.http,
            base: github.base_url(),
            id: answer["id"].as_u64().unwrap(),
            token: answer["agent_token"].as_str().unwrap().to_owned(),
        })
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}_agent/runners/{}{path}", self.base, self.id);
        self.http
            .request(method.parse().unwrap(), url)
            .bearer_auth(&self.token)
    }

    async fn poll(&self, wait: f64) -> (u16, Option<Assignment>) {
        let answer = self
            .request("GET", &format!("/job?wait={wait}"))
            .send()
            .await
            .unwrap();
        let status = answer.status().as_u16();
        (
            status,
            if status == 200 {
                Some(answer.json().await.unwrap())
            } else {
                None
            },
        )
    }

    async fn job(&self) -> Assignment {
        self.poll(10.0).await.1.expect("a job")
    }

    async fn complete(&self, job: &Assignment, conclusion: &str) -> u16 {
        let body = json!({"job_id": job.job_id, "conclusion": conclusion});
        self.request("POST", "/complete")
            .json(&body)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    }

    async fn send(&self, method: &str, path: &str) -> u16 {
        self.request(method, path).send().await.unwrap().status().as_u16()
    }
}

fn organization() -> RunnerScope {
    RunnerScope::Organization("acme".to_owned())
}

fn job(labels: &[&str]) -> JobSpec {
    JobSpec::new("acme/api", labels.iter().copied())
}

async fn started(options: FakeGitHubOptions) -> FakeGitHub {
    FakeGitHub::start(options).await.unwrap()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

/// A receiver of webhooks.
#[derive(Clone, Default)]
struct Receiver {
    seen: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    refuse: Arc<Mutex<u32>>,
}

impl Receiver {
    async fn start() -> (Self, String) {
        let receiver = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let router = axum::Router::new()
            .fallback(async |state: State<Self>, headers: HeaderMap, body: Bytes| {
                Self::receive(&state, headers, body)
            })
            .with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (receiver, url)
    }

    fn receive(receiver: &Self, headers: HeaderMap, body: Bytes) -> axum::http::StatusCode {
        let mut refuse = lock(&receiver.refuse);
        if *refuse > 0 {
            *refuse -= 1;
            return axum::http::StatusCode::SERVICE_UNAVAILABLE;
        }
        lock(&receiver.seen).push((headers, body));
        axum::http::StatusCode::OK
    }

    /// (action, job id) of everything that arrived.
    fn actions(&self) -> Vec<(String, u64)> {
        lock(&self.seen)
            .iter()
            .map(|(_, body)| {
                let body: Value = serde_json::from_slice(body).unwrap();
                let id = body["workflow_job"]["id"].as_u64().unwrap_or_default();
                (body["action"].as_str().unwrap_or_default().to_owned(), id)
            })
            .collect()
    }
}
