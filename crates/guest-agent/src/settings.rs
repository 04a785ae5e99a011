//! What the node told the agent: token, default user and directory, variables.

use std::collections::BTreeMap;

use jiff::Timestamp;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::cli::Environment;

/// Set by the agent itself; no request can change them.
const SANDBOX: &str = "E2B_SANDBOX";
const SANDBOX_ID: &str = "E2B_SANDBOX_ID";
const TEMPLATE_ID: &str = "E2B_TEMPLATE_ID";
const EVENTS_ADDRESS: &str = "E2B_EVENTS_ADDRESS";

/// One value for the whole agent, read by every request and written by `/init` alone.
pub(crate) struct Settings {
    /// The search path processes get.
    pub(crate) path: String,
    internal: BTreeMap<String, String>,
    told: RwLock<Told>,
}

/// Whether the node has told this program anything.
#[derive(PartialEq, Eq)]
enum Stage {
    /// Not yet; until then everything is open.
    New,
    /// Not yet, but the agent before it: until then nothing is open.
    Resumed,
    Initialised,
}

/// What one agent hands on to the next.
#[derive(Serialize, Deserialize)]
pub(crate) struct HandedSettings {
    token: Option<String>,
    user: String,
    workdir: Option<String>,
    variables: BTreeMap<String, String>,
    /// RFC 3339.
    applied_at: Option<String>,
}

struct Told {
    stage: Stage,
    token: Option<String>,
    user: String,
    workdir: Option<String>,
    variables: BTreeMap<String, String>,
    applied_at: Option<Timestamp>,
}

/// What one `/init` changes. `None` keeps what is, except for the token.
#[derive(Default)]
pub(crate) struct Change {
    pub(crate) at: Option<Timestamp>,
    pub(crate) token: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) workdir: Option<String>,
    pub(crate) variables: Option<BTreeMap<String, String>>,
}

impl Settings {
    pub(crate) fn new(environment: Environment) -> Self {
        const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let mut internal = BTreeMap::from([(SANDBOX.to_owned(), "true".to_owned())]);
        internal.extend(environment.sandbox_id.map(|id| (SANDBOX_ID.to_owned(), id)));
        internal.extend(environment.template_id.map(|id| (TEMPLATE_ID.to_owned(), id)));
        Self {
            path: environment.path.unwrap_or_else(|| PATH.to_owned()),
            internal,
            told: RwLock::new(Told {
                stage: Stage::New,
                token: None,
                user: "root".to_owned(),
                workdir: None,
                variables: BTreeMap::new(),
                applied_at: None,
            }),
        }
    }

    /// For the next agent.
    pub(crate) fn hand_over(&self) -> HandedSettings {
        let told = self.told.read();
        HandedSettings {
            token: told.token.clone(),
            user: told.user.clone(),
            workdir: told.workdir.clone(),
            variables: told.variables.clone(),
            applied_at: told.applied_at.map(|at| at.to_string()),
        }
    }

    /// As the agent before this one had them; closed until the next `/init`. Its token stays: who
    /// knew it may set it again, and nobody else.
    pub(crate) fn take_over(&self, handed: HandedSettings) {
        let HandedSettings { token, user, workdir, variables, applied_at } = handed;
        let applied_at = applied_at.and_then(|at| at.parse().ok());
        let stage = Stage::Resumed;
        *self.told.write() = Told { stage, token, user, workdir, variables, applied_at };
    }

    /// Notes that an `/init` has succeeded, whether it changed anything or not.
    pub(crate) fn mark_initialised(&self) {
        self.told.write().stage = Stage::Initialised;
    }

    pub(crate) fn is_initialised(&self) -> bool {
        self.told.read().stage == Stage::Initialised
    }

    /// Whether nothing is to be served but `/init`.
    pub(crate) fn is_closed(&self) -> bool {
        self.told.read().stage == Stage::Resumed
    }

    pub(crate) fn token(&self) -> Option<String> {
        self.told.read().token.clone()
    }

    /// Whether requests must show a token at all.
    pub(crate) fn has_token(&self) -> bool {
        self.told.read().token.is_some()
    }

    /// Whether `shown` is the token; takes the same time wherever they differ.
    pub(crate) fn is_token(&self, shown: &[u8]) -> bool {
        let told = self.told.read();
        told.token.as_ref().is_some_and(|token| token.as_bytes().ct_eq(shown).into())
    }

    pub(crate) fn default_user(&self) -> String {
        self.told.read().user.clone()
    }

    pub(crate) fn default_workdir(&self) -> Option<String> {
        self.told.read().workdir.clone()
    }

    /// Every variable a process gets from here. The agent's own win over those it was told.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        let mut all = self.told.read().variables.clone();
        all.remove(EVENTS_ADDRESS);
        all.extend(self.internal.iter().map(|(name, value)| (name.clone(), value.clone())));
        all
    }

    /// The agent's own variables, for the files in the run directory.
    pub(crate) fn internal_variables(&self) -> &BTreeMap<String, String> {
        &self.internal
    }

    /// Whether a request of time `at` is too old to change anything. One without a time never is.
    pub(crate) fn is_stale(&self, at: Option<Timestamp>) -> bool {
        matches!((at, self.told.read().applied_at), (Some(at), Some(last)) if at < last)
    }

    pub(crate) fn apply(&self, change: Change) {
        let mut told = self.told.write();
        told.token = change.token;
        if let Some(user) = change.user.filter(|user| !user.is_empty()) {
            told.user = user;
        }
        if let Some(workdir) = change.workdir.filter(|workdir| !workdir.is_empty()) {
            told.workdir = Some(workdir);
        }
        if let Some(variables) = change.variables {
            told.variables = variables;
        }
        if change.at.is_some() {
            told.applied_at = change.at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new(Environment { sandbox_id: Some("sbx".into()), ..Environment::default() })
    }

    #[test]
    fn an_absent_token_clears_and_other_absent_fields_keep() {
        let settings = settings();
        settings.apply(Change {
            token: Some("t".into()),
            user: Some("user".into()),
            workdir: Some("/w".into()),
            variables: Some([("A".into(), "1".into())].into()),
            at: None,
        });
        assert!(settings.is_token(b"t") && !settings.is_token(b"u"));
        settings.apply(Change { user: Some(String::new()), ..Change::default() });
        assert!(!settings.has_token() && !settings.is_token(b"t"));
        assert_eq!(settings.default_user(), "user");
        assert_eq!(settings.default_workdir().as_deref(), Some("/w"));
        assert_eq!(settings.variables().get("A").map(String::as_str), Some("1"));
    }

    #[test]
    fn variables_of_the_agent_cannot_be_overridden() {
        let settings = settings();
        let told = [(SANDBOX_ID, "other"), (SANDBOX, "false"), (EVENTS_ADDRESS, "x"), ("A", "1")];
        let told = told.map(|(name, value)| (name.to_owned(), value.to_owned()));
        settings.apply(Change { variables: Some(told.into()), ..Change::default() });
        let variables = settings.variables();
        let shown: Vec<_> = variables.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(shown, [("A", "1"), (SANDBOX, "true"), (SANDBOX_ID, "sbx")]);
    }

    #[test]
    fn what_is_handed_over_is_all_there_and_closed_until_it_is_initialised() {
        let old = settings();
        let at: Timestamp = "2026-01-02T03:04:05.123456789Z".parse().unwrap();
        old.apply(Change {
            at: Some(at),
            token: Some("t".into()),
            user: Some("user".into()),
            workdir: Some("/w".into()),
            variables: Some([("A".into(), "1".into())].into()),
        });
        let handed = serde_json::to_string(&old.hand_over()).unwrap();
        let new = settings();
        new.take_over(serde_json::from_str(&handed).unwrap());
        assert!(new.is_closed() && !new.is_initialised() && new.is_token(b"t"));
        assert_eq!((new.default_user(), new.default_workdir()), ("user".into(), Some("/w".into())));
        assert_eq!(new.variables(), old.variables());
        assert!(new.is_stale(Some(at - jiff::SignedDuration::from_nanos(1))));
        assert!(!new.is_stale(Some(at)));
        new.mark_initialised();
        assert!(!new.is_closed() && new.is_initialised());
    }

    #[test]
    fn only_an_older_time_is_stale() {
        let settings = settings();
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        assert!(!settings.is_stale(at(1)));
        settings.apply(Change { at: at(10), ..Change::default() });
        settings.apply(Change::default());
        assert!(settings.is_stale(at(9)));
        assert!(!settings.is_stale(at(10)));
        assert!(!settings.is_stale(at(11)));
        assert!(!settings.is_stale(None));
    }
}
