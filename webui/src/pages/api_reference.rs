//! `GET /api`: the reference of the JSON API, made from its document.

use std::sync::LazyLock;

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value};

use crate::api;
use crate::http::reject::PageError;
use crate::http::session::Visitor;
use crate::layout::{Layout, render};

#[derive(Template)]
#[template(path = "api_reference.html")]
struct Page {
    layout: Layout,
    reference: &'static Reference,
}

/// What the document says, in the order of the page.
struct Reference {
    description: String,
    groups: Vec<Group>,
    schemas: Vec<Schema>,
    /// Status, code and title.
    errors: Vec<(u16, &'static str, &'static str)>,
}

/// Operations with the same tag.
struct Group {
    name: String,
    operations: Vec<Operation>,
}

struct Operation {
    id: String,
    method: String,
    path: String,
    summary: String,
    /// The scope that its key needs; empty if it needs no key.
    scope: String,
    parameters: Vec<Field>,
    /// The name of the schema of the body; empty without one.
    body: String,
    /// Status, description, and name of the schema, of answers that aren't errors.
    answers: Vec<(String, String, String)>,
    /// Statuses of errors.
    errors: String,
}

/// An object of the API.
struct Schema {
    name: String,
    description: String,
    fields: Vec<Field>,
    /// Values, of an enumeration.
    values: String,
}

/// A field or a parameter.
struct Field {
    name: String,
    /// `string`, `integer or null`, ...
    kind: String,
    is_required: bool,
    description: String,
}

static REFERENCE: LazyLock<Reference> = LazyLock::new(|| Reference::new(&api::document()));

pub(crate) async fn show(visitor: Visitor) -> Result<Response, PageError> {
    render(StatusCode::OK, &Page { layout: Layout::for_visitor(&visitor), reference: &REFERENCE })
}

impl Reference {
    fn new(document: &Value) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for (path, methods) in object(&document["paths"]) {
            for (method, operation) in object(methods) {
                let name = text(&operation["tags"][0]);
                let operation = Operation::new(method, path, operation);
                match groups.iter_mut().find(|group| group.name == name) {
                    Some(group) => group.operations.push(operation),
                    None => groups.push(Group { name, operations: vec![operation] }),
                }
            }
        }
        let schemas = object(&document["components"]["schemas"]);
        Self {
            description: text(&document["info"]["description"]),
            groups,
            schemas: schemas.map(|(name, schema)| Schema::new(name, schema)).collect(),
            errors: api::error_codes().collect(),
        }
    }
}

impl Operation {
    fn new(method: &str, path: &str, it: &Value) -> Self {
        let responses = || object(&it["responses"]);
        let is_error = |status: &str| status.starts_with(['4', '5']);
        let answers = responses().filter(|(status, _)| !is_error(status)).map(|(status, answer)| {
            let schema = &answer["content"]["application/json"]["schema"];
            (status.clone(), text(&answer["description"]), schema_name(schema))
        });
        let errors: Vec<&str> =
            responses().map(|(status, _)| status.as_str()).filter(|status| is_error(status)).collect();
        let parameters = it["parameters"].as_array().into_iter().flatten().map(|parameter| Field {
            name: text(&parameter["name"]),
            kind: format!("{}, {}", text(&parameter["in"]), kind(&parameter["schema"])),
            is_required: parameter["required"] == true,
            description: text(&parameter["description"]),
        });
        Self {
            id: text(&it["operationId"]),
            method: method.to_uppercase(),
            path: format!("/api/v1{path}"),
            summary: text(&it["summary"]),
            scope: text(&it["security"][0]["api_key"][0]),
            parameters: parameters.collect(),
            body: schema_name(&it["requestBody"]["content"]["application/json"]["schema"]),
            answers: answers.collect(),
            errors: errors.join(", "),
        }
    }
}

impl Schema {
    fn new(name: &str, schema: &Value) -> Self {
        // One with the fields of another has parts.
        let parts = schema["allOf"].as_array().map_or_else(|| vec![schema], |parts| parts.iter().collect());
        let fields = parts.iter().flat_map(|part| {
            let required =
                |name: &str| part["required"].as_array().is_some_and(|it| it.contains(&name.into()));
            object(&part["properties"]).map(move |(name, field)| Field {
                name: name.clone(),
                kind: kind(field),
                is_required: required(name),
                description: text(&field["description"]),
            })
        });
        let values: Vec<String> = schema["enum"].as_array().into_iter().flatten().map(text).collect();
        Self {
            name: name.to_owned(),
            description: text(&schema["description"]),
            fields: fields.collect(),
            values: values.join(", "),
        }
    }
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The name of the schema that a value refers to; empty if it refers to none.
fn schema_name(schema: &Value) -> String {
    let reference = schema["$ref"].as_str().unwrap_or_default();
    reference.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The type of a value, in words.
fn kind(schema: &Value) -> String {
    let of = |kind: &str| match kind {
        "array" => format!("list of {}", kind_of_items(schema)),
        kind => kind.to_owned(),
    };
    let mut words: Vec<String> = match &schema["type"] {
        Value::String(kind) => vec![of(kind)],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).map(of).collect(),
        _ => Vec::new(),
    };
    let name = schema_name(schema);
    words.extend(Some(name).filter(|name| !name.is_empty()));
    for choice in ["oneOf", "anyOf", "allOf"] {
        words.extend(schema[choice].as_array().into_iter().flatten().map(kind));
    }
    words.join(" or ")
}

fn kind_of_items(schema: &Value) -> String {
    kind(&schema["items"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_and_schema_is_on_the_page() {
        let operations = REFERENCE.groups.iter().flat_map(|group| &group.operations);
        let operations: Vec<&Operation> = operations.collect();
        assert!(operations.len() > 20 && REFERENCE.schemas.len() > 10);
        for it in operations {
            assert!(!it.id.is_empty() && !it.summary.is_empty() && !it.answers.is_empty(), "{}", it.path);
            let is_known = |name: &String| REFERENCE.schemas.iter().any(|schema| schema.name == *name);
            let named = it.answers.iter().map(|(.., schema)| schema).chain([&it.body]);
            for name in named.filter(|name| !name.is_empty()) {
                assert!(is_known(name), "{}: {name}", it.path);
            }
        }
        for schema in &REFERENCE.schemas {
            assert!(
                !schema.fields.is_empty()
                    || !schema.values.is_empty()
                    || ["DateTime", "Empty"].contains(&&*schema.name),
                "{}",
                schema.name
            );
            assert!(schema.fields.iter().all(|field| !field.kind.is_empty()), "{}", schema.name);
        }
    }
}
