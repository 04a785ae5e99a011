//! What only the host asks for, on a machine that has nothing for it.

use serde_json::json;

use crate::program::Envd;

#[tokio::test]
async fn without_control_groups_a_freeze_finds_nothing_and_is_answered() {
    let envd = Envd::start();
    for path in ["/freeze", "/freeze?mode=hierarchy&maxCgroups=9", "/unfreeze"] {
        let answer = envd.post(path, &[], "").await;
        assert_eq!((answer.status.as_u16(), answer.text()), (204, ""), "{path}");
    }
    let mut report = envd.post("/freeze?mode=hierarchy&maxWaitMs=60000", &[], "").await.json();
    for time in ["sweepMs", "waitMs"] {
        assert!(report[time].take().is_u64());
    }
    let expected = json!({
        "mode": "hierarchy", "visited": 0, "allowlisted": 0, "truncated": false, "preFrozen": 0,
        "requested": 0, "frozen": 0, "notFrozen": 0, "failed": 0, "unobservable": 0,
        "sweepMs": null, "waitMs": null,
    });
    assert_eq!(report, expected);
    let init = envd.post("/init", &[], "{}").await;
    assert_eq!(init.header("x-envd-freeze-audit"), None);
}

#[tokio::test]
async fn a_query_that_makes_no_sense_is_refused() {
    let envd = Envd::start();
    for query in ["maxWaitMs=soon", "maxCgroups=", "maxCgroups=1.5"] {
        let answer = envd.post(&format!("/freeze?{query}"), &[], "").await;
        assert_eq!(answer.status.as_u16(), 400, "{query}");
        assert!(answer.header("content-type").unwrap().starts_with("text/plain"), "{query}");
    }
    let answer = envd.post("/freeze?mode=all", &[], "").await;
    let message = "mode must be 'legacy' or 'hierarchy', not 'all'".to_owned();
    assert_eq!(answer.error(), (400, message));
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
}

#[tokio::test]
async fn the_agents_memory_is_put_together_and_counted() {
    let envd = Envd::start();
    for _ in 0..2 {
        let answer = envd.post("/collapse", &[], "").await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        let report = answer.json();
        let count = |name: &str| report[name].as_u64().unwrap();
        let of_chunks = count("collapsed") + count("alreadyHuge") + count("skipped");
        assert_eq!(count("chunks"), of_chunks, "{report}");
        assert!(count("regions") <= count("chunks"), "{report}");
        assert_eq!(report.as_object().unwrap().len(), 6);
        assert!(report["elapsedMs"].is_u64());
    }
    assert_eq!(envd.run("echo still").await.stdout, "still\n");
}

#[tokio::test]
async fn with_a_token_all_of_it_needs_the_token_and_nothing_else_than_post_is_served() {
    let envd = Envd::start();
    envd.post("/init", &[], json!({"accessToken": "tok"}).to_string()).await;
    for path in ["/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw"] {
        assert_eq!(envd.post(path, &[], "").await.error().0, 401, "{path}");
        let wrong = envd.post(path, &[("x-access-token", "no")], "").await;
        assert_eq!(wrong.error().0, 401, "{path}");
        let get = envd.get(path, &[("x-access-token", "tok")]).await;
        assert_eq!(get.status.as_u16(), 405, "{path}");
    }
}
