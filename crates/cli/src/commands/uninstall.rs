//! `cofferdam uninstall`: removes everything a service has ever made on this host, and proves it.

mod files;
mod report;

use std::fs;
use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use host::Mark;
use host::census::{Item, census, lifecycle_ids};
use host::cgroup::{Cgroups, Layout};
use host::identity::{Claim, ClaimError, is_held, mark_of};
use host::net::Firewall;
use host::view::{self, View};
use lifecycle::Budget;
use node::{LimitsPolicy, Node, StartError};

use self::report::Report;
use super::images;
use super::up::settings;
use crate::args::Uninstall;
use crate::block_on;
use crate::config::Config;
use crate::say;

/// The exit code when something is left on the host.
const LEFT: u8 = 2;
/// The exit code when a service has the data directory.
const REFUSED: u8 = 4;

const CENSUS_LIMIT: Duration = Duration::from_secs(30);

/// Asks, removes, and tells. A service that runs is not touched.
///
/// It may be killed at any moment: the next one goes on where it was.
///
/// # Errors
/// Nobody agreed, or it could not be done; what is there then is as it was, or less.
pub(crate) fn run(config: &Config, options: Uninstall) -> anyhow::Result<ExitCode> {
    let named = &config.data_dir;
    let dir = match named.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            say::remark(&format!(
                "cofferdam: there is no data directory {}; if it is elsewhere, set --data-dir",
                named.display()
            ));
            let mut report = Report::new(named.clone());
            report.claims()?;
            return report.tell(options.output);
        }
        found => found.with_context(|| format!("find {}", named.display()))?,
    };
    let config = Config { data_dir: dir, ..config.clone() };
    if is_held(&config.data_dir)? {
        return Ok(refused(&config.data_dir));
    }
    if !options.yes && !is_confirmed(&config.data_dir, options.keep_images)? {
        anyhow::bail!("nothing was removed");
    }
    let mut work = Work { report: Report::new(config.data_dir.clone()), config, options };
    match work.remove() {
        Err(error) if is_in_use(&error) => return Ok(refused(&work.config.data_dir)),
        removed => removed?,
    }
    if work.report.left.is_empty() {
        work.report.claims()?;
    }
    work.report.tell(options.output)
}

fn refused(dir: &Path) -> ExitCode {
    say::remark(&format!(
        "cofferdam: a service runs on {}; stop it first: systemctl stop cofferdam, or Ctrl-C where \
         it was started",
        dir.display()
    ));
    ExitCode::from(REFUSED)
}

/// Whether a service was quicker.
fn is_in_use(error: &anyhow::Error) -> bool {
    let is_claim = |error: &ClaimError| matches!(error, ClaimError::InUse { .. });
    error.downcast_ref().is_some_and(is_claim)
}

fn is_confirmed(dir: &Path, keep_images: bool) -> anyhow::Result<bool> {
    let stdin = io::stdin();
    anyhow::ensure!(
        stdin.is_terminal(),
        "nobody is here to say yes to removing everything in {}; pass --yes",
        dir.display()
    );
    say::remark(&format!(
        "This ends {} sandboxes, and removes all records and credentials in {}, with {} paused \
         sandboxes{}.\nType yes to go on:",
        lifecycle_ids(&lifecycles(dir))?.len(),
        dir.display(),
        fs::read_dir(dir.join("node").join("paused")).map_or(0, Iterator::count),
        if keep_images { "" } else { ", and all templates" }
    ));
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).context("read the answer")?;
    Ok(answer.trim() == "yes")
}

fn lifecycles(data_dir: &Path) -> PathBuf {
    data_dir.join("node").join("lifecycles")
}

/// An uninstall that was agreed to.
struct Work {
    /// With the directory's real name.
    config: Config,
    options: Uninstall,
    report: Report,
}

impl Work {
    /// Under a claim from the first look to the last, so that no service begins in between.
    fn remove(&mut self) -> anyhow::Result<()> {
        let claim = Claim::take(&self.config.data_dir, self.config.network())?;
        let lifecycles = lifecycles(&self.config.data_dir);
        let found = block_on(take_census(claim.mark(), &lifecycles))?;
        if found.is_empty() {
            self.remove_files(claim.mark())?;
            return Ok(claim.give_back()?);
        }
        // The block stays the directory's.
        drop(claim);
        self.with_node()
    }

    /// Takes over what is there as every start does, stops as every stop does, and removes the files
    /// while the node still has its claim.
    fn with_node(&mut self) -> anyhow::Result<()> {
        // The view ends with the thread; what is done outside of it sees the host as it is.
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let view = view::enter().context("make a private view of the file system")?;
                block_on(self.end_and_remove(view))
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    async fn end_and_remove(&mut self, view: View) -> anyhow::Result<()> {
        let config = &self.config;
        settings::raise_open_files();
        let told = settings::node(config, settings::agent(config)?);
        // Nothing is started any more, and nothing is refused that is to be removed.
        let told = node::Config { warm_slots: 0, limits: LimitsPolicy::Auto, ..told };
        let node = match Node::start(told, view, images::open(config)?).await {
            Err(StartError::Claim(error)) => return Err(error.into()),
            started => started.context("take over what is there")?,
        };
        let limit = Budget::within(config.timeout_stop);
        if let Err(late) = limit.run("what an earlier service left", node.opened()).await {
            tracing::warn!(error = %late, "removing it with everything else");
        }
        let mark = mark_of(&config.data_dir, config.network()).context("find the node's mark")?;
        let stopped = node.shutdown(Budget::within(config.timeout_stop)).await;
        self.report.ended = stopped.ended;
        self.report.leave(&stopped.left);
        self.report.left.extend(stopped.errors);
        if self.report.left.is_empty() {
            tokio::task::block_in_place(|| view::outside(|| self.remove_files(mark)))??;
        }
        drop(node);
        Ok(())
    }

    /// Removes the files, looks once more at the whole host, and if nothing is there, gives up the
    /// lock and the directory.
    fn remove_files(&mut self, mark: Mark) -> anyhow::Result<()> {
        let dir = self.config.data_dir.clone();
        files::remove(&dir, self.options.keep_images, &mut self.report);
        let found = block_on(take_census(mark, &lifecycles(&dir)))?;
        self.report.leave(&found);
        if self.report.left.is_empty() {
            files::remove_last(&dir, self.options.keep_images, &mut self.report);
        }
        Ok(())
    }
}

/// As a program sees the host that is none of ours.
async fn take_census(mark: Mark, lifecycles: &Path) -> anyhow::Result<Vec<Item>> {
    let root = mark.cgroup_root();
    let cgroups = Cgroups::existing(Layout::detect()?, root);
    let firewall = Firewall::new(node::find("nft").context("nft is not installed")?, mark);
    let budget = Budget::within(CENSUS_LIMIT);
    let items = census(mark, &cgroups, &firewall, lifecycles, budget).await;
    items.context("look at what is left on this host")
}
