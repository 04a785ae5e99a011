//! Everything requests share.

use std::sync::Arc;

use crate::accounts::{Accounts, User};
use crate::cgroups::Cgroups;
use crate::cli::Environment;
use crate::control::Control;
use crate::journal::Journal;
use crate::open_files::OpenFiles;
use crate::process::Processes;
use crate::reaper::Reaper;
use crate::rest::{Authorities, CpuMeter, InitTurn};
use crate::settings::Settings;
use crate::streams::Streams;
use crate::upgrade::Upgrades;
use crate::watch::Watchers;

/// One per process, shared by all requests.
pub(crate) struct Agent {
    pub(crate) open_files: OpenFiles,
    pub(crate) settings: Settings,
    pub(crate) streams: Streams,
    pub(crate) processes: Arc<Processes>,
    pub(crate) watchers: Watchers,
    pub(crate) authorities: Authorities,
    pub(crate) cpu: CpuMeter,
    pub(crate) init_turn: InitTurn,
    pub(crate) cgroups: Cgroups,
    pub(crate) control: Control,
    pub(crate) journal: Arc<Journal>,
    pub(crate) upgrades: Upgrades,
}

/// Why nobody can act for a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    #[error("invalid username: '{0}'")]
    Unknown(String),
    #[error("invalid default user: '{0}'")]
    UnknownDefault(String),
    #[error("cannot read the user table")]
    Table(#[source] std::io::Error),
}

impl Agent {
    pub(crate) fn new(
        environment: Environment,
        open_files: OpenFiles,
        reaper: Arc<Reaper>,
        cgroups: Cgroups,
        upgrades: Upgrades,
    ) -> Self {
        let journal = Arc::new(Journal::default());
        Self {
            open_files,
            settings: Settings::new(environment),
            streams: Streams::new(open_files.most),
            processes: Arc::new(Processes::new(reaper, Arc::clone(&journal))),
            watchers: Watchers::default(),
            authorities: Authorities::of_this_machine(),
            cpu: CpuMeter::default(),
            init_turn: InitTurn::default(),
            cgroups,
            control: Control::default(),
            journal,
            upgrades,
        }
    }

    /// The user a request names, or the default one.
    ///
    /// # Errors
    /// When there is no such user, or the table cannot be read.
    pub(crate) fn user(&self, named: Option<&str>) -> Result<User, UserError> {
        let accounts = Accounts::load().map_err(UserError::Table)?;
        match named {
            Some(name) => accounts.user(name).ok_or_else(|| UserError::Unknown(name.to_owned())),
            None => {
                let name = self.settings.default_user();
                accounts.user(&name).ok_or(UserError::UnknownDefault(name))
            }
        }
    }
}
