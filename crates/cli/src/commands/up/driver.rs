use std::time::Duration;

use anyhow::Context;
use host::probe::{self, Driver, Level};
use lifecycle::Budget;

use crate::config::{self, Choice, Config};

const LIMIT: Duration = Duration::from_secs(60);

/// Chooses what sandboxes run in, and makes sure that this host can do it.
///
/// To be called outside the private view, which hides from a probe how the host's cgroups are;
/// its threads are over when it returns.
///
/// # Errors
/// The host lacks something; the message says what, and how to get it.
pub(crate) fn choose(config: &Config) -> anyhow::Result<Driver> {
    let driver = match config.driver {
        // The strongest there is.
        Choice::Auto | Choice::Given(config::Driver::Container) => Driver::Container,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the probe of this host")?;
    let findings = runtime.block_on(probe::probe(&config.data_dir, Budget::within(LIMIT)));
    if driver.can_run(&findings) {
        return Ok(driver);
    }
    let missing: Vec<String> = findings
        .iter()
        .filter(|finding| finding.level == Level::Missing && finding.drivers.contains(&driver))
        .map(|finding| {
            let fix = finding.fix.as_deref().unwrap_or("see `cofferdam doctor`");
            format!("\n  {}: {}\n    fix: {fix}", finding.name, finding.detail)
        })
        .collect();
    anyhow::bail!("this host cannot run the {} driver:{}", driver.as_str(), missing.concat())
}
