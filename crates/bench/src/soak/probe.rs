//! How long a create and a kill take: before the work, beside it, and after it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::bare::{Bare, Taken};
use super::caller::{Ask, Caller, refused};
use super::course::Course;
use super::daemon::Standing;
use super::model::Violation;
use super::ops::create;
use super::{Load, Options};
use crate::numbers::Series;

/// From one container to the next of a light load, with the service and without by turns, whether
/// something else goes on or not: what is compared differs in that alone. A processor that is woken is
/// slower than one that was busy, and the kernel is busy with what was removed for a while.
const LIGHT_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub(crate) struct Times {
    pub create: Series,
    pub kill: Series,
    /// The same of a container without a service, by turns with both: what the machine gives.
    pub bare_create: Series,
    pub bare_kill: Series,
    /// A create and its kill that waited for the next daemon; in none of the others.
    pub held_up: Series,
}

/// Measures while nothing else runs.
///
/// # Errors
/// What is measured fails.
pub(super) async fn alone(
    course: &Course,
    caller: &mut Caller,
    bare: &Mutex<Bare>,
    options: &Options,
    when: &str,
) -> Result<Times, Violation> {
    let mut times = Times::default();
    for number in 0..options.measured {
        let key = format!("soak-{}-{when}-{number}", course.seed);
        one(course, caller, bare, &key, options.load).await?.put(&mut times);
    }
    Ok(times)
}

/// Measures beside everything else, until the run is over.
///
/// # Errors
/// As those of [`alone`].
pub(super) async fn beside(course: Arc<Course>, bare: Arc<Mutex<Bare>>) -> Result<(), Violation> {
    let mut caller = Caller::new(Arc::clone(&course.daemon));
    let mut number = 0_u64;
    while !course.is_over() {
        {
            // What it makes is gone again before anybody compares.
            let _in_the_world = course.world.read().await;
            let key = format!("soak-{}-during-{number}", course.seed);
            let took = one(&course, &mut caller, &bare, &key, Load::Light).await?;
            course.created();
            took.put(&mut course.during.lock());
        }
        number += 1;
    }
    Ok(())
}

async fn rest_of(began: Instant, load: Load) {
    if load == Load::Light {
        tokio::time::sleep(LIGHT_EVERY.saturating_sub(began.elapsed())).await;
    }
}

/// How long one of each took.
#[derive(Debug)]
struct Took {
    bare: Taken,
    create: Duration,
    kill: Duration,
    /// Whether one daemon answered both.
    by_one: bool,
}

impl Took {
    fn put(self, times: &mut Times) {
        times.bare_create.push(self.bare.create);
        times.bare_kill.push(self.bare.kill);
        if self.by_one {
            times.create.push(self.create);
            times.kill.push(self.kill);
        } else {
            times.held_up.push(self.create + self.kill);
        }
    }
}

async fn one(
    course: &Course,
    caller: &mut Caller,
    bare: &Mutex<Bare>,
    key: &str,
    load: Load,
) -> Result<Took, Violation> {
    let began = Instant::now();
    let bare = bare
        .lock()
        .await
        .take()
        .await
        .map_err(|error| Violation::unexpected(format!("a container without us: {error:#}")))?;
    rest_of(began, load).await;
    let before: Standing = course.daemon.up().await?;
    let began = Instant::now();
    let sandbox = create(caller, key).await?;
    let made = began.elapsed();
    let unwanted = Instant::now();
    let path = format!("/sandboxes/{}", sandbox.id);
    let answer = caller.ask(&Ask::api(&course.daemon, "DELETE", path, "")).await?;
    let kill = unwanted.elapsed();
    let by_one = course.daemon.standing() == before;
    // The daemon before, or a fault, may have kept the first answer to itself.
    let excused = !by_one || course.daemon.is_faulty();
    if answer.status() != 204 && !(excused && answer.status() == 404) {
        return Err(refused("kill", &answer));
    }
    rest_of(began, load).await;
    Ok(Took { bare, create: made, kill, by_one })
}
