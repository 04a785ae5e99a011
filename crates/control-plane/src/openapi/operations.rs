//! Every endpoint, one entry each.

use super::Auth::{Keys, Nobody, Operator, Team, Templates};
use super::{Auth, Operation, Query};

const fn operation(
    method: &'static str,
    path: &'static str,
    auth: Auth,
    about: &'static str,
    answers: &'static [(u16, &'static str)],
) -> Operation {
    Operation {
        method,
        path,
        auth,
        about,
        query: &[],
        body: None,
        body_required: false,
        answers,
        errors: &[],
        headers: &[],
        missing: false,
    }
}

impl Operation {
    const fn query(self, query: &'static [Query]) -> Self {
        Self { query, ..self }
    }

    const fn body(self, schema: &'static str) -> Self {
        Self { body: Some(schema), body_required: true, ..self }
    }

    const fn maybe_body(self, schema: &'static str) -> Self {
        Self { body: Some(schema), ..self }
    }

    const fn errors(self, errors: &'static [u16]) -> Self {
        Self { errors, ..self }
    }

    const fn headers(self, headers: &'static [&'static str]) -> Self {
        Self { headers, ..self }
    }
}

const fn get(
    path: &'static str,
    auth: Auth,
    about: &'static str,
    answers: &'static [(u16, &'static str)],
) -> Operation {
    operation("get", path, auth, about, answers)
}

const fn post(
    path: &'static str,
    auth: Auth,
    about: &'static str,
    answers: &'static [(u16, &'static str)],
) -> Operation {
    operation("post", path, auth, about, answers)
}

const fn put(
    path: &'static str,
    auth: Auth,
    about: &'static str,
    answers: &'static [(u16, &'static str)],
) -> Operation {
    operation("put", path, auth, about, answers)
}

const fn patch(
    path: &'static str,
    auth: Auth,
    about: &'static str,
    answers: &'static [(u16, &'static str)],
) -> Operation {
    operation("patch", path, auth, about, answers)
}

const fn delete(
    path: &'static str,
    auth: Auth,
    about: &'static str,
    answers: &'static [(u16, &'static str)],
) -> Operation {
    operation("delete", path, auth, about, answers)
}

/// What E2B has and this version does not.
const fn missing(method: &'static str, path: &'static str) -> Operation {
    let about = "Not in this version: 501";
    Operation { missing: true, ..operation(method, path, Team, about, &[]) }
}

const SPAN: &[Query] = &[("start", false, "UnixSeconds"), ("end", false, "UnixSeconds")];
const CLUSTER: &[Query] = &[("clusterID", false, "Uuid")];
/// What starting a sandbox can come to, beside what every call can.
const START: &[u16] = &[409, 504];
/// The same of a request that may be sent again under its key.
const START_ONCE: &[u16] = &[409, 422, 504];
/// What a call can come to that wants a sandbox in another state than it is in.
const CHANGE: &[u16] = &[409];
/// What a question to a node can come to.
const OF_NODE: &[u16] = &[502];
/// What an order to a node can come to.
const TO_NODE: &[u16] = &[409, 502];

pub(super) const ALL: &[Operation] = &[
    get("/health", Nobody, "Whether the service is well", &[(200, "text"), (503, "text")]),
    get("/openapi.json", Nobody, "This document", &[(200, "Document")]),
    // Sandboxes.
    post("/sandboxes", Team, "Start a sandbox, for 15 seconds unless told", &[(201, "Sandbox")])
        .body("NewSandbox")
        .errors(START),
    get("/sandboxes", Team, "The running sandboxes of the team", &[(200, "[ListedSandbox]")])
        .query(&[("metadata", false, "Text")]),
    post(
        "/v2/sandboxes",
        Team,
        "Start a secure sandbox, for 300 seconds unless told",
        &[(201, "Sandbox")],
    )
    .body("NewSandbox")
    .errors(START_ONCE),
    get("/v2/sandboxes", Team, "The sandboxes of the team, by page", &[(200, "[ListedSandbox]")])
        .query(&[
            ("metadata", false, "Text"),
            ("state", false, "Text"),
            ("order", false, "Order"),
            ("startedAfter", false, "Timestamp"),
            ("template", false, "Text"),
            ("nextToken", false, "Text"),
            ("limit", false, "PageLimit"),
        ])
        .headers(&["X-Next-Token", "X-Total-Running"]),
    get(
        "/sandboxes/metrics",
        Team,
        "The newest sample of some sandboxes",
        &[(200, "SandboxesWithMetrics")],
    )
    .query(&[("sandbox_ids", true, "Text")]),
    get("/sandboxes/{id}", Team, "One sandbox", &[(200, "SandboxDetail")]),
    delete("/sandboxes/{id}", Team, "End it; answered when nothing of it is left", &[(204, "")]),
    get("/sandboxes/{id}/explain", Team, "What became of it and why", &[(200, "Explanation")]),
    post(
        "/sandboxes/{id}/connect",
        Team,
        "Answer it, resumed if it is paused",
        &[(200, "Sandbox"), (201, "Sandbox")],
    )
    .body("ConnectSandbox")
    .errors(START),
    post(
        "/v2/sandboxes/{id}/connect",
        Team,
        "Answer it, resumed if it is paused",
        &[(200, "Sandbox"), (201, "Sandbox")],
    )
    .body("ConnectSandboxV2")
    .errors(START),
    post("/sandboxes/{id}/timeout", Team, "Move its end to so long from now", &[(204, "")])
        .body("SandboxTimeout")
        .errors(CHANGE),
    post("/sandboxes/{id}/refreshes", Team, "Have it live so long from now at least", &[(204, "")])
        .body("RefreshSandbox")
        .errors(CHANGE),
    put("/sandboxes/{id}/network", Team, "Replace its rules for connections", &[(204, "")])
        .body("NetworkUpdate")
        .errors(CHANGE),
    get("/sandboxes/{id}/metrics", Team, "Its samples", &[(200, "[SandboxMetric]")]).query(SPAN),
    get("/sandboxes/{id}/logs", Team, "What it did, the oldest first", &[(200, "SandboxLogs")])
        .query(&[("start", false, "UnixMillis"), ("limit", false, "LogLimit")]),
    get(
        "/v2/sandboxes/{id}/logs",
        Team,
        "What it did, from a moment on or back",
        &[(200, "SandboxLogsV2")],
    )
    .query(&[
        ("cursor", false, "UnixMillis"),
        ("limit", false, "LogLimit"),
        ("direction", false, "Direction"),
        ("level", false, "LogLevel"),
        ("search", false, "LogSearch"),
    ]),
    post("/sandboxes/{id}/pause", Team, "Pause it", &[(204, "")])
        .maybe_body("PauseSandbox")
        .errors(CHANGE),
    post("/sandboxes/{id}/resume", Team, "Resume it", &[(201, "Sandbox")])
        .maybe_body("ResumeSandbox")
        .errors(START),
    post("/sandboxes/{id}/fork", Team, "Start copies of it", &[(201, "[ForkResult]")])
        .maybe_body("ForkSandbox")
        .errors(CHANGE),
    post("/sandboxes/{id}/snapshots", Team, "Keep what it is for others", &[(201, "Snapshot")])
        .maybe_body("NewSnapshot")
        .errors(CHANGE),
    get("/snapshots", Team, "What was kept of sandboxes, by page", &[(200, "[Snapshot]")])
        .query(&[
            ("sandboxID", false, "Text"),
            ("name", false, "Text"),
            ("limit", false, "PageLimit"),
            ("nextToken", false, "Text"),
        ])
        .headers(&["X-Next-Token"]),
    // Templates.
    get(
        "/templates",
        Templates,
        "The templates sandboxes can be made from",
        &[(200, "[Template]")],
    )
    .query(&[("teamID", false, "Text")]),
    get("/v2/templates", Templates, "The same, by page", &[(200, "[Template]")])
        .query(&[
            ("teamID", false, "Text"),
            ("limit", false, "PageLimit"),
            ("nextToken", false, "Text"),
        ])
        .headers(&["X-Next-Token"]),
    get(
        "/default-templates",
        Templates,
        "The templates that came with the installation",
        &[(200, "[Template]")],
    ),
    get(
        "/templates/{id}",
        Team,
        "One template or snapshot, with its builds",
        &[(200, "TemplateWithBuilds")],
    )
    .query(&[("limit", false, "PageLimit"), ("nextToken", false, "Text")]),
    get("/templates/aliases/{alias}", Team, "The template of this name", &[(200, "TemplateAlias")]),
    delete("/templates/{id}", Team, "Delete a template or a snapshot", &[(204, "")]).errors(&[501]),
    missing("post", "/templates"),
    missing("post", "/v2/templates"),
    missing("post", "/v3/templates"),
    missing("patch", "/v2/templates/{id}"),
    missing("post", "/templates/{id}"),
    missing("patch", "/templates/{id}"),
    missing("get", "/templates/{id}/files/{hash}"),
    missing("post", "/templates/{id}/builds/{build}"),
    missing("post", "/v2/templates/{id}/builds/{build}"),
    missing("get", "/templates/{id}/builds/{build}/status"),
    missing("get", "/templates/{id}/builds/{build}/logs"),
    missing("post", "/templates/tags"),
    missing("delete", "/templates/tags"),
    missing("get", "/templates/{id}/tags"),
    missing("get", "/templates/{id}/tags/count"),
    missing("get", "/templates/{id}/tags/exists"),
    missing("get", "/templates/{id}/tags/groups"),
    missing("get", "/templates/{id}/tags/{tag}/assignments"),
    // Volumes and secrets.
    missing("get", "/volumes"),
    missing("post", "/volumes"),
    missing("get", "/volumes/{id}"),
    missing("delete", "/volumes/{id}"),
    missing("get", "/secrets"),
    missing("post", "/secrets"),
    missing("get", "/secrets/{id}"),
    missing("post", "/secrets/{id}"),
    missing("delete", "/secrets/{id}"),
    // Teams and keys.
    get("/teams", Keys, "The caller's team, with a new key", &[(200, "[TeamWithKey]")])
        .errors(&[409]),
    get("/teams/{id}/metrics", Team, "How much the team did", &[(200, "[TeamMetric]")]).query(SPAN),
    get("/teams/{id}/metrics/max", Team, "When it did the most", &[(200, "MaxTeamMetric")]).query(
        &[
            ("metric", true, "Measure"),
            ("start", false, "UnixSeconds"),
            ("end", false, "UnixSeconds"),
        ],
    ),
    get("/api-keys", Keys, "The keys of the team", &[(200, "[ApiKey]")]),
    post("/api-keys", Keys, "Make a key; it is told once", &[(201, "CreatedApiKey")])
        .body("Named")
        .errors(&[409]),
    patch("/api-keys/{id}", Keys, "Rename a key", &[(202, ""), (404, "text")]).body("Named"),
    delete("/api-keys/{id}", Keys, "Take a key back", &[(204, ""), (404, "text")]).errors(&[409]),
    post(
        "/access-tokens",
        Keys,
        "Make an access token; it is told once",
        &[(201, "CreatedAccessToken")],
    )
    .body("Named")
    .errors(&[409]),
    delete("/access-tokens/{id}", Keys, "Take an access token back", &[(204, ""), (404, "text")]),
    // Operators.
    get("/admin/teams", Operator, "The teams", &[(200, "[Team]")]),
    post("/admin/teams", Operator, "Make a team", &[(201, "Team")]).body("NewTeam").errors(&[409]),
    get("/admin/teams/{id}", Operator, "One team", &[(200, "Team")]).errors(&[404]),
    patch("/admin/teams/{id}", Operator, "Change a team and its limits", &[(200, "Team")])
        .body("TeamChange")
        .errors(&[404]),
    get("/admin/teams/{id}/api-keys", Operator, "The keys of a team", &[(200, "[ApiKey]")])
        .errors(&[404]),
    post("/admin/teams/{id}/api-keys", Operator, "Make a key of a team", &[(201, "CreatedApiKey")])
        .body("Named")
        .errors(&[403, 404, 409]),
    delete("/admin/teams/{id}/api-keys/{key}", Operator, "Take a key back", &[(204, "")])
        .errors(&[404, 409]),
    post(
        "/admin/teams/{id}/sandboxes/kill",
        Operator,
        "End whatever a team runs",
        &[(200, "KilledSandboxes")],
    ),
    post(
        "/admin/teams/{id}/builds/cancel",
        Operator,
        "Cancel the builds of a team",
        &[(200, "CancelledBuilds")],
    ),
    get(
        "/admin/sandboxes/running-counts",
        Operator,
        "How many sandboxes each team runs",
        &[(200, "Counts")],
    ),
    get("/nodes", Operator, "The nodes; null when there is none", &[(200, "Nodes")]).query(CLUSTER),
    get("/nodes/{id}", Operator, "One node", &[(200, "NodeDetail"), (404, "")]).query(CLUSTER),
    post("/nodes/{id}", Operator, "Ask a node for another status", &[(204, ""), (404, "")])
        .body("NodeStatusChange")
        .errors(TO_NODE),
    get(
        "/nodes/{id}/drain",
        Operator,
        "How a node's drain gets on; with watch, as it does",
        &[(200, "NodeDrain"), (404, "")],
    )
    .query(&[("watch", false, "Flag")])
    .errors(OF_NODE),
    get(
        "/nodes/{id}/leaks",
        Operator,
        "A census of a node's host",
        &[(200, "NodeLeaks"), (404, "")],
    )
    .errors(OF_NODE),
    get("/nodes/{id}/sandboxes", Operator, "What a node has", &[(200, "[NodeSandbox]"), (404, "")])
        .errors(OF_NODE),
    delete(
        "/nodes/{id}/sandboxes/{sandbox}",
        Operator,
        "End a sandbox of a node",
        &[(204, ""), (404, "")],
    )
    .errors(TO_NODE),
];
