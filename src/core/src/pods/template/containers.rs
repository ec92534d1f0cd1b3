//! Containers by name, and their environment.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec};

use super::TemplateError;

/// A container taken out of its list, with the place it came from.
#[derive(Debug)]
pub(super) struct Taken {
    at: Option<usize>,
    pub(super) container: Container,
}

/// Takes the container of this name out; a bare new one where there is none. Of several the last, whose rest [`check_names`] then refuses.
pub(super) fn take(containers: &mut Vec<Container>, name: &str) -> Taken {
    match containers.iter().rposition(|container| container.name == name) {
        Some(at) => Taken {
            at: Some(at),
            container: containers.remove(at),
        },
        None => Taken {
            at: None,
            container: Container {
                name: name.to_owned(),
                ..Container::default()
            },
        },
    }
}

/// Puts a container back where it came from, a new one at `otherwise`.
pub(super) fn put_back(containers: &mut Vec<Container>, taken: Taken, otherwise: usize) {
    let at = taken.at.unwrap_or(otherwise).min(containers.len());
    containers.insert(at, taken.container);
}

/// The API server refuses two containers of one name without saying whose they are.
pub(super) fn check_names(spec: &PodSpec) -> Result<(), TemplateError> {
    let mut seen = BTreeSet::new();
    let all = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    for container in all {
        if !seen.insert(&container.name) {
            return Err(TemplateError::DuplicateContainer {
                name: container.name.clone(),
            });
        }
    }
    Ok(())
}

/// Appends a variable. One of this name that the user gave stays in place: the later one counts in the container (spec 02 §11.3 step 4).
pub(super) fn push(env: &mut Vec<EnvVar>, name: &str, value: &str) {
    env.push(EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    });
}

/// Adds the variable when nobody set it: a literal value and a `valueFrom` are left alone (spec 01 quirk 19). Of several the last counts, as in the container.
pub(super) fn set_if_empty(env: &mut Vec<EnvVar>, name: &str, value: &str) {
    match env.iter_mut().rfind(|variable| variable.name == name) {
        Some(variable)
            if variable.value_from.is_none() && variable.value.as_deref().unwrap_or_default().is_empty() =>
        {
            variable.value = Some(value.to_owned());
        }
        Some(_) => {}
        None => push(env, name, value),
    }
}
