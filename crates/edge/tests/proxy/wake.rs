//! Requests for sandboxes without a route: somebody is asked to wake them.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use edge::Edge;
use futures::future::join_all;
use model::{SandboxId, Secret};
use node_wire::{Ingress, Knock, Route, Routes as _, WakeError, Waker};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::kit::{LIFECYCLE, LOOPBACK, SANDBOX, World, config, full, in_world, to_port};

/// Wakes as it is told, and notes who knocked.
#[derive(Debug)]
struct Sleeper {
    edge: Weak<Edge>,
    answer: Mutex<Result<(), WakeError>>,
    knocks: Mutex<Vec<Knock>>,
    hold: watch::Sender<bool>,
}

#[async_trait]
impl Waker for Sleeper {
    async fn wake(&self, sandbox: &SandboxId, knock: Knock) -> Result<(), WakeError> {
        self.knocks.lock().push(knock);
        self.hold.subscribe().wait_for(|hold| !hold).await.unwrap();
        let answer = *self.answer.lock();
        if answer.is_ok() {
            let lifecycle = LIFECYCLE.parse().unwrap();
            let route = Route { sandbox: sandbox.clone(), lifecycle, addr: LOOPBACK };
            self.edge.upgrade().unwrap().publish(route, Ingress::default());
        }
        answer
    }
}

/// The sandbox of the world sleeps.
fn sleeper(world: &World) -> Arc<Sleeper> {
    world.withdraw(SANDBOX, LIFECYCLE);
    let sleeper = Arc::new(Sleeper {
        edge: Arc::downgrade(&world.edge),
        answer: Mutex::new(Ok(())),
        knocks: Mutex::default(),
        hold: watch::Sender::new(false),
    });
    world.edge.set_waker(Arc::clone(&sleeper) as Arc<dyn Waker>);
    sleeper
}

#[tokio::test]
async fn a_request_for_a_sleeping_sandbox_waits_for_it_and_gets_its_answer() {
    in_world(config(), async |world| {
        let server = world.sandbox_http(async |_| http::Response::new(full("awake"))).await;
        let sleeper = sleeper(world);
        sleeper.hold.send_replace(true);
        let requests = join_all((0..5).map(|_| world.text(to_port(server.port, "/"))));
        let let_go = async {
            while sleeper.knocks.lock().len() < 5 {
                tokio::task::yield_now().await;
            }
            assert_eq!(server.connections(), 0);
            sleeper.hold.send_replace(false);
        };
        let (answers, ()) = tokio::join!(requests, let_go);
        for (status, _, text) in answers {
            assert_eq!((status, text.as_str()), (200, "awake"));
        }
        let knocks = sleeper.knocks.lock().len();
        assert_eq!(world.text(to_port(server.port, "/")).await.0, 200);
        assert_eq!(sleeper.knocks.lock().len(), knocks, "nobody is asked for one that runs");
    })
    .await;
}

#[tokio::test]
async fn who_is_asked_learns_what_the_request_shows() {
    in_world(config(), async |world| {
        let sleeper = sleeper(world);
        *sleeper.answer.lock() = Err(WakeError::NotFound);
        let mut request = to_port(8080, "/");
        request.headers_mut().insert("e2b-traffic-access-token", "t".parse().unwrap());
        request.headers_mut().insert("x-access-token", "a".parse().unwrap());
        world.text(request).await;
        let mut request = to_port(49983, "/health");
        for token in ["one", "two"] {
            request.headers_mut().append("x-access-token", token.parse().unwrap());
        }
        world.text(request).await;
        let secret = |text: &str| Some(Secret::new(text.to_owned()));
        let expected = [
            Knock { for_agent: false, agent_token: secret("a"), traffic_token: secret("t") },
            // Of two nobody knows which one the program would look at.
            Knock { for_agent: true, ..Knock::default() },
        ];
        assert_eq!(*sleeper.knocks.lock(), expected);
    })
    .await;
}

#[tokio::test]
async fn every_refusal_has_the_status_that_clients_know() {
    in_world(config(), async |world| {
        let sleeper = sleeper(world);
        for (error, status) in [
            (WakeError::NotFound, 502),
            (WakeError::Failed, 502),
            (WakeError::Denied, 403),
            (WakeError::Transitioning, 409),
            (WakeError::AtLimit, 429),
        ] {
            *sleeper.answer.lock() = Err(error);
            let (got, _, text) = world.text(to_port(8080, "/")).await;
            let body: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((got, &body["code"]), (status, &json!(status)), "{error:?}");
            assert_eq!(body["sandboxId"], SANDBOX);
        }
    })
    .await;
}

#[tokio::test]
async fn those_who_wait_for_a_start_take_the_room_of_requests() {
    let config = edge::Config { max_exchanges: 1, ..config() };
    in_world(config, async |world| {
        let server = world.sandbox_http(async |_| http::Response::new(full("awake"))).await;
        let sleeper = sleeper(world);
        sleeper.hold.send_replace(true);
        let others = async {
            while sleeper.knocks.lock().is_empty() {
                tokio::task::yield_now().await;
            }
            let busy = world.text(to_port(server.port, "/")).await.0;
            sleeper.hold.send_replace(false);
            busy
        };
        let (first, second) = tokio::join!(world.text(to_port(server.port, "/")), others);
        assert_eq!((first.0, second), (200, 503));
    })
    .await;
}
