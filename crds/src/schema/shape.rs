//! What a schema is to say beyond what the Rust types say, written down as tables of paths and marks.
//!
//! A [`Shape`] belongs to one Go type of Kubernetes or of ours and lists, relative to a schema of that type, what is to
//! be set where. Types nest by [`Mark::Is`]. A path that does not exist in the schema is an error, so that a newer
//! Kubernetes model cannot lose a mark silently.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

use super::SchemaError;

/// Pattern of a resource quantity, as the API server's own documentation of CRDs uses it (spec 01 §8.4).
pub(super) const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// One thing to set at one place.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    /// A list that is replaced as a whole.
    AtomicList,
    /// A list of distinct scalars.
    Set,
    /// A list of objects told apart by these keys.
    Keyed(&'static [&'static str]),
    /// An object that is replaced as a whole.
    AtomicMap,
    /// An object merged key by key, said explicitly.
    GranularMap,
    /// Default of a string.
    Text(&'static str),
    /// Default of a boolean.
    Flag(bool),
    /// An integer or any string, unlike a quantity.
    IntOrString,
    /// The five keys of an embedded `ObjectMeta`.
    Metadata,
    /// A field that the Rust model requires and Kubernetes does not.
    NotRequired(&'static str),
    /// The place has this type.
    Is(&'static Shape),
}

/// Marks of one type: path relative to it (empty for itself, `[]` for the items of a list) and mark.
pub(super) struct Shape(pub(super) &'static [(&'static str, Mark)]);

impl Shape {
    /// Sets all marks of the type in `schema`; `at` is where the schema is, for errors.
    pub(super) fn apply(&self, schema: &mut JSONSchemaProps, at: &str) -> Result<(), SchemaError> {
        for (path, mark) in self.0 {
            let place = join(at, path);
            let node = find(schema, path).ok_or_else(|| SchemaError::NoSuchPath { path: place.clone() })?;
            mark.apply(node, &place)?;
        }
        Ok(())
    }
}

impl Mark {
    fn apply(self, node: &mut JSONSchemaProps, at: &str) -> Result<(), SchemaError> {
        match self {
            Self::AtomicList => node.x_kubernetes_list_type = Some("atomic".to_owned()),
            Self::Set => node.x_kubernetes_list_type = Some("set".to_owned()),
            Self::Keyed(keys) => {
                node.x_kubernetes_list_type = Some("map".to_owned());
                node.x_kubernetes_list_map_keys = Some(keys.iter().map(|&key| key.to_owned()).collect());
            }
            Self::AtomicMap => node.x_kubernetes_map_type = Some("atomic".to_owned()),
            Self::GranularMap => node.x_kubernetes_map_type = Some("granular".to_owned()),
            Self::Text(value) => node.default = Some(JSON(value.into())),
            Self::Flag(value) => node.default = Some(JSON(value.into())),
            Self::IntOrString => int_or_string(node),
            Self::Metadata => *node = embedded_metadata(node.description.take()),
            Self::NotRequired(field) => {
                if let Some(required) = &mut node.required {
                    required.retain(|name| name != field);
                }
                node.required = node.required.take().filter(|required| !required.is_empty());
            }
            Self::Is(shape) => shape.apply(node, at)?,
        }
        Ok(())
    }
}

/// The schema at `path` below `schema`.
pub(super) fn find<'a>(schema: &'a mut JSONSchemaProps, path: &str) -> Option<&'a mut JSONSchemaProps> {
    let mut node = schema;
    for segment in path.split('.').filter(|segment| !segment.is_empty()) {
        let name = segment.trim_end_matches("[]");
        if !name.is_empty() {
            node = node.properties.as_mut()?.get_mut(name)?;
        }
        if segment.ends_with("[]") {
            node = match node.items.as_mut()? {
                JSONSchemaPropsOrArray::Schema(items) => items,
                JSONSchemaPropsOrArray::Schemas(_) => return None,
            };
        }
    }
    Some(node)
}

/// The schemas directly below `schema`, with their paths.
pub(super) fn children<'a>(
    schema: &'a mut JSONSchemaProps,
    at: &str,
) -> Vec<(String, &'a mut JSONSchemaProps)> {
    let mut found = Vec::new();
    for (name, property) in schema.properties.iter_mut().flatten() {
        found.push((join(at, name), property));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        found.push((format!("{at}[]"), &mut **items));
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        found.push((format!("{at}{{}}"), &mut **values));
    }
    found
}

/// `at` continued by `path`.
pub(super) fn join(at: &str, path: &str) -> String {
    match (at, path) {
        ("", _) => path.to_owned(),
        (_, "") => at.to_owned(),
        _ if path.starts_with('[') => format!("{at}{path}"),
        _ => format!("{at}.{path}"),
    }
}

/// Makes `node` an integer or a string; the API server wants both said when there is a pattern too.
pub(super) fn int_or_string(node: &mut JSONSchemaProps) {
    node.x_kubernetes_int_or_string = Some(true);
    node.type_ = None;
    node.format = None;
    node.any_of = Some(vec![scalar("integer"), scalar("string")]);
}

/// A schema that says only a type.
pub(super) fn scalar(type_: &str) -> JSONSchemaProps {
    JSONSchemaProps {
        type_: Some(type_.to_owned()),
        ..JSONSchemaProps::default()
    }
}

/// The part of an `ObjectMeta` that an embedded template may carry (spec 01 §8.2): a bare object here would prune all
/// labels and annotations of templates.
fn embedded_metadata(description: Option<String>) -> JSONSchemaProps {
    let strings = JSONSchemaProps {
        additional_properties: Some(JSONSchemaPropsOrBool::Schema(Box::new(scalar("string")))),
        ..scalar("object")
    };
    let finalizers = JSONSchemaProps {
        items: Some(JSONSchemaPropsOrArray::Schema(Box::new(scalar("string")))),
        ..scalar("array")
    };
    JSONSchemaProps {
        description,
        properties: Some(
            [
                ("annotations", strings.clone()),
                ("finalizers", finalizers),
                ("labels", strings),
                ("name", scalar("string")),
                ("namespace", scalar("string")),
            ]
            .map(|(name, schema)| (name.to_owned(), schema))
            .into(),
        ),
        ..scalar("object")
    }
}
