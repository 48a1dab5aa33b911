//! In which form objects are sent: whole, as a `Table`, or as their metadata only. By `Accept`, first acceptable wins.

use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use portcullis_core::Body;
use serde_json::{Value, json};

use super::{
    kinds::Kind,
    object::meta_mut,
    status::{ApiError, json_response},
    table,
    target::Query,
};

/// A form of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Whole,
    Table(Include),
    Metadata,
}

/// How much of each object a table's row carries along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    Nothing,
    Metadata,
    Object,
}

/// One alternative of an `Accept` header: media type and its parameters but `q`, in order of preference.
pub(crate) struct Accepted {
    pub(crate) media_type: String,
    pub(crate) parameters: Vec<(String, String)>,
}

/// Reads `Accept`, best first. No header accepts everything.
pub(crate) fn accepted(headers: &HeaderMap) -> Vec<Accepted> {
    let mut all = Vec::new();
    for header in headers.get_all("accept").iter().filter_map(|value| value.to_str().ok()) {
        for range in header.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let mut weight = 1.0;
            let mut parameters = Vec::new();
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim() {
                    "q" => weight = value.trim().parse().unwrap_or(0.0),
                    name => parameters.push((name.to_owned(), value.trim().trim_matches('"').to_owned())),
                }
            }
            if !media_type.is_empty() && weight > 0.0 {
                all.push((weight, Accepted { media_type, parameters }));
            }
        }
    }
    if all.is_empty() {
        all.push((1.0, Accepted { media_type: "*/*".into(), parameters: Vec::new() }));
    }
    all.sort_by(|(a, _), (b, _): &(f32, Accepted)| b.total_cmp(a));
    all.into_iter().map(|(_, accepted)| accepted).collect()
}

impl Accepted {
    pub(crate) fn is_json(&self) -> bool {
        ["application/json", "application/*", "*/*"].contains(&self.media_type.as_str())
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Form {
    /// The first form the client accepts and this server has.
    pub(crate) fn negotiate(headers: &HeaderMap, query: &Query) -> Result<Self, ApiError> {
        let include = match query.get("includeObject").unwrap_or("Metadata") {
            "None" => Include::Nothing,
            "Metadata" | "" => Include::Metadata,
            "Object" => Include::Object,
            other => {
                return Err(ApiError::bad_request(format!("includeObject: Unsupported value: {other:?}")));
            }
        };
        let form = accepted(headers).into_iter().filter(Accepted::is_json).find_map(|accepted| {
            let meta_v1 =
                accepted.parameter("g") == Some("meta.k8s.io") && accepted.parameter("v") == Some("v1");
            match accepted.parameter("as") {
                None => Some(Self::Whole),
                Some("Table") if meta_v1 => Some(Self::Table(include)),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") if meta_v1 => {
                    Some(Self::Metadata)
                }
                Some(_) => None,
            }
        });
        form.ok_or_else(ApiError::not_acceptable)
    }

    /// One object. A table says its columns only if `definitions` is set: in a watch, the first event has them.
    pub(crate) fn object(self, kind: &Kind, object: &Value, now: Timestamp, definitions: bool) -> Value {
        match self {
            Self::Whole => object.clone(),
            Self::Metadata => partial(object),
            Self::Table(include) => {
                let version = &object["metadata"]["resourceVersion"];
                let rows = std::iter::once(row(kind, object, include, now)).collect();
                table(kind, version.clone(), rows, definitions)
            }
        }
    }

    /// A list.
    pub(crate) fn list(self, kind: &Kind, list: &[Arc<Value>], version: u64, now: Timestamp) -> Value {
        let version = json!(version.to_string());
        match self {
            Self::Whole => {
                // Items of a typed list carry no type of their own: the list says it.
                let bare = list.iter().map(|object| {
                    let mut object = Value::clone(object);
                    if let Some(object) = object.as_object_mut() {
                        object.remove("apiVersion");
                        object.remove("kind");
                    }
                    object
                });
                json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(),
                       "metadata": {"resourceVersion": version}, "items": bare.collect::<Value>()})
            }
            Self::Metadata => {
                let items: Value = list.iter().map(|object| partial(object)).collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                       "metadata": {"resourceVersion": version}, "items": items})
            }
            Self::Table(include) => {
                let rows = list.iter().map(|object| row(kind, object, include, now)).collect();
                table(kind, version, rows, true)
            }
        }
    }

    /// What a bookmark says: a version, and maybe that all initial objects were sent.
    pub(crate) fn bookmark(self, kind: &Kind, version: u64, initial_done: bool) -> Value {
        let mut object = json!({"kind": kind.kind, "apiVersion": kind.api_version(),
                                "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null}});
        if initial_done {
            meta_mut(&mut object).insert("annotations".into(), json!({"k8s.io/initial-events-end": "true"}));
        }
        match self {
            Self::Whole => object,
            Self::Metadata => partial(&object),
            Self::Table(_) => {
                let mut table = table(kind, json!(version.to_string()), Vec::new(), false);
                table["metadata"] = object["metadata"].take();
                table
            }
        }
    }

    /// The answer with one object.
    pub(crate) fn respond(
        self,
        code: StatusCode,
        kind: &Kind,
        object: &Value,
        now: Timestamp,
    ) -> Response<Body> {
        json_response(code, &self.object(kind, object, now, true))
    }
}

fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn table(kind: &Kind, version: Value, rows: Vec<Value>, definitions: bool) -> Value {
    let columns = if definitions { table::definitions(kind) } else { json!([]) };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": version},
           "columnDefinitions": columns, "rows": rows})
}

fn row(kind: &Kind, object: &Value, include: Include, now: Timestamp) -> Value {
    let mut row = json!({"cells": table::cells(kind, object, now)});
    match include {
        Include::Nothing => row["object"] = Value::Null,
        Include::Metadata => row["object"] = partial(object),
        Include::Object => row["object"] = object.clone(),
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, expected: Option<Form>) {
        let mut headers = HeaderMap::new();
        headers.insert("accept", accept.parse().unwrap());
        assert_eq!(Form::negotiate(&headers, &Query::default()).ok(), expected, "{accept}");
    }

    #[test]
    fn the_first_acceptable_form_wins() {
        let table = Form::Table(Include::Metadata);
        check("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Some(table));
        check("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Some(Form::Whole));
        check("application/vnd.kubernetes.protobuf, application/json", Some(Form::Whole));
        check(
            "application/json;q=0.5, application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            Some(Form::Metadata),
        );
        check("*/*", Some(Form::Whole));
        check("application/vnd.kubernetes.protobuf", None);
        check("application/cbor", None);
        check("application/json;as=Table;v=v2;g=meta.k8s.io", None);
    }
}
