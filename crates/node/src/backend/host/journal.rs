//! Asking a guest agent what it has noted.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use guest_wire::rest;
use model::LifecycleId;
use node_wire::{Journal, JournalLevel, JournalLine, JournalMark};

use super::Host;
use crate::journal::JournalError;
use crate::ledger::LifecycleDir;

impl Host {
    /// The token is in the record: a daemon that has taken the sandbox over was told it by nobody.
    pub(super) async fn ask_journal(
        &self,
        lifecycle: &LifecycleId,
        address: IpAddr,
        mark: &JournalMark,
    ) -> Result<Option<Journal>, JournalError> {
        let dir = LifecycleDir::named(&self.config.lifecycles(), lifecycle.as_str());
        let record = tokio::task::spawn_blocking(move || dir.read()).await?;
        let record = record.map_err(JournalError::Record)?.ok_or(JournalError::NoRecord)?;
        let agent = SocketAddr::from((address, guest_wire::ENVD_PORT));
        let token = record.access_token.as_deref();
        let told = guest_wire::client::journal(agent, token, &mark.run, mark.number).await?;
        Ok(told.map(|told| read(told, SystemTime::now())))
    }
}

fn read(told: rest::Journal, now: SystemTime) -> Journal {
    let rest::Journal { run, lines, more, lost } = told;
    let lines = lines.into_iter().map(|line| read_line(line, now)).collect();
    Journal { run, lines, more, lost }
}

fn read_line(line: rest::JournalLine, now: SystemTime) -> JournalLine {
    // Nothing was noted in the future, whatever the agent says.
    let since = Duration::from_micros(u64::try_from(line.at_us).unwrap_or(0));
    let at = SystemTime::UNIX_EPOCH.checked_add(since).map_or(now, |at| at.min(now));
    let level = match line.level {
        rest::JournalLevel::Debug => JournalLevel::Debug,
        rest::JournalLevel::Info => JournalLevel::Info,
        rest::JournalLevel::Warn => JournalLevel::Warn,
        rest::JournalLevel::Error => JournalLevel::Error,
    };
    JournalLine { number: line.number, at, level, message: line.message, fields: line.fields }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_of_the_future_or_of_before_all_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let at = |at_us| {
            let line = rest::JournalLine {
                number: 1,
                at_us,
                level: rest::JournalLevel::Info,
                message: String::new(),
                fields: [].into(),
            };
            read_line(line, now).at
        };
        assert_eq!(at(7), SystemTime::UNIX_EPOCH + Duration::from_micros(7));
        assert_eq!((at(i64::MAX), at(i64::MIN)), (now, SystemTime::UNIX_EPOCH));
    }
}
