//! Traffic wakes a paused sandbox, as the edge asks for it.

use e2b_wire::TokenSeed;
use model::{Keep, SandboxId, Secret};
use node_wire::{CreateError, Knock, WakeError};
use serde_json::{Value, json};

use crate::fake_node::{ADDR, Fault};
use crate::service::{SEED, Service, wait_for};

const STRANGER: Knock = Knock { for_agent: false, agent_token: None, traffic_token: None };

impl Service {
    async fn wake(&self, id: &SandboxId, knock: Knock) -> Result<(), WakeError> {
        self.plane.waker().wake(id, knock).await
    }

    async fn sleeper(&self, mut more: Value) -> SandboxId {
        more["autoPause"] = json!(true);
        more["autoResume"] = json!({"enabled": true});
        let id = self.create(more).await;
        assert_eq!(self.pause(&id, json!({})).await, 204);
        id
    }
}

fn shows(for_agent: bool, token: &str) -> Knock {
    let token = Some(Secret::new(token.to_owned()));
    if for_agent {
        Knock { for_agent, agent_token: token, traffic_token: None }
    } else {
        Knock { for_agent, agent_token: None, traffic_token: token }
    }
}

#[tokio::test]
async fn a_burst_of_traffic_starts_a_sandbox_once() {
    let service = Service::start().await;
    let id = service.sleeper(json!({"timeout": 1000})).await;
    service.node.hold_resumes(true);
    let let_go = async {
        wait_for(async || *service.node.held_resumes.borrow() == 1).await;
        service.node.hold_resumes(false);
    };
    let wake = || service.wake(&id, STRANGER);
    let all = tokio::join!(wake(), wake(), wake(), service.connect(&id), let_go);
    assert_eq!((all.0, all.1, all.2), (Ok(()), Ok(()), Ok(())));
    // 200 is for one that runs: it may come that late.
    assert!(matches!(all.3, 200 | 201), "{}", all.3);
    assert_eq!(service.node.asked_for(), (1, 1, 0));
    assert_eq!(service.routes.addr(&id), Some(ADDR));
    assert_eq!(service.node.last_keep(), Some(Keep::Memory));
    assert_eq!(wake().await, Ok(()), "it runs");
    service.stop().await;
}

#[tokio::test]
async fn it_gets_the_time_it_was_made_with_but_five_minutes_at_least() {
    let service = Service::start_with(|config| {
        config.limits.sandbox_length = std::time::Duration::from_secs(2000);
    })
    .await;
    for (asked, expected) in [(15, 300), (1000, 1000), (2000, 2000)] {
        let id = service.sleeper(json!({"timeout": asked})).await;
        service.wake(&id, STRANGER).await.unwrap();
        assert_eq!(service.node.last_spec().ttl.as_secs(), expected);
    }
    service.stop().await;
}

#[tokio::test]
async fn one_that_was_not_made_for_it_sleeps_on() {
    let service = Service::start().await;
    let id = service.create(json!({"autoPause": true})).await;
    service.pause(&id, json!({})).await;
    assert_eq!(service.wake(&id, STRANGER).await, Err(WakeError::NotFound));
    let never: SandboxId = "inever".parse().unwrap();
    assert_eq!(service.wake(&never, STRANGER).await, Err(WakeError::NotFound));
    // What ran in it is over: only who asks for it by name gets that.
    let files = service.sleeper(json!({})).await;
    service.node.lose_memory(&files, true);
    wait_for(async || service.detail(&files).await["pauseMode"] == "filesystem").await;
    assert_eq!(service.wake(&files, STRANGER).await, Err(WakeError::NotFound));
    assert_eq!(service.connect(&files).await, 201);
    let killed = service.sleeper(json!({})).await;
    service.client.delete(&format!("/sandboxes/{killed}")).await;
    assert_eq!(service.wake(&killed, STRANGER).await, Err(WakeError::NotFound));
    assert_eq!(service.node.asked_for().1, 1);
    service.stop().await;
}

#[tokio::test]
async fn who_does_not_show_its_token_does_not_wake_it() {
    let service = Service::start().await;
    let (seed, denied) = (TokenSeed::new(SEED), Err(WakeError::Denied));
    let secure = service.sleeper(json!({"secure": true})).await;
    let agent = Knock { for_agent: true, ..STRANGER };
    assert_eq!(service.wake(&secure, agent).await, denied);
    assert_eq!(service.wake(&secure, shows(true, "wrong")).await, denied);
    assert!(service.node.last_keep().is_some() && service.node.asked_for().1 == 0);
    assert_eq!(service.wake(&secure, shows(true, &seed.envd_token(secure.as_str()))).await, Ok(()));
    // Its other ports are open to everybody.
    service.pause(&secure, json!({})).await;
    assert_eq!(service.wake(&secure, STRANGER).await, Ok(()));
    let network = json!({"allowPublicTraffic": false});
    let private = service.sleeper(json!({"secure": true, "network": network})).await;
    assert_eq!(service.wake(&private, STRANGER).await, denied);
    let token = seed.traffic_token(private.as_str());
    assert_eq!(service.wake(&private, shows(true, &token)).await, denied);
    assert_eq!(service.wake(&private, shows(false, &token)).await, Ok(()));
    service.stop().await;
}

#[tokio::test]
async fn a_blocked_team_and_one_at_its_limit_have_nothing_woken() {
    let service = Service::start_with(|config| config.limits.team_sandboxes = 1).await;
    let id = service.sleeper(json!({})).await;
    let other = service.create(json!({})).await;
    assert_eq!(service.wake(&id, STRANGER).await, Err(WakeError::AtLimit));
    service.client.delete(&format!("/sandboxes/{other}")).await;
    let team = "/admin/teams/c0ffe7da-0000-4000-8000-000000000001";
    let block = json!({"blockedReason": "unpaid"});
    assert!(service.admin().patch(team, &block).await.status.is_success());
    assert_eq!(service.wake(&id, STRANGER).await, Err(WakeError::Denied));
    assert_eq!(service.detail(&id).await["state"], "paused");
    service.stop().await;
}

#[tokio::test]
async fn a_start_that_fails_is_told_and_a_pause_under_way_is_waited_for() {
    let service = Service::start().await;
    let id = service.sleeper(json!({})).await;
    service.node.fail_next_resume(CreateError::Full { limit: 1 });
    assert_eq!(service.wake(&id, STRANGER).await, Err(WakeError::Failed));
    service.node.set_fault(Some(Fault::Unreachable));
    assert_eq!(service.wake(&id, STRANGER).await, Err(WakeError::Failed));
    service.node.set_fault(None);
    service.compare();
    service.is(&id, "paused").await;
    assert_eq!(service.wake(&id, STRANGER).await, Ok(()));
    service.node.hold_pauses(true);
    let held = *service.node.held_pauses.borrow();
    let traffic = async {
        wait_for(async || *service.node.held_pauses.borrow() > held).await;
        let let_go = async {
            service.node.hold_pauses(false);
        };
        tokio::join!(service.wake(&id, STRANGER), let_go).0
    };
    let (paused, woken) = tokio::join!(service.pause(&id, json!({})), traffic);
    assert_eq!((paused, woken), (204, Ok(())));
    assert_eq!(service.detail(&id).await["state"], "running");
    service.stop().await;
}
