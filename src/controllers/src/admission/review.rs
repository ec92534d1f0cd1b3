//! Admission reviews of both versions. The two have the same fields; what matters is to answer in the version that was asked in
//! (spec 01 §11.1): ARC's installations register `v1beta1` only.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use muster_core::admission::{Kind, Violation, refusal};
use muster_crds::keys;
use serde::Deserialize;
use serde_json::{Value, json};

/// API version of a review.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V1Beta1,
}

impl Version {
    fn of(text: &str) -> Option<Self> {
        [Self::V1, Self::V1Beta1]
            .into_iter()
            .find(|version| version.text() == text)
    }

    fn text(self) -> &'static str {
        match self {
            Self::V1 => "admission.k8s.io/v1",
            Self::V1Beta1 => "admission.k8s.io/v1beta1",
        }
    }
}

/// What the API server asks.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    pub(super) uid: String,
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) namespace: Option<String>,
    #[serde(default)]
    pub(super) operation: String,
    #[serde(default)]
    pub(super) sub_resource: Option<String>,
    #[serde(default)]
    pub(super) dry_run: Option<bool>,
    /// The object as it would be stored, in full; null when it is deleted.
    #[serde(default)]
    pub(super) object: Value,
    /// The object as it is; null when it is created.
    #[serde(default)]
    pub(super) old_object: Value,
}

impl Request {
    /// The name of the object, where it is known already.
    pub(super) fn object_name(&self) -> &str {
        let own = self.object.pointer("/metadata/name").and_then(Value::as_str);
        own.or(self.name.as_deref()).unwrap_or_default()
    }

    /// `namespace/name`, for logs.
    pub(super) fn key(&self) -> String {
        format!(
            "{}/{}",
            self.namespace.as_deref().unwrap_or_default(),
            self.object_name()
        )
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

/// A review that was understood.
pub(super) struct Review {
    pub(super) version: Version,
    pub(super) request: Request,
}

/// What came is no review.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("the request has no body")]
    Empty,
    #[error("the request is no AdmissionReview")]
    Json(#[source] serde_json::Error),
    #[error(
        "the request is a {kind:?} of {version:?}; understood is AdmissionReview of admission.k8s.io/v1 and v1beta1"
    )]
    Kind { kind: String, version: String },
    #[error("the AdmissionReview has no request")]
    NoRequest,
}

impl Review {
    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        if body.is_empty() {
            return Err(DecodeError::Empty);
        }
        let envelope: Envelope = serde_json::from_slice(body).map_err(DecodeError::Json)?;
        let version = Version::of(&envelope.api_version).filter(|_| envelope.kind == "AdmissionReview");
        let Some(version) = version else {
            return Err(DecodeError::Kind {
                kind: envelope.kind,
                version: envelope.api_version,
            });
        };
        let request = envelope.request.ok_or(DecodeError::NoRequest)?;
        Ok(Self { version, request })
    }
}

/// What is answered.
#[derive(Debug)]
pub(super) enum Answer {
    Allowed {
        warnings: Vec<String>,
    },
    Patched(Patch),
    /// The author must change the object.
    Refused {
        kind: Kind,
        name: String,
        violations: Vec<Violation>,
        warnings: Vec<String>,
    },
    /// It could not be decided.
    Failed {
        code: u16,
        message: String,
    },
}

/// Operations of a JSON patch. They may hold a token, and do not show it.
pub(super) struct Patch(pub(super) Vec<Value>);

impl std::fmt::Debug for Patch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Patch({} operations)", self.0.len())
    }
}

impl Answer {
    pub(super) const ALLOWED: Self = Self::Allowed { warnings: Vec::new() };

    pub(super) fn failed(code: u16, message: impl Into<String>) -> Self {
        Self::Failed {
            code,
            message: message.into(),
        }
    }

    /// For metrics.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Allowed { .. } => "allowed",
            Self::Patched(_) => "patched",
            Self::Refused { .. } => "refused",
            Self::Failed { .. } => "failed",
        }
    }
}

/// The review with the answer.
pub(super) fn encode(version: Version, uid: &str, answer: &Answer) -> Value {
    let mut response = match answer {
        Answer::Allowed { .. } => json!({"allowed": true, "status": {"metadata": {}, "code": 200}}),
        Answer::Patched(Patch(operations)) => json!({
            "allowed": true,
            "status": {"metadata": {}, "code": 200},
            "patchType": "JSONPatch",
            "patch": STANDARD.encode(Value::from(operations.clone()).to_string()),
        }),
        Answer::Refused {
            kind,
            name,
            violations,
            ..
        } => {
            let causes: Vec<Value> = violations
                .iter()
                .map(|violation| {
                    json!({"reason": "FieldValueInvalid", "field": violation.field, "message": violation.message()})
                })
                .collect();
            json!({"allowed": false, "status": {
                "metadata": {},
                "status": "Failure",
                "code": 422,
                "reason": "Invalid",
                "message": refusal(*kind, name, violations),
                "details": {"group": keys::GROUP, "kind": kind.name(), "name": name, "causes": causes},
            }})
        }
        Answer::Failed { code, message } => json!({"allowed": false, "status": {
            "metadata": {}, "status": "Failure", "code": code, "message": message,
        }}),
    };
    let warnings: &[String] = match answer {
        Answer::Allowed { warnings } | Answer::Refused { warnings, .. } => warnings,
        Answer::Patched(_) | Answer::Failed { .. } => &[],
    };
    if let Some(response) = response.as_object_mut() {
        response.insert("uid".to_owned(), json!(uid));
        if !warnings.is_empty() {
            response.insert("warnings".to_owned(), json!(warnings));
        }
    }
    json!({"apiVersion": version.text(), "kind": "AdmissionReview", "response": response})
}
