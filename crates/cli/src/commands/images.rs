use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use images::base::{self, Request};
use images::{Store, Template};
use lifecycle::Budget;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::args::{Images, Output};
use crate::config::Config;
use crate::progress::Progress;
use crate::say;
use crate::signals::Signals;

/// What a sandbox of the base template is told its disk has; the container driver shares the
/// host's disk.
const DISK_MIB: u64 = 10 * 1024;

/// The templates of the data directory.
pub(crate) fn open(config: &Config) -> anyhow::Result<Arc<Store>> {
    Ok(Arc::new(Store::open(&config.data_dir.join("images"))?))
}

/// Makes the base template, telling how it gets on. `None` when `stop` came first: nothing of the
/// build is left then, unless it had just been finished.
///
/// # Errors
/// It could not be made; what was made so far is removed.
pub(crate) async fn build_base(
    store: &Arc<Store>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Option<Arc<Template>>> {
    let progress = Progress::start("template base", base::Progress::STEPS);
    let request = Request::new(guest_wire::ENVD_VERSION.to_owned(), DISK_MIB);
    let tell = |now: base::Progress| progress.step(now.step, now.what);
    let (cancel, budget) = (CancellationToken::new(), Budget::within(base::USUAL_LIMIT));
    let built = {
        let mut building = pin!(base::build(store, request, &tell, &cancel, budget));
        tokio::select! {
            biased;
            () = stop => {
                cancel.cancel();
                // Soon over; how it ended makes no difference to who does not want it any more.
                drop(building.await);
                None
            }
            built = &mut building => Some(built),
        }
    };
    match built {
        Some(Ok(template)) => {
            progress.done();
            Ok(Some(template))
        }
        Some(Err(error)) => {
            progress.failed();
            Err(error).context("make the template `base`")
        }
        None => {
            progress.failed();
            Ok(None)
        }
    }
}

pub(crate) async fn run(config: &Config, command: Images) -> anyhow::Result<ExitCode> {
    let store = open(config)?;
    match command {
        Images::BuildBase => {
            let mut signals = Signals::listen()?;
            let built = build_base(&store, signals.next()).await?;
            let template = built.context("stopped while making the template `base`")?;
            say::answer(&format!("{} {}", template.id, template.build))?;
        }
        Images::Ls(output) => list(&store, output)?,
        Images::Rm { name } => {
            let template = store
                .find(&name)
                .with_context(|| format!("there is no template `{name}`; see `images ls`"))?;
            store.remove(&template.id)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Row {
    id: String,
    build: String,
    aliases: Vec<String>,
    vcpus: u32,
    memory_mib: u64,
    envd_version: String,
    packages: usize,
}

fn list(store: &Store, output: Output) -> anyhow::Result<()> {
    let rows = store.templates().into_iter().map(|template| Row {
        id: template.id.to_string(),
        build: template.build.to_string(),
        aliases: template.content.aliases.clone(),
        vcpus: template.content.resources.vcpus,
        memory_mib: template.content.resources.memory_mib,
        envd_version: template.content.envd_version.clone(),
        packages: template.content.packages.len(),
    });
    if output.json {
        say::answer(&serde_json::to_string_pretty(&Vec::from_iter(rows))?)?;
        return Ok(());
    }
    let head = ["ALIASES", "ID", "BUILD", "VCPUS", "MIB", "ENVD"].map(str::to_owned);
    let body = rows.map(|row| {
        let numbers = [row.vcpus.to_string(), row.memory_mib.to_string()];
        let [vcpus, mib] = numbers;
        [row.aliases.join(","), row.id, row.build, vcpus, mib, row.envd_version]
    });
    say::answer(&say::table(&Vec::from_iter([head].into_iter().chain(body))))?;
    Ok(())
}
