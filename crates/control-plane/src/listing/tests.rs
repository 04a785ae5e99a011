use std::collections::BTreeMap;

use e2b_wire::{SandboxListQuery, Timestamp};
use model::{BuildId, Resources, SandboxId, TeamId, TemplateId};
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::ListRequest;
use crate::store::{RowState, SandboxRow, Terms};

fn row(id: &str, started_at: i64) -> SandboxRow {
    let started_at = Timestamp::from_micros(started_at).unwrap();
    SandboxRow {
        id: SandboxId::parse(id).unwrap(),
        team: TeamId::parse("t").unwrap(),
        template: TemplateId::parse("base").unwrap(),
        build: BuildId::parse("b").unwrap(),
        alias: None,
        envd_version: "0.5.0".into(),
        state: RowState::Running,
        node: None,
        lifecycle: None,
        metadata: BTreeMap::from([("n".into(), id.into())]),
        secure: true,
        internet: None,
        network: None,
        resources: Resources { vcpus: 1, memory_mib: 2, disk_mib: 3 },
        created_at: started_at,
        started_at,
        ends_at: started_at,
        origin: None,
        terms: Terms::default(),
        paused: None,
        pauses: 0,
        adopted: false,
        revision: 0,
    }
}

fn ids(query: SandboxListQuery, rows: &[SandboxRow]) -> (Vec<String>, usize, Option<String>) {
    let page = ListRequest::parse(query).unwrap().page(rows.to_vec());
    let ids = page.rows.iter().map(|row| row.id.to_string()).collect();
    (ids, page.running, page.next.map(|token| token.to_string()))
}

#[test]
fn the_newest_comes_first_and_ids_break_ties() {
    let rows = [row("b", 5), row("a", 5), row("c", 9)];
    let query = SandboxListQuery::default();
    assert_eq!(ids(query, &rows), (vec!["c".into(), "a".into(), "b".into()], 3, None));
    let query = SandboxListQuery { order: Some("asc".into()), ..Default::default() };
    assert_eq!(ids(query, &rows), (vec!["b".into(), "a".into(), "c".into()], 3, None));
}

#[test]
fn filters_are_anded_and_counted_before_paging() {
    let rows = [row("a", 1), row("b", 2_000_000), row("c", 3_000_000)];
    let after = Some("1970-01-01T00:00:02Z".to_owned());
    let query = SandboxListQuery {
        started_after: after.clone(),
        limit: Some("1".into()),
        ..Default::default()
    };
    let (page, total, next) = ids(query, &rows);
    assert_eq!((page, total, next.is_some()), (vec!["c".to_owned()], 2, true));
    let query = SandboxListQuery {
        started_after: after,
        metadata: Some("n=b".into()),
        ..Default::default()
    };
    assert_eq!(ids(query, &rows).0, ["b"]);
}

#[test]
fn paused_sandboxes_there_are_none_of() {
    let states = |state: &str| SandboxListQuery { state: Some(state.into()), ..Default::default() };
    assert_eq!(ids(states("paused"), &[row("a", 1)]).0, [""; 0]);
    assert_eq!(ids(states("paused,running"), &[row("a", 1)]).0, ["a"]);
}

#[test]
fn a_parameter_that_makes_no_sense_is_refused_by_name() {
    let base = SandboxListQuery::default;
    let token = ListRequest::parse(SandboxListQuery { limit: Some("1".into()), ..base() })
        .unwrap()
        .page(vec![row("a", 1), row("b", 2)])
        .next
        .unwrap()
        .to_string();
    for (query, name) in [
        (SandboxListQuery { limit: Some("0".into()), ..base() }, "limit"),
        (SandboxListQuery { limit: Some("101".into()), ..base() }, "limit"),
        (SandboxListQuery { limit: Some("x".into()), ..base() }, "limit"),
        (SandboxListQuery { order: Some("up".into()), ..base() }, "order"),
        (SandboxListQuery { state: Some("gone".into()), ..base() }, "state"),
        (SandboxListQuery { started_after: Some("now".into()), ..base() }, "startedAfter"),
        (SandboxListQuery { template: Some("a:b".into()), ..base() }, "template"),
        (SandboxListQuery { metadata: Some("a".into()), ..base() }, "metadata"),
        (SandboxListQuery { next_token: Some("x".into()), ..base() }, "nextToken"),
        (
            SandboxListQuery { next_token: Some(token), order: Some("asc".into()), ..base() },
            "nextToken",
        ),
    ] {
        let error = ListRequest::parse(query).unwrap_err();
        let (status, message, ..) = error.parts();
        assert_eq!(status, 400);
        assert!(message.contains(name), "{message}");
    }
}

proptest! {
    #[test]
    fn following_the_tokens_visits_every_row_once(
        times in proptest::collection::vec(0_i64..4, 0..40), limit in 1_usize..8, asc in any::<bool>()
    ) {
        let rows: Vec<SandboxRow> =
            times.iter().enumerate().map(|(n, time)| row(&format!("i{n}"), *time)).collect();
        let order = Some(if asc { "asc" } else { "desc" }.to_owned());
        let (mut seen, mut next_token) = (Vec::new(), None);
        loop {
            let query = SandboxListQuery {
                limit: Some(limit.to_string()),
                order: order.clone(),
                next_token: next_token.take(),
                ..Default::default()
            };
            let (page, total, next) = ids(query, &rows);
            prop_assert_eq!(total, rows.len());
            prop_assert!(page.len() <= limit);
            seen.extend(page);
            next_token = next;
            if next_token.is_none() {
                break;
            }
        }
        let all = SandboxListQuery { limit: Some("100".into()), order, ..Default::default() };
        prop_assert_eq!(seen, ids(all, &rows).0);
    }
}
