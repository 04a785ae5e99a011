use std::num::NonZero;
use std::thread::available_parallelism;
use std::time::Duration;

/// More threads than this have nothing to do before the network is full.
const MAX_LANES: NonZero<usize> = NonZero::new(16).unwrap();

/// Limits of the edge. The times of the default are those E2B's clients are used to.
#[derive(Debug, Clone)]
pub struct Config {
    /// Threads that client connections are spread over; as many as there are processors.
    pub lanes: NonZero<usize>,
    /// Client connections open at a time; one more is answered 503 and closed. Each costs a file
    /// descriptor here, and up to one more for its sandbox.
    pub max_connections: usize,
    /// Requests to sandboxes under way at a time, streams and tunnels included; one more is
    /// answered 503.
    pub max_exchanges: usize,
    /// The same for one sandbox; one more is answered 429.
    pub max_exchanges_per_sandbox: usize,
    /// Unused connections kept open to all sandboxes.
    pub max_idle: usize,
    /// Unused connections kept open to one port of one sandbox.
    pub max_idle_per_port: usize,
    /// From the first byte of a request's head (of a new connection: from its start) to the last.
    pub head_limit: Duration,
    /// How long a client may keep a connection it does not use.
    pub client_idle: Duration,
    /// How long an unused connection to a sandbox is kept.
    pub upstream_idle: Duration,
    /// How long after its last use a connection to a sandbox serves a request that could not be
    /// sent again. Servers close unused connections after some seconds, and such a request may be
    /// lost on the way.
    pub fresh: Duration,
    /// All tries to connect to a sandbox together.
    pub dial_limit: Duration,
    /// When stopping: how long requests and tunnels under way may go on.
    pub grace: Duration,
    /// When stopping: after [`Config::grace`], how long cutting the rest may take.
    pub reserve: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lanes: available_parallelism().unwrap_or(NonZero::<usize>::MIN).min(MAX_LANES),
            max_connections: 16_384,
            max_exchanges: 16_384,
            max_exchanges_per_sandbox: 4_096,
            max_idle: 1_024,
            max_idle_per_port: 128,
            head_limit: Duration::from_secs(10),
            client_idle: Duration::from_secs(620),
            upstream_idle: Duration::from_secs(610),
            fresh: Duration::from_secs(1),
            dial_limit: Duration::from_secs(30),
            grace: Duration::from_secs(10),
            reserve: Duration::from_secs(5),
        }
    }
}
