use e2b_wire::{NetworkConfig, NetworkUpdate};
use serde_json::{Value, json};

use super::{check_ingress, egress, updated};

fn network(body: Value) -> NetworkConfig {
    serde_json::from_value(body).unwrap()
}

fn refused(body: Value) -> (u16, String) {
    let error = egress(&network(body)).unwrap_err();
    let (status, message, ..) = error.parts();
    (status, message.to_owned())
}

#[test]
fn rules_by_address_are_taken() {
    let rules = json!({"allowOut": ["1.1.1.1", "10.0.0.0/8"], "denyOut": ["0.0.0.0/0"]});
    let rules = egress(&network(rules)).unwrap();
    let allow: Vec<String> = rules.allow.iter().map(ToString::to_string).collect();
    assert_eq!(allow, ["1.1.1.1/32", "10.0.0.0/8"]);
    assert_eq!(rules.deny, ["0.0.0.0/0".parse().unwrap()]);
    for nothing in [json!({}), json!({"allowOut": null, "rules": {}, "egressProxy": null})] {
        assert_eq!(egress(&network(nothing)).unwrap(), model::Egress::default());
    }
}

#[test]
fn rules_that_cannot_be_kept_are_refused_by_name() {
    let many: Vec<String> = (0..257).map(|n| format!("1.1.{}.{}", n / 256, n % 256)).collect();
    for (body, status, part) in [
        (
            json!({"allowOut": ["example.com"]}),
            501,
            "network.allowOut with the name \"example.com\"",
        ),
        (json!({"allowOut": ["*.example.com"]}), 501, "allowOut"),
        (json!({"allowOut": ["1.1.1.1/33"]}), 400, "allowOut"),
        (json!({"allowOut": ["2606:4700::1111"]}), 400, "allowOut"),
        (json!({"denyOut": ["example.com"]}), 400, "denyOut"),
        (json!({"denyOut": ["::/0"]}), 400, "denyOut"),
        (json!({"denyOut": many}), 400, "at most 256"),
        (json!({"rules": {"a.com": [{}]}}), 400, "network.rules"),
        (json!({"egressProxy": {"address": "a:1"}}), 501, "egressProxy"),
    ] {
        let (got, message) = refused(body);
        assert_eq!(got, status, "{message}");
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn what_is_asked_of_clients_makes_sense() {
    let private = network(json!({"allowPublicTraffic": false}));
    check_ingress(&private, true).unwrap();
    assert_eq!(check_ingress(&private, false).unwrap_err().parts().0, 400);
    check_ingress(&network(json!({"httpsPorts": []})), true).unwrap();
    let tls = check_ingress(&network(json!({"httpsPorts": [8443]})), true).unwrap_err();
    assert_eq!(tls.parts().0, 501);
    assert!(tls.parts().1.contains("network.httpsPorts"), "{tls:?}");
    for mask in ["", "localhost:${PORT}", "[::1]:80", "a_b.example.com", "${PORT}.x"] {
        check_ingress(&network(json!({"maskRequestHost": mask})), false).unwrap();
    }
    let long = "x".repeat(256);
    for mask in ["a b", "a/b", "a\r\nb", "b\u{fc}cher.de", "user@host", &long] {
        let error = check_ingress(&network(json!({"maskRequestHost": mask})), true).unwrap_err();
        assert!(error.parts().1.contains("maskRequestHost"), "{mask}");
    }
}

#[test]
fn an_update_replaces_the_rules_and_leaves_what_is_asked_of_clients() {
    let before = network(json!({
        "allowOut": ["1.1.1.1"], "denyOut": ["0.0.0.0/0"], "allowPublicTraffic": false,
        "maskRequestHost": "h",
    }));
    let update: NetworkUpdate = serde_json::from_value(json!({"denyOut": ["8.8.8.8"]})).unwrap();
    let after = updated(Some(before), update);
    let told = serde_json::to_value(&after).unwrap();
    let wanted =
        json!({"denyOut": ["8.8.8.8"], "allowPublicTraffic": false, "maskRequestHost": "h"});
    assert_eq!(told, wanted);
}
