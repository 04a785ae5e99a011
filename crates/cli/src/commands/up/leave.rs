//! Going, and leaving every sandbox to the next service of the same data directory.

use std::path::Path;
use std::pin::{Pin, pin};
use std::time::Duration;

use anyhow::Context;
use edge::ServeError;
use futures::FutureExt;
use futures::future::{Fuse, FusedFuture};
use host::identity::is_held;
use host::process::{self, Process};
use lifecycle::Budget;
use node::Node;
use node_wire::NodeApi;

use super::helm::Helm;
use super::outcome::{LEFT, Outcome};
use super::replace::{Again, Candidate, look_at};
use super::stop::{Cause, listener_ended};
use crate::config::{Config, Leave};
use crate::sockets::Sockets;
use crate::sockets::handover::{Asked, Offer};
use crate::supervisor::Stage;

/// How a service that serves comes to its end.
#[derive(Debug)]
pub(super) enum Way {
    Stop(Cause),
    /// The sandboxes run on for the next service, which has the sockets, or will have them; and
    /// what is broken, if that is why.
    Leave(Option<String>),
    /// The same, for another program in this process.
    Replace(Candidate),
}

/// How long what was begun may take before it is left to the next service: starts, ends of
/// sandboxes, and the answers to both.
const UNDER_WAY: Duration = Duration::from_secs(15);
/// How long the next service waits for all that, and for the records to be put away.
const HANDOVER: Duration = Duration::from_secs(60);
/// A lock cannot be waited for and given up.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long systemd may take to say what it is doing.
const JOBS: Duration = Duration::from_secs(2);

/// What a service that serves waits for.
pub(super) struct Ends<'a, S, O> {
    pub(super) node: &'a Node,
    pub(super) sockets: &'a Sockets,
    pub(super) serving: Pin<&'a mut S>,
    /// Is over when new sandboxes are taken.
    pub(super) opened: Pin<&'a mut O>,
}

enum Turn {
    Opened,
    Ended(Result<(), ServeError>),
    Failed(String),
    Asked(Asked),
    /// A program was looked at.
    Looked(Option<Candidate>),
}

/// What is told while a service goes and its sandboxes stay.
pub(super) const LEAVING: &str = "leaving the sandboxes to the next service";
/// Why a node that drains is given to nobody.
const DRAINS: &str = "its node drains; wait for its end";

impl<S, O> Ends<'_, S, O>
where
    S: FusedFuture<Output = Result<(), ServeError>>,
    O: Future<Output = ()>,
{
    /// Serves until there is a reason to end, and says which way.
    pub(super) async fn way_out(
        mut self,
        (config, again): (&Config, &Again),
        status: impl Fn() -> String,
        helm: &mut Helm,
    ) -> Way {
        let mut offer = Offer::open(&config.data_dir)
            .inspect_err(|error| tracing::warn!("nobody can take this service over: {error:#}"))
            .ok();
        let mut stage = Stage::Starting;
        let mut looking = pin!(Fuse::terminated());
        loop {
            let opening = stage == Stage::Starting;
            let turn = async {
                tokio::select! {
                    ended = self.serving.as_mut() => Turn::Ended(ended),
                    // One program at a time; who asks meanwhile waits.
                    asked = asked(offer.as_mut()), if looking.is_terminated() => Turn::Asked(asked),
                    looked = &mut looking, if !looking.is_terminated() => Turn::Looked(looked),
                    why = self.node.failed() => Turn::Failed(why),
                    () = self.opened.as_mut(), if opening => Turn::Opened,
                }
            };
            let turn = helm.unless_signalled(stage, &status, pin!(turn)).await;
            match turn {
                None if !drains(self.node).await && is_wanted(config.shutdown_leave).await => {
                    return Way::Leave(None);
                }
                None => return Way::Stop(Cause::Asked),
                Some(Turn::Opened) => {
                    stage = Stage::Serving;
                    helm.ready(&status());
                }
                Some(Turn::Ended(ended)) => return broken(config, helm, listener_ended(ended)),
                Some(Turn::Failed(why)) => return broken(config, helm, why),
                Some(Turn::Looked(None)) => {}
                Some(Turn::Looked(Some(candidate))) if drains(self.node).await => {
                    candidate.refuse(DRAINS);
                }
                Some(Turn::Looked(Some(candidate))) => return Way::Replace(candidate),
                Some(Turn::Asked(asked)) if drains(self.node).await => {
                    tracing::warn!("the node drains, which is final; it is not handed over");
                    refuse(asked, DRAINS);
                }
                Some(Turn::Asked(Asked::Program(program, asker))) => {
                    looking.set(look_at(config, again, (program, asker)).fuse());
                }
                Some(Turn::Asked(Asked::Sockets(successor))) => {
                    match successor.give(self.sockets) {
                        Ok(()) => return Way::Leave(None),
                        Err(error) => {
                            tracing::warn!(%error, "who asked for this service has gone; serving on");
                        }
                    }
                }
            }
        }
    }
}

fn refuse(asked: Asked, why: &str) {
    match asked {
        Asked::Sockets(successor) => successor.refuse(why),
        Asked::Program(_, asker) => asker.refuse(why),
    }
}

/// Whether the node is being emptied: its sandboxes end here, and no other service reopens it.
async fn drains(node: &Node) -> bool {
    node.drain_status().await.is_ok_and(|status| status.phase.is_draining())
}

/// The way of a service that cannot go on: a service manager starts another one, which has the
/// sandboxes; without one nobody would.
fn broken(config: &Config, helm: &Helm, what: String) -> Way {
    if helm.is_managed() && config.shutdown_leave != Leave::Never {
        Way::Leave(Some(what))
    } else {
        Way::Stop(Cause::Broken(what))
    }
}

async fn asked(offer: Option<&mut Offer>) -> Asked {
    match offer {
        Some(offer) => offer.asked().await,
        None => std::future::pending().await,
    }
}

/// Waits until the service before this one has let go of its sandboxes. Another may have been faster
/// to take them; when `before` has ended, whoever holds the directory is such a one.
///
/// # Errors
/// It does not, or a signal says not to wait.
pub(super) async fn wait_until_left(
    data_dir: &Path,
    before: &Process,
    helm: &mut Helm,
) -> anyhow::Result<()> {
    let left = async {
        while is_held(data_dir).context("ask whether the old service is there")?
            && before.is_running().context("look at the old service")?
        {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        anyhow::Ok(())
    };
    let left = Budget::within(HANDOVER).run("the old service's leaving", left);
    let status = || "waiting for the service before this one".to_owned();
    let left = helm.unless_signalled(Stage::Starting, status, pin!(left)).await;
    left.context("a signal ended the wait for the service before this one")??
}

/// Whether a signal means that the service goes and its sandboxes stay.
async fn is_wanted(leave: Leave) -> bool {
    match leave {
        Leave::Auto => is_being_restarted().await,
        Leave::Always => true,
        Leave::Never => false,
    }
}

/// Whether systemd is about to start this service again. A service that is not systemd's, or whose
/// systemd does not answer, is being stopped for good.
async fn is_being_restarted() -> bool {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(unit) = unit(&cgroups) else { return false };
    let systemctl = ["/usr/bin/systemctl", "/bin/systemctl"].map(Path::new);
    let Some(systemctl) = systemctl.into_iter().find(|path| path.exists()) else { return false };
    let args = ["list-jobs", "--no-legend", "--plain", &unit];
    match process::run(systemctl, &args, None, Budget::within(JOBS)).await {
        Ok(done) if done.status.success() => is_restart(&done.output, &unit),
        Ok(done) => {
            tracing::warn!(said = done.output, "systemd does not say why it stops this service");
            false
        }
        Err(error) => {
            let error = observe::chain(&error).to_string();
            tracing::warn!(error, "systemd cannot be asked why it stops this service");
            false
        }
    }
}

/// The service this process is of, by the name of its cgroup (`/proc/self/cgroup`, cgroups(7)).
fn unit(cgroups: &str) -> Option<String> {
    let paths = cgroups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        matches!(controllers, "" | "name=systemd").then_some(path)
    });
    let mut units =
        paths.filter_map(|path| path.rsplit('/').find(|name| name.ends_with(".service")));
    units.next().map(str::to_owned)
}

/// Whether `unit` is in the list with a job that ends in a start (`systemctl list-jobs`: number,
/// unit, type, state).
fn is_restart(jobs: &str, unit: &str) -> bool {
    jobs.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        fields.next() == Some(unit) && matches!(fields.next(), Some("restart" | "try-restart"))
    })
}

/// Lets what is under way end, and lets go of the node. Its sandboxes run on. Whoever supervises this
/// process has been told.
pub(super) async fn leave<S>(
    node: &Node,
    cause: Option<String>,
    helm: &mut Helm,
    mut serving: Pin<&mut S>,
) -> Outcome
where
    S: FusedFuture<Output = Result<(), ServeError>>,
{
    let began = std::time::Instant::now();
    let status = || LEAVING.to_owned();
    tracing::info!(sandboxes = node.sandboxes(), "leaving");
    let mut leaving = pin!(node.leave(Budget::within(UNDER_WAY)));
    let report = loop {
        tokio::select! {
            biased;
            report = &mut leaving => break report,
            // Answers of starts that are under way need it; that it has ended is no harm.
            _ended = serving.as_mut(), if !serving.is_terminated() => {}
            () = helm.signal(Stage::Stopping, &status) => {
                tracing::info!("a signal; what is under way is left as it is when its time is over");
            }
        }
    };
    Outcome {
        took: began.elapsed(),
        phase: LEFT,
        running: report.left,
        failed: report.errors,
        cause,
        ..Outcome::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{is_restart, unit};

    #[test]
    fn a_service_knows_its_unit_by_its_cgroup() {
        let rows = [
            ("0::/system.slice/cofferdam.service\n", Some("cofferdam.service")),
            ("4:memory:/x.service\n1:name=systemd:/system.slice/a.service\n", Some("a.service")),
            ("0::/user.slice/user-0.slice/session-1.scope\n", None),
            ("0::/\n", None),
            ("0::/system.slice/cofferdam.service/child\n", Some("cofferdam.service")),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(unit(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn only_a_job_that_starts_it_again_is_a_restart() {
        let jobs = "5 cofferdam.service restart running\n6 other.service stop waiting\n";
        assert!(is_restart(jobs, "cofferdam.service"));
        assert!(!is_restart(jobs, "other.service"));
        assert!(!is_restart("5 cofferdam.service stop running\n", "cofferdam.service"));
        assert!(!is_restart("No jobs running.\n", "cofferdam.service"));
    }
}
