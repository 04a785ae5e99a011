//! The document of the API in the form of OpenAPI 3, served at `/openapi.json` to everybody.
//!
//! Each endpoint is one entry of [`operations`]; what all have in common (who may call, what any
//! call can be answered) is added here. Tests compare the entries with the router.

mod operations;

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use crate::app::App;
use axum::Router;
use axum::routing::MethodRouter;

/// The schemas of bodies.
const SCHEMAS: &str = include_str!("openapi/schemas.json");

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

/// Who may call an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Auth {
    Nobody,
    /// A team, by its key or through its operator.
    Team,
    /// A team, by an access token, too.
    Templates,
    /// Who looks after the keys of a team.
    Keys,
    Operator,
}

/// One endpoint.
#[derive(Debug, Clone, Copy)]
struct Operation {
    method: &'static str,
    path: &'static str,
    auth: Auth,
    about: &'static str,
    query: &'static [Query],
    /// The name of its schema.
    body: Option<&'static str>,
    body_required: bool,
    /// Statuses and what each has: the name of a schema, one in brackets for a list, `text`, `lines`
    /// (JSON, one document a line), or nothing.
    answers: &'static [(u16, &'static str)],
    /// Statuses with an error, beside those that every endpoint has.
    errors: &'static [u16],
    /// Header fields of the answer.
    headers: &'static [&'static str],
    /// Whether E2B has it and this version does not.
    missing: bool,
}

/// A parameter of the query: its name, whether it has to be there, its schema.
type Query = (&'static str, bool, &'static str);

pub(crate) async fn serve() -> ([(HeaderName, HeaderValue); 1], Bytes) {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], DOCUMENT.clone())
}

/// The router and what it knows: axum does not tell its paths.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    router: Router<Arc<App>>,
    paths: Vec<&'static str>,
}

impl Endpoints {
    pub(crate) fn route(mut self, path: &'static str, methods: MethodRouter<Arc<App>>) -> Self {
        self.paths.push(path);
        Self { router: self.router.route(path, methods), paths: self.paths }
    }

    pub(crate) fn into_router(self) -> Router<Arc<App>> {
        self.router
    }
}

fn document() -> Value {
    let mut paths = Map::new();
    for operation in operations::ALL {
        let methods = paths.entry(operation.path).or_insert_with(|| json!({}));
        if let Some(methods) = methods.as_object_mut() {
            methods.insert(operation.method.to_owned(), operation.describe());
        }
    }
    // A build that has a broken file fails its tests.
    let schemas: Value = serde_json::from_str(SCHEMAS).unwrap_or_default();
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Cofferdam",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Sandboxes for untrusted programs, over E2B's REST protocol. A status \
                501 says that E2B has the endpoint or the option and this version does not.",
            "license": { "name": "Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas, "securitySchemes": security_schemes() },
    })
}

fn security_schemes() -> Value {
    let header = |name: &str| json!({ "type": "apiKey", "in": "header", "name": name });
    json!({
        "apiKey": header("X-API-Key"),
        "adminToken": header("X-Admin-Token"),
        "team": header("X-Team-ID"),
        "accessToken": { "type": "http", "scheme": "bearer" },
    })
}

impl Auth {
    fn describe(self) -> Value {
        let operator = json!({ "adminToken": [], "team": [] });
        match self {
            Self::Nobody => json!([]),
            Self::Team => json!([{ "apiKey": [] }, operator]),
            Self::Templates => json!([{ "apiKey": [] }, { "accessToken": [] }, operator]),
            Self::Keys => json!([{ "accessToken": [] }, operator]),
            Self::Operator => json!([{ "adminToken": [] }]),
        }
    }

    /// What every endpoint of this kind can answer.
    fn errors(self) -> &'static [u16] {
        match self {
            // Whoever is answered is counted, and time runs for everybody.
            Self::Nobody => &[408, 503],
            Self::Operator => &[400, 401, 408, 500, 503],
            // With an operator who names no team there is; and one that is banned, or too fast.
            Self::Team | Self::Templates | Self::Keys => &[400, 401, 403, 404, 408, 429, 500, 503],
        }
    }
}

impl Operation {
    fn describe(&self) -> Value {
        let mut operation = json!({
            "summary": self.about,
            "tags": [self.path.trim_start_matches("/v2").trim_start_matches("/v3")
                .split('/').nth(1).unwrap_or_default()],
            "security": self.auth.describe(),
            "parameters": self.parameters(),
            "responses": self.responses(),
        });
        if let Some(schema) = self.body {
            operation["requestBody"] = json!({
                "required": self.body_required,
                "content": { "application/json": { "schema": reference(schema) } },
            });
        }
        if self.missing {
            operation["x-cofferdam-missing"] = json!(true);
        }
        operation
    }

    fn parameters(&self) -> Vec<Value> {
        let names = self
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{').and_then(|part| part.strip_suffix('}')));
        let in_path = names.map(|name| {
            let schema = self.schema_of_segment(name);
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        });
        let in_query = self.query.iter().map(|(name, required, schema)| {
            let schema = reference(schema);
            json!({ "name": name, "in": "query", "required": required, "schema": schema })
        });
        in_path.chain(in_query).collect()
    }

    fn schema_of_segment(&self, name: &str) -> Value {
        let of_sandbox =
            name == "sandbox" || (name == "id" && self.path.contains("sandboxes/{id}"));
        if of_sandbox {
            return reference("SandboxID");
        }
        let starts = |prefix: &str| self.path.starts_with(prefix);
        let is_uuid = name == "key"
            || (name == "id" && (starts("/teams/") || starts("/admin/") || starts("/api-keys/")))
            || starts("/access-tokens/");
        if is_uuid { reference("Uuid") } else { reference("Segment") }
    }

    fn responses(&self) -> Map<String, Value> {
        let mut responses = Map::new();
        let body = self.body.map_or(&[][..], |_schema| &[400, 413]);
        let missing = if self.missing { &[501][..] } else { &[] };
        for status in [self.auth.errors(), body, missing, self.errors].into_iter().flatten() {
            responses.insert(status.to_string(), answer(*status, "Error"));
        }
        for (status, schema) in self.answers {
            let mut answer = answer(*status, schema);
            let text = json!({ "schema": { "type": "string" } });
            for name in self.headers {
                answer["headers"][*name] = text.clone();
            }
            responses.insert(status.to_string(), answer);
        }
        responses
    }
}

fn answer(status: u16, schema: &str) -> Value {
    let about = http::StatusCode::from_u16(status).ok();
    let about = about.and_then(|status| status.canonical_reason()).unwrap_or_default();
    let content = match schema {
        "" => return json!({ "description": about }),
        "text" => json!({ "text/plain": { "schema": { "type": "string" } } }),
        "lines" => json!({ "application/x-ndjson": { "schema": { "type": "string" } } }),
        schema => json!({ "application/json": { "schema": reference(schema) } }),
    };
    json!({ "description": about, "content": content })
}

/// A schema by its name; a list of it when the name is in brackets.
fn reference(name: &str) -> Value {
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(item) => json!({ "type": "array", "items": reference(item) }),
        None => json!({ "$ref": format!("#/components/schemas/{name}") }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::{DOCUMENT, document, operations};
    use crate::http::endpoints;

    #[test]
    fn the_document_has_every_path_of_the_router_and_no_other() {
        let known: BTreeSet<&str> = endpoints().paths.into_iter().collect();
        let told: BTreeSet<&str> = operations::ALL.iter().map(|entry| entry.path).collect();
        assert_eq!(told, known);
    }

    #[test]
    fn every_endpoint_is_told_once() {
        let mut seen = BTreeSet::new();
        for entry in operations::ALL {
            assert!(seen.insert((entry.method, entry.path)), "{} {}", entry.method, entry.path);
        }
    }

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value.as_str().filter(|_| name == "$ref") {
                        Some(target) => drop(found.insert(target.to_owned())),
                        None => references(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_schema_that_is_named_is_there_and_is_used() {
        let document = document();
        let mut named = BTreeSet::new();
        references(&document, &mut named);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let there: BTreeSet<String> =
            schemas.keys().map(|name| format!("#/components/schemas/{name}")).collect();
        assert_eq!(named, there);
        assert!(!DOCUMENT.is_empty());
    }
}
