//! Templates that were replaced go while the node runs, and not before they can.

use std::sync::atomic::Ordering;
use std::time::Duration;

use images::LeaseError;
use model::BuildId;
use node_wire::CreateError;
use tokio::time::sleep;

use super::{Images, ends, publish, secs};

/// Long enough for the janitor to have come.
const A_WHILE: Duration = secs(3 * 3600);

fn is_there(images: &Images, build: &BuildId) -> bool {
    match images.store.lease_build(build) {
        Ok(_lease) => true,
        Err(LeaseError::BuildGone(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_replaced_template_lasts_as_long_as_a_sandbox_runs_from_it() {
    let images = Images::new();
    let bench = images.node().await;
    let sandbox = images.store.lease(&images.template).unwrap();
    let old = sandbox.build().clone();
    let new = publish(&images.store);
    sleep(A_WHILE).await;
    assert!(is_there(&images, &old), "it is in use");
    drop(sandbox);
    sleep(A_WHILE).await;
    assert!(!is_there(&images, &old), "nobody has it");
    assert!(is_there(&images, &new.build), "it is the one to start from");
    bench.stop_clean("templates").await;
}

#[tokio::test(start_paused = true)]
async fn when_the_disk_is_short_of_room_replaced_templates_go_at_once() {
    let images = Images::new();
    let bench = images.node().await;
    let began = tokio::time::Instant::now();
    let old = images.store.lease(&images.template).unwrap().build().clone();
    let new = publish(&images.store);
    bench.fake.is_full.store(true, Ordering::SeqCst);
    let refused = bench.create("i1").await.unwrap_err();
    assert!(matches!(refused, CreateError::DiskFull { .. }), "{refused}");
    let gone = async {
        while is_there(&images, &old) {
            sleep(secs(1)).await;
        }
    };
    ends("collecting", gone).await;
    assert!(began.elapsed() < secs(60), "not in an hour");
    assert!(is_there(&images, &new.build));
    bench.fake.is_full.store(false, Ordering::SeqCst);
    bench.create_all(["i1"]).await;
    bench.stop_clean("short of room").await;
}
