use e2b_wire::{NetworkConfig, NetworkUpdate};
use serde_json::{Value, json};

use super::{check_egress, check_ingress, egress, told, updated};

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
fn rules_by_name_are_taken_and_the_password_is_not_told() {
    let asked = json!({
        "allowOut": ["1.1.1.1", "Example.com", "*.example.com"],
        "denyOut": ["0.0.0.0/0"],
        "egressProxy": {"address": "p.example:1080", "username": "u", "password": "hunter2"},
        "rules": {
            "*.A.com": [{"transform": {"headers": {"X-Key": "k"}}}],
            "http://b.com": [{"transform": {"headers": {"x": "y"}}}],
        },
    });
    let asked = network(asked);
    let rules = egress(&asked).unwrap();
    let domains: Vec<String> = rules.domains.iter().map(ToString::to_string).collect();
    assert_eq!(domains, ["example.com", "*.example.com"]);
    let proxy = rules.proxy.unwrap();
    assert_eq!(proxy.credentials().unwrap().password.expose(), "hunter2");
    assert_eq!(rules.headers[0].requests.to_string(), "*.a.com");
    let (name, value) = &rules.headers[0].headers[0];
    assert_eq!((name.as_str(), value.expose()), ("x-key", "k"));
    let told = serde_json::to_value(told(&asked)).unwrap();
    assert_eq!(told["egressProxy"], json!({"address": "p.example:1080", "username": "u"}));
    let headers = |headers: Value| json!([{"transform": {"headers": headers}}]);
    let rules = json!({"*.a.com": headers(json!({"X-Key": "k"})), "http://b.com": headers(json!({"x": "y"}))});
    assert_eq!(told["rules"], rules, "domains in lower case");
    assert!(!format!("{asked:?}").contains("hunter2"));
}

#[test]
fn name_servers_are_allowed_where_names_are_and_nowhere_else() {
    let asked = |allow: &str, servers: Value| json!({"allowOut": [allow], "denyOut": ["0.0.0.0/0"], "dnsServers": servers});
    let rules = egress(&network(asked("a.com", json!(["9.9.9.9"])))).unwrap();
    assert_eq!(rules.allow, ["9.9.9.9/32".parse().unwrap()]);
    assert_eq!(rules.name_servers, Some(vec![[9, 9, 9, 9].into()]));
    let rules = egress(&network(asked("a.com", json!([])))).unwrap();
    assert_eq!((rules.name_servers, rules.allow), (Some(Vec::new()), Vec::new()));
    let rules = egress(&network(asked("a.com", json!(null)))).unwrap();
    assert_eq!(rules.name_servers, None, "the node's");
    for without_a_name in [json!(["9.9.9.9"]), json!([])] {
        let rules = egress(&network(asked("1.1.1.1", without_a_name))).unwrap();
        assert_eq!(rules.allow, ["1.1.1.1/32".parse().unwrap()]);
        assert_eq!(rules.name_servers, None);
    }
    check_egress(&network(asked("1.1.1.1", json!(["9.9.9.9"])))).unwrap();
    let odd = check_egress(&network(asked("1.1.1.1", json!(["dns.example"])))).unwrap_err();
    assert_eq!(odd.parts().0, 400, "though nobody asks it");
    let many: Vec<String> = (1..=11).map(|n| format!("9.9.9.{n}")).collect();
    for (servers, part) in [
        (json!(["9.9.9.0/24"]), "must be an IPv4 address"),
        (json!(["dns.example"]), "must be an IPv4 address"),
        (json!(many), "at most 10"),
    ] {
        let (status, message) = refused(asked("a.com", servers));
        assert!(status == 400 && message.contains(part), "{status} {message}");
    }
}

#[test]
fn a_proxy_that_is_to_be_spoken_to_in_tls_is_not_spoken_to_without() {
    let proxy = |tls: Value| json!({"egressProxy": {"address": "p.example:1080", "tls": tls}});
    let certificate = rcgen::generate_simple_self_signed(["p".into()]).unwrap().cert.pem();
    let tls = json!({"enabled": true, "serverName": "p", "caCert": certificate});
    let taken = |tls: Value| egress(&network(proxy(tls))).unwrap().proxy.unwrap();
    let known = taken(tls.clone());
    assert_eq!(
        (known.server_name().as_str(), known.tls().unwrap().authorities().unwrap()),
        ("p", certificate.as_str())
    );
    let host = taken(json!({"enabled": true}));
    assert_eq!(
        (host.server_name().as_str(), host.tls().unwrap().authorities()),
        ("p.example", None)
    );
    for off in [json!(null), json!({"enabled": false})] {
        assert_eq!(taken(off).tls(), None);
    }
    for described in [json!({"enabled": false, "serverName": "p"}), json!({"caCert": certificate})]
    {
        let network = network(proxy(described));
        let error = check_egress(&network).unwrap_err();
        let (status, message, ..) = error.parts();
        assert!(status == 400 && message.contains("need enabled: true"), "{message}");
        assert_eq!(egress(&network).unwrap().proxy.unwrap().tls(), None, "of a row that is there");
    }
    check_egress(&network(proxy(json!({"enabled": false})))).unwrap();
    let garbled = certificate.replace("MII", "AAA");
    for (tls, part) in [
        (json!({"enabled": true, "serverName": "a b"}), "\"a b\" is no name of a server"),
        (json!({"enabled": true, "caCert": ""}), "1 to 8192 bytes"),
        (json!({"enabled": true, "caCert": "x".repeat(8193)}), "1 to 8192 bytes"),
        (json!({"enabled": true, "caCert": "p.pem"}), "there is no certificate in it"),
        (json!({"enabled": true, "caCert": "-----BEGIN CERTIFICATE-----\nAA"}), "caCert"),
        (json!({"enabled": true, "caCert": garbled}), "caCert"),
    ] {
        let (status, message) = refused(proxy(tls));
        assert!(status == 400 && message.contains(part), "{status} {message}");
    }
    let told = serde_json::to_value(told(&network(proxy(tls)))).unwrap();
    assert_eq!(told["egressProxy"]["tls"], json!({"enabled": true, "serverName": "p"}));
}

#[test]
fn rules_that_cannot_be_kept_are_refused_by_name() {
    let many: Vec<String> = (0..257).map(|n| format!("1.1.{}.{}", n / 256, n % 256)).collect();
    let rule = |name: &str, value: &str| json!([{"transform": {"headers": {name: value}}}]);
    let rules = |domain: &str, rule: Value| json!({"rules": {domain: rule}});
    let domains: serde_json::Map<_, _> = (0..11).map(|n| (format!("{n}.com"), json!([]))).collect();
    for (body, part) in [
        (json!({"allowOut": ["example.com"]}), "needs denyOut with 0.0.0.0/0"),
        (json!({"allowOut": ["a.com"], "denyOut": ["0.0.0.0/1"]}), "needs denyOut with 0.0.0.0/0"),
        (json!({"allowOut": ["*"], "denyOut": ["0.0.0.0/0"]}), "allowOut: \"*\""),
        (json!({"allowOut": ["1.1.1.1/33"]}), "allowOut: \"1.1.1.1/33\" must be an IPv4"),
        (json!({"allowOut": ["2606:4700::1111"]}), "must be an IPv4"),
        (json!({"denyOut": ["example.com"]}), "denyOut"),
        (json!({"denyOut": ["::/0"]}), "denyOut"),
        (json!({"denyOut": many}), "at most 256"),
        (json!({"rules": domains}), "at most 10"),
        (rules("a b", json!([{}])), "network.rules: \"a b\" must be a domain name"),
        (rules("*", json!([{}])), "network.rules: \"*\" must be"),
        (rules("https://a.com", json!([{}])), "must be a domain name"),
        (rules("1.2.3.4", json!([{}])), "must be a domain name"),
        (rules(&format!("{}.com", "a.".repeat(64)), json!([{}])), "at most 128 bytes"),
        (json!({"rules": {"a.com": [], "A.com": []}}), "a.com is there twice"),
        (rules("http://a.com", json!([{}, {}])), "one rule"),
        (rules("a.com", rule("a b", "c")), "no name of a header"),
        (rules("a.com", rule("a", "c\n")), "no value"),
        (rules("a.com", rule("Host", "b.com")), "belongs to the connection"),
        (rules("a.com", rule("a", "${e2b.secrets.KEY}")), "placeholder"),
        (rules("a.com", rule("a", "Bearer ${e2b.identity.tokens.aws}")), "placeholder"),
        (rules("a.com", rule("a", &"x".repeat(2049))), "2048"),
        (json!({"egressProxy": {"address": "a"}}), "host:port"),
        (json!({"egressProxy": {"address": "10.0.0.1:1080"}}), "no sandbox reaches 10.0.0.1:1080"),
        (json!({"egressProxy": {"address": "a:1", "password": "p"}}), "needs a username"),
    ] {
        let (got, message) = refused(body);
        assert_eq!(got, 400, "{message}");
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn what_is_asked_of_clients_makes_sense() {
    let private = network(json!({"allowPublicTraffic": false}));
    check_ingress(&private, true).unwrap();
    assert_eq!(check_ingress(&private, false).unwrap_err().parts().0, 400);
    for ports in [json!(null), json!([]), json!([1, 8443, 65535])] {
        check_ingress(&network(json!({"httpsPorts": ports})), true).unwrap();
    }
    for ports in [vec![0], vec![8443, 49983], vec![65536], vec![-1], (1..=101).collect()] {
        let refused = check_ingress(&network(json!({"httpsPorts": ports})), true).unwrap_err();
        assert_eq!(refused.parts().0, 400);
        assert!(refused.parts().1.contains("network.httpsPorts"), "{refused:?}");
    }
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
        "maskRequestHost": "h", "httpsPorts": [8443], "dnsServers": ["9.9.9.9"],
    }));
    let update: NetworkUpdate = serde_json::from_value(json!({"denyOut": ["8.8.8.8"]})).unwrap();
    let after = updated(Some(before), update);
    let told = serde_json::to_value(&after).unwrap();
    let wanted = json!({"denyOut": ["8.8.8.8"], "allowPublicTraffic": false, "maskRequestHost": "h",
            "httpsPorts": [8443]});
    assert_eq!(told, wanted);
}
