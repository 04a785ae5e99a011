//! What is written of a lifecycle, and what a later daemon reads in it.

use std::time::{Duration, SystemTime};

use host::process::ProcessIdentity;
use model::{
    BuildId, EndReason, Keep, LifecycleId, OnTimeout, Resources, SandboxId, TeamId, TemplateId,
};
use node_wire::{Ending, ExplainedStep, Explanation, PausedStatus};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use std::collections::BTreeMap;

use crate::entry::Identity;
use crate::provision::Order;

/// The form of [`Record`]; a daemon reads the form before its own, too.
const VERSION: u32 = 3;
const OLDEST: u32 = 1;

/// Lines of a machine's log that its owner is told, and characters of each.
const MAX_LINES: usize = 20;
const MAX_LINE: usize = 500;
/// Paths that are told: they are in every sandbox, and the same in all of them.
const TOLD: [&str; 8] =
    ["/bin/", "/sbin/", "/lib", "/usr/", "/etc/", "/dev/", "/proc/sys/", "/sys/kernel/"];

/// What is written of a lifecycle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub version: u32,
    pub lifecycle: String,
    pub sandbox: String,
    pub team: String,
    pub template: String,
    pub build: String,
    pub vcpus: u32,
    pub memory_mib: u64,
    pub disk_mib: u64,
    pub metadata: BTreeMap<String, String>,
    pub internet: bool,
    /// The guest agent's token; not kept beyond the sandbox's end.
    pub access_token: Option<String>,
    /// Set once it is known.
    pub slot: Option<u16>,
    /// The machine's first process, once there is one.
    pub process: Option<ProcessIdentity>,
    /// Set when it is live. Microseconds since 1970, as all times here.
    pub started_at_us: Option<i64>,
    pub ends_at_us: Option<i64>,
    /// The boot of the host it was made in; unknown in version 1.
    #[serde(default)]
    pub boot_id: Option<String>,
    /// Unknown in version 1.
    #[serde(default)]
    pub created_at_us: Option<i64>,
    /// Set as long as it is paused: then what it has written is kept when the rest goes.
    #[serde(default)]
    pub paused_at_us: Option<i64>,
    /// Whether its guest agent was silent when it was paused.
    #[serde(default)]
    pub agent_silent: bool,
    /// Whether its files have the owners on disk that it sees. Before version 3 they had those of
    /// its slot, and nobody else can have them.
    #[serde(default)]
    pub portable: bool,
    #[serde(
        default = "kill",
        serialize_with = "on_timeout_to",
        deserialize_with = "on_timeout_of"
    )]
    pub on_timeout: OnTimeout,
    /// Why its start failed.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// Set before anything of it is ended.
    #[serde(default)]
    pub ending: Option<End>,
}

/// A step of a start that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub step: String,
    pub error: String,
    /// The last lines of the runtime's log.
    pub log: Vec<String>,
}

/// An end that was decided, and what the sandbox had used by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    #[serde(serialize_with = "to_word", deserialize_with = "from_word")]
    pub reason: EndReason,
    pub at_us: i64,
    pub cpu_us: u64,
    pub memory_peak_bytes: Option<u64>,
    pub pids: Option<u64>,
    /// What an earlier daemon had left of it.
    #[serde(default)]
    pub reclaimed: Vec<String>,
}

/// What becomes of a lifecycle that an earlier daemon left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was live, and may be so still.
    Live,
    /// It stood still with everything it has, and may do so still.
    Paused,
    /// It is taken down, for this reason.
    End(EndReason),
}

impl Record {
    /// What is written before anything is acquired.
    pub(crate) fn new(order: &Order, boot_id: &str) -> Self {
        let (entry, spec) = (&order.entry, &order.spec);
        Self {
            version: VERSION,
            lifecycle: entry.lifecycle.to_string(),
            sandbox: entry.id.to_string(),
            team: entry.team.to_string(),
            template: entry.template.to_string(),
            build: order.template.build.to_string(),
            vcpus: entry.resources.vcpus,
            memory_mib: entry.resources.memory_mib,
            disk_mib: entry.resources.disk_mib,
            metadata: entry.metadata.clone(),
            internet: spec.internet,
            access_token: spec.access_token.as_ref().map(|token| token.expose().to_owned()),
            slot: None,
            process: None,
            started_at_us: None,
            ends_at_us: None,
            boot_id: Some(boot_id.to_owned()),
            created_at_us: Some(micros(SystemTime::now())),
            paused_at_us: order.from.as_ref().and_then(|from| from.paused_at_us),
            agent_silent: false,
            portable: true,
            on_timeout: spec.on_timeout,
            failure: None,
            ending: None,
        }
    }

    /// Reads one that this or the release before has written; what is written next is of our form.
    /// `None` when it is torn, or of another form.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let record: Self = serde_json::from_slice(text).ok()?;
        (OLDEST..=VERSION).contains(&record.version).then_some(Self { version: VERSION, ..record })
    }

    /// Whose it is. `None` when a name in it is none.
    pub(crate) fn identity(&self) -> Option<Identity> {
        Some(Identity {
            id: SandboxId::parse(&self.sandbox).ok()?,
            lifecycle: LifecycleId::parse(&self.lifecycle).ok()?,
            team: TeamId::parse(&self.team).ok()?,
            template: TemplateId::parse(&self.template).ok()?,
            build: BuildId::parse(&self.build).ok()?,
            resources: Resources {
                vcpus: self.vcpus,
                memory_mib: self.memory_mib,
                disk_mib: self.disk_mib,
            },
            metadata: self.metadata.clone(),
        })
    }

    /// Since when it is live, and until when.
    pub(crate) fn life(&self) -> Option<(SystemTime, SystemTime)> {
        Some((from_micros(self.started_at_us?), from_micros(self.ends_at_us?)))
    }

    /// What becomes of it in the boot `boot_id`, as far as the record alone can say.
    pub(crate) fn fate(&self, boot_id: &str) -> Fate {
        if let Some(end) = &self.ending {
            return Fate::End(end.reason);
        }
        if self.life().is_none() {
            return Fate::End(EndReason::Reclaimed);
        }
        match &self.boot_id {
            Some(made_in) if made_in != boot_id => Fate::End(EndReason::HostRestart),
            // A process that is who the record says, in its own cgroup, is of this boot.
            _ if self.paused_at_us.is_some() => Fate::Paused,
            _ => Fate::Live,
        }
    }

    /// What is told of it while it is paused. `None` when it is not, or a name in it is none.
    pub(crate) fn to_paused(&self, memory: bool) -> Option<PausedStatus> {
        let paused_at_us = self.paused_at_us?;
        let identity = self.identity()?;
        Some(PausedStatus {
            id: identity.id,
            lifecycle: identity.lifecycle,
            team: identity.team,
            template: identity.template,
            build: identity.build,
            resources: identity.resources,
            metadata: identity.metadata,
            started_at: from_micros(self.started_at_us.unwrap_or(paused_at_us)),
            paused_at: from_micros(paused_at_us),
            memory,
            agent_silent: memory && self.agent_silent,
        })
    }

    /// How it ended; `None` while it goes on.
    pub(crate) fn to_ending(&self) -> Option<Ending> {
        let end = self.ending.as_ref()?;
        let identity = self.identity()?;
        Some(Ending {
            id: identity.id,
            lifecycle: identity.lifecycle,
            reason: end.reason,
            at: from_micros(end.at_us),
            detail: self.detail(end),
        })
    }

    /// What its owner may read beside the reason: nothing of the host.
    fn detail(&self, end: &End) -> String {
        match (&self.failure, end.reason) {
            (Some(failure), _) => format!("its start failed at the step {}", failure.step),
            (None, EndReason::Reclaimed) if self.started_at_us.is_none() => {
                "its start was cut off".into()
            }
            (None, EndReason::Reclaimed) => "it could not be taken over".into(),
            _ => String::new(),
        }
    }

    /// The last lines of its machine's log, as its owner may read them.
    fn output(&self) -> Vec<String> {
        let Some(failure) = &self.failure else { return Vec::new() };
        let skip = failure.log.len().saturating_sub(MAX_LINES);
        failure.log.iter().skip(skip).map(|line| self.for_its_owner(line)).collect()
    }

    /// What a runtime or the kernel said, without the names of the host's files.
    fn for_its_owner(&self, said: &str) -> String {
        // Runtimes log in JSON.
        let message = serde_json::from_str::<serde_json::Value>(said)
            .ok()
            .and_then(|line| Some(line.get("msg")?.as_str()?.to_owned()));
        let said = message.as_deref().unwrap_or(said);
        let is_hosts = |word: &str| {
            let path = word.split_once('=').map_or(word, |(_, value)| value);
            path.starts_with('/') && !TOLD.iter().any(|told| path.starts_with(told))
        };
        let ends = |c: char| c.is_whitespace() || "'\"`,:;()[]".contains(c);
        let words = said.split_inclusive(ends).map(|word| {
            let end = word.rfind(ends).unwrap_or(word.len());
            let (word, after) = word.split_at_checked(end).unwrap_or((word, ""));
            if is_hosts(word) { format!("<host>{after}") } else { format!("{word}{after}") }
        });
        words.collect::<String>().chars().take(MAX_LINE).collect()
    }

    pub(crate) fn explain(&self) -> Option<Explanation> {
        let lifecycle = LifecycleId::parse(&self.lifecycle).ok()?;
        let mut steps = Vec::new();
        let moment = |at_us, name: &str| ExplainedStep {
            at: from_micros(at_us),
            name: name.to_owned(),
            took: None,
            error: None,
        };
        steps.extend(self.created_at_us.map(|at| moment(at, "admitted")));
        steps.extend(self.started_at_us.map(|at| {
            let took =
                self.created_at_us.map(|from| from_micros(at).duration_since(from_micros(from)));
            ExplainedStep { took: took.and_then(Result::ok), ..moment(at, "started") }
        }));
        let end = self.ending.as_ref();
        if let (Some(end), Some(failure)) = (end, &self.failure) {
            let error = Some(self.for_its_owner(&failure.error));
            steps.push(ExplainedStep { error, ..moment(end.at_us, &failure.step) });
        }
        steps.extend(end.map(|end| moment(end.at_us, &format!("ended: {}", end.reason.as_str()))));
        Some(Explanation {
            lifecycle,
            steps,
            failed_step: self.failure.as_ref().map(|failure| failure.step.clone()),
            output: self.output(),
            memory_peak_bytes: end.and_then(|end| end.memory_peak_bytes),
            cpu_time: end.map(|end| Duration::from_micros(end.cpu_us)),
            reclaimed: end.map(|end| end.reclaimed.clone()).unwrap_or_default(),
        })
    }
}

/// Microseconds since 1970.
pub(crate) fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) fn from_micros(us: i64) -> SystemTime {
    // A number that no clock shows is a torn record's; it is a time long ago then.
    let since = Duration::from_micros(u64::try_from(us).unwrap_or_default());
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

const fn kill() -> OnTimeout {
    OnTimeout::Kill
}

const TIMEOUTS: [(OnTimeout, &str); 3] = [
    (OnTimeout::Kill, "kill"),
    (OnTimeout::Pause(Keep::Memory), "pause"),
    (OnTimeout::Pause(Keep::Files), "pause-files"),
];

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's shape")]
fn on_timeout_to<S: Serializer>(what: &OnTimeout, to: S) -> Result<S::Ok, S::Error> {
    let known = TIMEOUTS.into_iter().find(|(known, _)| known == what);
    to.serialize_str(known.map_or("kill", |(_, word)| word))
}

fn on_timeout_of<'de, D: Deserializer<'de>>(from: D) -> Result<OnTimeout, D::Error> {
    let word = String::deserialize(from)?;
    let known = TIMEOUTS.into_iter().find(|(_, known)| *known == word);
    known.map(|(what, _)| what).ok_or_else(|| D::Error::custom("not what a timeout can do"))
}

const REASONS: [EndReason; 8] = [
    EndReason::Request,
    EndReason::Timeout,
    EndReason::Crashed,
    EndReason::StartFailed,
    EndReason::NodeStop,
    EndReason::Reclaimed,
    EndReason::HostRestart,
    EndReason::Paused,
];

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's shape")]
fn to_word<S: Serializer>(reason: &EndReason, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(reason.as_str())
}

fn from_word<'de, D: Deserializer<'de>>(from: D) -> Result<EndReason, D::Error> {
    let word = String::deserialize(from)?;
    let known = REASONS.into_iter().find(|reason| reason.as_str() == word);
    known.ok_or_else(|| D::Error::custom("not a reason"))
}

#[cfg(test)]
pub(super) mod tests {
    use model::EndReason;

    use super::{End, Failure, Fate, REASONS, Record, VERSION};

    const LIVE: &[u8] = include_bytes!("../../tests/fixtures/lifecycle-v1/live.json");
    const HALF_MADE: &[u8] = include_bytes!("../../tests/fixtures/lifecycle-v1/half-made.json");

    pub(crate) fn record() -> Record {
        Record { boot_id: Some("this".into()), ..Record::parse(LIVE).unwrap() }
    }

    fn end(reason: EndReason) -> Option<End> {
        Some(End {
            reason,
            at_us: 1_763_560_900_000_000,
            cpu_us: 1_500_000,
            memory_peak_bytes: Some(4096),
            pids: None,
            reclaimed: Vec::new(),
        })
    }

    #[test]
    fn what_the_release_before_has_written_is_read_and_kept_in_our_form() {
        let live = Record::parse(LIVE).unwrap();
        assert_eq!(live.identity().unwrap().id.as_str(), "i7f2k9x4m1c8v5b3n6z0q");
        assert_eq!((live.slot, live.process.unwrap().pid), (Some(17), 41532));
        assert_eq!(live.fate("any"), Fate::Live, "its process decides");
        let (from, to) = live.life().unwrap();
        assert_eq!(to.duration_since(from).unwrap().as_secs(), 300);
        let half = Record::parse(HALF_MADE).unwrap();
        assert_eq!(half.fate("any"), Fate::End(EndReason::Reclaimed));
        let written = serde_json::to_vec(&live).unwrap();
        assert!(String::from_utf8_lossy(&written).contains("\"version\":3"));
        assert_eq!(Record::parse(&written), Some(live));
    }

    #[test]
    fn what_a_machine_said_is_told_without_the_names_of_the_hosts_files() {
        let of = record();
        let dir = format!("/var/lib/cofferdam/node/lifecycles/{}", of.lifecycle);
        let rows = [
            (
                format!(
                    "{{\"msg\":\"open '{dir}/config.json': no such file\",\"level\":\"error\"}}"
                ),
                "open '<host>': no such file",
            ),
            (
                format!("mount /data/images/{}/rootfs to /proc: denied", of.build),
                "mount <host> to <host>: denied",
            ),
            ("write /sys/fs/cgroup/x/cgroup.procs: busy".into(), "write <host>: busy"),
            ("exec /bin/no-such-program: not found".into(), "exec /bin/no-such-program: not found"),
            (String::new(), ""),
        ];
        for (said, told) in rows {
            assert_eq!(of.for_its_owner(&said), told);
        }
        let log = (0..100).map(|n| format!("line {n} {}", "x".repeat(1000))).collect();
        let failure = Failure { step: "machine".into(), error: "no".into(), log };
        let explained = Record { failure: Some(failure), ..of }.explain().unwrap().output;
        assert_eq!(explained.len(), super::MAX_LINES);
        assert!(explained.last().unwrap().starts_with("line 99 x"));
        assert!(explained.iter().all(|line| line.len() == super::MAX_LINE));
    }

    #[test]
    fn what_is_torn_or_of_another_form_is_not_read() {
        let text = serde_json::to_vec(&record()).unwrap();
        for len in 0..text.len() {
            assert_eq!(Record::parse(&text[..len]), None, "{len} of {} bytes", text.len());
        }
        for version in [0, VERSION + 1] {
            let foreign = serde_json::to_vec(&Record { version, ..record() }).unwrap();
            assert_eq!(Record::parse(&foreign), None, "version {version}");
        }
        let nobody = Record { sandbox: "../../etc".into(), ..record() };
        assert!(nobody.identity().is_none());
    }

    #[test]
    fn the_true_reason_of_an_end_survives_whatever_else_has_happened() {
        assert_eq!(record().fate("this"), Fate::Live);
        assert_eq!(record().fate("next"), Fate::End(EndReason::HostRestart));
        let half = Record { started_at_us: None, ..record() };
        assert_eq!(half.fate("next"), Fate::End(EndReason::Reclaimed));
        for reason in REASONS {
            for at in [record(), Record { started_at_us: None, ..record() }] {
                let ended = Record { ending: end(reason), ..at };
                let again = Record::parse(&serde_json::to_vec(&ended).unwrap()).unwrap();
                assert_eq!(again.fate("next"), Fate::End(reason));
                assert_eq!(again.to_ending().unwrap().reason, reason);
            }
        }
    }

    #[test]
    fn its_owner_reads_what_happened_and_nothing_of_the_host() {
        let secret = "/var/lib/cofferdam/l1: no";
        let failure =
            Failure { step: "slot".into(), error: secret.into(), log: vec![secret.into()] };
        let failed = Record {
            started_at_us: None,
            created_at_us: Some(1_763_560_800_000_000),
            failure: Some(failure),
            ending: end(EndReason::StartFailed),
            ..record()
        };
        assert_eq!(failed.to_ending().unwrap().detail, "its start failed at the step slot");
        let told = failed.explain().unwrap();
        assert_eq!(told.failed_step.as_deref(), Some("slot"));
        assert_eq!(told.memory_peak_bytes, Some(4096));
        let names: Vec<&str> = told.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["admitted", "slot", "ended: start-failed"]);
        assert!(!format!("{told:?}").contains("cofferdam"));
        let lived = Record { created_at_us: Some(1_763_560_802_000_000), ..record() };
        let told = lived.explain().unwrap();
        assert_eq!(told.steps[1].took.unwrap().as_micros(), 123_456);
        assert!(lived.to_ending().is_none(), "it goes on");
    }
}
