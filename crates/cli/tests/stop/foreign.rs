//! What the credentials of one team are to the sandbox of another: nothing. The API does not even tell
//! it from a sandbox that never was.

use std::path::Path;

use guest_wire::ENVD_PORT;
use guest_wire::signature::{Operation, Signed};
use serde_json::{Value, json};

use crate::kit::{Client, Service, data_dir, said, turn};

/// A well-formed id that no sandbox has.
const NEVER_WAS: &str = "izzzzzzzzzzzzzzzzzzzz";

/// A file of both sandboxes, each with its owner's name in it.
const FILE: &str = "/home/user/whose";

/// A port of programs of a sandbox, at which nobody listens.
const PORT: u16 = 8080;

/// A sandbox that nobody gets into without its tokens, and the key of its team.
struct Private {
    key: String,
    id: String,
    envd: String,
    traffic: String,
}

impl Private {
    fn new(service: &Client, key: String, whose: &str) -> Self {
        let body = json!({
            "templateID": "busybox", "timeout": 3600, "secure": true,
            "network": { "allowPublicTraffic": false }, "metadata": { "whose": whose },
        });
        let key_header = [("X-API-Key", key.as_str())];
        let (status, made) = service.call("POST", "/sandboxes", &key_header, &body.to_string());
        assert_eq!(status, 201, "{made}");
        let made: Value = serde_json::from_str(&made).unwrap();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        let (id, envd) = (text("sandboxID"), text("envdAccessToken"));
        let mut write = service.about_sandboxes(&["exec", &id]);
        let write = write.args(["--", "sh", "-c", &format!("echo -n {whose} > {FILE}")]);
        let written = write.output().unwrap();
        assert!(written.status.success(), "{}", said(&written));
        Self { traffic: text("trafficAccessToken"), key, id, envd }
    }

    /// One request of its team's about the sandbox `id`: the status and the body, which names it.
    fn asks(&self, service: &Client, (method, path, body): &Endpoint, id: &str) -> (u16, String) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let key = [("X-API-Key", self.key.as_str())];
        let (status, text) = service.call(method, &path.replace("ID", id), &key, &body);
        (status, text.replace(id, "ID"))
    }

    /// One request with its tokens to a port of the sandbox `id`, both ways.
    fn reaches(&self, service: &Client, id: &str, port: u16, path: &str) -> [(u16, String); 2] {
        ways_to(service, id, port).map(|way| {
            let tokens =
                [("X-Access-Token", &*self.envd), ("E2b-Traffic-Access-Token", &self.traffic)];
            service.call("GET", path, &[&borrowed(&way)[..], &tokens].concat(), "")
        })
    }

    /// Where a file is, signed with its token.
    fn signs(&self, path: &str) -> String {
        let read = Signed { path, operation: Operation::Read, username: "user", expiration: None };
        let signature = read.signature(&self.envd).replace('+', "%2B");
        format!("/files?path={path}&username=user&signature={signature}")
    }
}

type Header = (&'static str, String);

/// The headers that lead to a port of the sandbox `id`: those made for that, and a host name.
fn ways_to(service: &Client, id: &str, port: u16) -> [Vec<Header>; 2] {
    let host = format!("{port}-{id}.{}", service.credential("E2B_DOMAIN"));
    let by_header = vec![("E2b-Sandbox-Id", id.to_owned()), ("E2b-Sandbox-Port", port.to_string())];
    [by_header, vec![("Host", host)]]
}

fn borrowed(headers: &[Header]) -> Vec<(&str, &str)> {
    headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

type Endpoint = (&'static str, &'static str, Value);

/// Every endpoint that names a sandbox, with a body that would do.
fn of_a_sandbox() -> Vec<Endpoint> {
    vec![
        ("GET", "/sandboxes/ID", Value::Null),
        ("GET", "/sandboxes/ID/explain", Value::Null),
        ("GET", "/sandboxes/ID/metrics", Value::Null),
        ("GET", "/sandboxes/metrics?sandbox_ids=ID", Value::Null),
        ("GET", "/sandboxes/ID/logs", Value::Null),
        ("GET", "/v2/sandboxes/ID/logs", Value::Null),
        ("GET", "/snapshots?sandboxID=ID", Value::Null),
        ("POST", "/sandboxes/ID/connect", json!({ "timeout": 60 })),
        ("POST", "/v2/sandboxes/ID/connect", json!({})),
        ("POST", "/sandboxes/ID/timeout", json!({ "timeout": 0 })),
        ("POST", "/sandboxes/ID/refreshes", json!({ "duration": 60 })),
        ("PUT", "/sandboxes/ID/network", json!({ "denyOut": ["0.0.0.0/0"] })),
        ("POST", "/sandboxes/ID/snapshots", json!({})),
        ("POST", "/sandboxes/ID/fork", json!({})),
        ("POST", "/sandboxes/ID/pause", json!({})),
        ("POST", "/sandboxes/ID/resume", json!({})),
        ("DELETE", "/sandboxes/ID", Value::Null),
    ]
}

/// A service with a sandbox of each of two teams.
fn two(data: &Path) -> (Service, Private, Private) {
    let service = Service::start(data, &[]);
    assert_eq!(service.team(&["create", "Others"]).0, 0);
    let (code, key, _) = service.key(&["create", "ci", "--team", "others"]);
    assert_eq!(code, 0);
    let ours = Private::new(&service, service.credential("E2B_API_KEY"), "ours");
    let theirs = Private::new(&service, key.trim_end().to_owned(), "theirs");
    (service, ours, theirs)
}

/// Nothing has happened to the sandbox since it was made; it is ended.
fn finish(service: Service, both: [Private; 2]) {
    for private in both {
        let of_it =
            |method, path| private.asks(&service, &(method, path, Value::Null), &private.id);
        let (_, told) = of_it("GET", "/sandboxes/ID/explain");
        let told: Value = serde_json::from_str(&told).unwrap();
        let moments: Vec<&Value> =
            told["timeline"].as_array().unwrap().iter().map(|moment| &moment["what"]).collect();
        assert_eq!(moments, ["asked", "started"], "{told}");
        assert_eq!(told["state"], "running", "{told}");
        assert_eq!(of_it("DELETE", "/sandboxes/ID").0, 204);
    }
    service.finish();
}

#[test]
fn by_its_id_another_team_cannot_tell_a_sandbox_from_one_that_never_was() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let (service, ours, theirs) = two(data.path());
    for endpoint in of_a_sandbox() {
        let never_was = theirs.asks(&service, &endpoint, NEVER_WAS);
        assert_eq!(theirs.asks(&service, &endpoint, &ours.id), never_was, "{endpoint:?}");
    }
    let key = [("X-API-Key", theirs.key.as_str())];
    let (_, listed) = service.call("GET", "/v2/sandboxes", &key, "");
    assert!(listed.contains(&theirs.id) && !listed.contains(&ours.id), "{listed}");
    finish(service, [ours, theirs]);
}

#[test]
fn the_tokens_of_another_teams_sandbox_open_neither_its_agent_nor_its_ports() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let (service, ours, theirs) = two(data.path());
    let file = format!("/files?path={FILE}&username=user");
    let seen = |who: &Private, whose: &Private, port, path: &str| {
        let [by_header, by_name] = who.reaches(&service, &whose.id, port, path);
        assert_eq!(by_header, by_name, "{port} {path}");
        by_header
    };
    for (own, content) in [(&ours, "ours"), (&theirs, "theirs")] {
        assert_eq!(seen(own, own, ENVD_PORT, &file), (200, content.to_owned()));
        // Let through, to where nobody listens.
        assert_eq!(seen(own, own, PORT, "/").0, 502);
    }
    let (status, body) = seen(&theirs, &ours, ENVD_PORT, &file);
    assert!(status == 401 && !body.contains("ours"), "{status} {body}");
    let (status, body) = seen(&theirs, &ours, PORT, "/");
    assert_eq!(status, 403, "{body}");
    finish(service, [ours, theirs]);
}

#[test]
fn a_link_that_is_signed_with_the_token_of_one_sandbox_leads_to_no_other() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let (service, ours, theirs) = two(data.path());
    for (own, content) in [(&ours, "ours"), (&theirs, "theirs")] {
        let got = service.call("GET", &own.signs(FILE), &[], "");
        assert_eq!(got, (200, content.to_owned()));
    }
    for target in ways_to(&service, &ours.id, ENVD_PORT) {
        let (status, body) = service.call("GET", &theirs.signs(FILE), &borrowed(&target), "");
        assert!(status == 401 && !body.contains("ours"), "{status} {body}");
    }
    finish(service, [ours, theirs]);
}
