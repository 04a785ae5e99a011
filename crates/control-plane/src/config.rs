use std::path::PathBuf;
use std::time::Duration;

use e2b_wire::{ApiKey, TokenSeed};
use model::{Secret, TeamId};

/// What a control plane needs to start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The SQLite file; made when it is not there, in a directory that is.
    pub database: PathBuf,
    /// Owns the sandboxes made with `api_key`.
    pub team: Team,
    /// The one key of that team. Only its hash reaches the database.
    pub api_key: ApiKey,
    /// Opens the endpoints of operators; an empty one opens nothing.
    pub admin_token: Secret,
    /// What the tokens of sandboxes are derived from. Running sandboxes lose their tokens when it
    /// changes.
    pub token_seed: TokenSeed,
    /// Told to SDKs as the domain to build `{port}-{id}.{domain}` under; may carry a port.
    pub domain: Option<String>,
    /// What becomes of sandboxes that a node has and the records do not.
    pub unknown_sandboxes: UnknownSandboxes,
    pub limits: Limits,
    /// `None`: as fast as the service can answer.
    pub rate: Option<Rate>,
}

/// What becomes of sandboxes that run and are in no record, as after the database was lost. One
/// whose team is not known is ended in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownSandboxes {
    /// They get a record, and run to the end they have.
    #[default]
    Adopt,
    /// They are ended.
    End,
}

/// Whoever owns API keys and sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Team {
    /// A UUID.
    pub id: TeamId,
    /// Its namespace in template names.
    pub slug: String,
    pub name: String,
    /// Where it differs from [`Limits`]. What the configuration says of it is not used: the
    /// database has it.
    pub quota: Quota,
    /// As `quota`.
    pub standing: Standing,
}

/// What one team may have. `None`: as much as every other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Starting and running at one time.
    pub sandboxes: Option<u32>,
    /// From the start of a sandbox to its last possible end.
    pub length: Option<Duration>,
    /// Of one sandbox.
    pub vcpus: Option<u32>,
    /// Of one sandbox.
    pub memory_mib: Option<u64>,
}

/// Whether a team is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// It is refused everything.
    pub banned: bool,
    /// Why it is refused whatever makes or changes something.
    pub blocked: Option<String>,
}

/// How fast one team may call one endpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// In the long run.
    pub per_second: f64,
    /// At once, after a pause.
    pub burst: u32,
}

/// Every bound of the control plane. The defaults are for one machine.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Starting and running sandboxes of one team.
    pub team_sandboxes: u32,
    /// Teams that can be made.
    pub teams: u32,
    /// Keys of one team, and access tokens.
    pub team_keys: u32,
    /// From the start of a sandbox to its last possible end.
    pub sandbox_length: Duration,
    /// Snapshots of one team.
    pub team_snapshots: u32,
    /// The time a node is given to start a sandbox. Below `request`, or clients never learn why.
    pub create: Duration,
    /// From the head of a request to its answer; 408 past it.
    pub request: Duration,
    /// For the body of a request to arrive; 408 past it.
    pub body_read: Duration,
    pub body_bytes: usize,
    /// Requests being answered at one time; 503 past it.
    pub requests: usize,
    /// Streams of changes that are open at one time; 503 past it.
    pub watchers: usize,
    /// Between two signs of life on a stream on which nothing changes.
    pub keep_alive: Duration,
    /// Keys and values of `metadata` together.
    pub metadata_bytes: usize,
    /// Names and values of `envVars` together.
    pub env_bytes: usize,
    /// Entries of `metadata`, and of `envVars`.
    pub map_entries: usize,
    /// How long an `Idempotency-Key` means the same request; as long as the record of its sandbox
    /// is kept, that is also bounded by `ended_kept` and `ended_rows`.
    pub idempotency: Duration,
    /// How long the record of an ended sandbox is kept.
    pub ended_kept: Duration,
    /// How many of them are kept at most.
    pub ended_rows: u32,
    /// Between two looks at what sandboxes use, and at what their guest agents have noted; a sample a
    /// minute is kept.
    pub sample_every: Duration,
    /// How many samples are kept of all sandboxes; some hundred bytes each.
    pub sample_rows: u32,
    /// How many lines are kept of what the guest agents of all sandboxes have noted; some hundred
    /// bytes each.
    pub agent_log_rows: u32,
    /// Between two comparisons of the records with a node.
    pub reconcile_every: Duration,
    /// Between two looks at how a node is, when nothing happens.
    pub node_every: Duration,
    /// For a node to say how it is.
    pub node_answer: Duration,
}

impl Config {
    /// The defaults around what has none: the default team, no domain.
    #[must_use]
    pub fn new(
        database: PathBuf,
        api_key: ApiKey,
        admin_token: Secret,
        token_seed: TokenSeed,
    ) -> Self {
        let (team, limits) = (Team::default(), Limits::default());
        let (domain, unknown_sandboxes) = (None, UnknownSandboxes::default());
        Self {
            database,
            team,
            api_key,
            admin_token,
            token_seed,
            domain,
            unknown_sandboxes,
            limits,
            rate: None,
        }
    }
}

impl Limits {
    /// As they are for `team`.
    #[must_use]
    pub fn of(&self, team: &Team) -> Self {
        let Quota { sandboxes, length, .. } = team.quota;
        Self {
            team_sandboxes: sandboxes.unwrap_or(self.team_sandboxes),
            sandbox_length: length.unwrap_or(self.sandbox_length),
            ..self.clone()
        }
    }
}

impl Default for Team {
    /// The team of an installation with one. Its id is the same everywhere, so that a database
    /// that is made anew still knows the team of sandboxes that outlived it.
    #[expect(clippy::expect_used, reason = "the text is a legal id")]
    fn default() -> Self {
        Self {
            id: TeamId::parse("c0ffe7da-0000-4000-8000-000000000001").expect("a legal id"),
            slug: "default".to_owned(),
            name: "Default".to_owned(),
            quota: Quota::default(),
            standing: Standing::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            team_sandboxes: 10_000,
            teams: 1000,
            team_keys: 100,
            sandbox_length: 24 * HOUR,
            team_snapshots: 1000,
            create: MINUTE,
            request: Duration::from_secs(70),
            body_read: Duration::from_secs(10),
            body_bytes: 16 << 20,
            requests: 1024,
            watchers: 64,
            keep_alive: Duration::from_secs(10),
            metadata_bytes: 16 << 10,
            env_bytes: 256 << 10,
            map_entries: 1024,
            idempotency: 24 * HOUR,
            ended_kept: 7 * 24 * HOUR,
            ended_rows: 100_000,
            sample_every: MINUTE,
            sample_rows: 200_000,
            agent_log_rows: 200_000,
            reconcile_every: MINUTE / 2,
            node_every: Duration::from_secs(1),
            node_answer: Duration::from_secs(2),
        }
    }
}
