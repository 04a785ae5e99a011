//! What the node told the agent: token, default user and directory, variables.

use std::collections::BTreeMap;

use jiff::Timestamp;
use parking_lot::RwLock;
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

struct Told {
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
                token: None,
                user: "root".to_owned(),
                workdir: None,
                variables: BTreeMap::new(),
                applied_at: None,
            }),
        }
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
