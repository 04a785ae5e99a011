use std::time::SystemTime;

use model::{BuildId, Resources, TemplateId};

/// A Debian package in a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
}

/// A complete template: one build of a root file system, and how to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub id: TemplateId,
    pub build: BuildId,
    /// Counts the builds of `id`; the highest on disk is the one in use. A number and not a time,
    /// so that a clock set back cannot bring an old build into use again.
    pub generation: u64,
    pub created_at: SystemTime,
    pub origin: Origin,
    /// What its files are laid over, the topmost first; empty for one that is whole.
    pub below: Vec<BuildId>,
    pub content: NewTemplate,
}

/// How a template came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Built,
    /// From what a sandbox had written.
    Snapshot,
    /// As a snapshot, for sandboxes that are started at once: it goes when none uses it any more.
    Passing,
}

/// What the maker of a template says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTemplate {
    /// Names users say, such as `base`.
    pub aliases: Vec<String>,
    /// What a sandbox gets when the request does not say.
    pub resources: Resources,
    /// Whose programs run when the request does not say.
    pub user: String,
    /// Where they run; `None`: the user's home.
    pub workdir: Option<String>,
    /// The guest agent's version when the template was made.
    pub envd_version: String,
    /// What is installed, sorted by name.
    pub packages: Vec<Package>,
}

impl Template {
    /// Whether a user's `name` means this template: its id, or one of its aliases.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.id.as_str() == name || self.content.aliases.iter().any(|alias| alias == name)
    }
}
