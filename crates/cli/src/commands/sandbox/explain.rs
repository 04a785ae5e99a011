//! `cofferdam sandbox explain`: what became of a sandbox, from its record and from what its node
//! remembers.

use std::process::ExitCode;

use anyhow::Context;
use http::StatusCode;
use model::SandboxId;
use serde::Deserialize;
use serde_json::Value;

use super::UNKNOWN;
use crate::args::Output;
use crate::client::Api;
use crate::credentials::API_KEY;
use crate::say;

pub(super) async fn run(api: &Api, id: &SandboxId, output: Output) -> anyhow::Result<ExitCode> {
    let told: Value = match api.get(&format!("/sandboxes/{id}/explain")).await {
        Ok(told) => told,
        Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {
            say::remark(&format!(
                "cofferdam: no record of a sandbox {id} is kept for this team; see `cofferdam \
                 sandbox ls`"
            ));
            return Ok(ExitCode::from(UNKNOWN));
        }
        Err(error) if error.status() == Some(StatusCode::UNAUTHORIZED) => {
            return Err(error)
                .context(format!("a sandbox is explained to its team: set {API_KEY}"));
        }
        Err(error) => return Err(error.into()),
    };
    let text = if output.json {
        serde_json::to_string_pretty(&told)?
    } else {
        let told = Explanation::deserialize(&told).context("read what the service answers")?;
        told.in_words()
    };
    say::answer(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The service's answer, as far as it is for people.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    #[serde(rename = "sandboxID")]
    sandbox: String,
    #[serde(rename = "templateID")]
    template: String,
    state: String,
    #[serde(rename = "nodeID")]
    node: Option<String>,
    #[serde(rename = "lifecycleID")]
    lifecycle: Option<String>,
    end_at: String,
    ended: Option<Ended>,
    timeline: Vec<Moment>,
    on_node: Option<OnNode>,
    node_error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Ended {
    at: String,
    reason: String,
    message: String,
    detail: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Moment {
    at: String,
    what: String,
    detail: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OnNode {
    steps: Vec<Step>,
    failed_step: Option<String>,
    output: Vec<String>,
    memory_peak_bytes: Option<u64>,
    cpu_ms: Option<u64>,
    reclaimed: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    at: String,
    name: String,
    took_ms: Option<f64>,
    error: Option<String>,
}

const MIB: u64 = 1024 * 1024;

impl Explanation {
    fn in_words(&self) -> String {
        let mut parts = vec![self.verdict(), self.facts(), self.story()];
        if let Some(known) = &self.on_node {
            parts.extend(known.parts());
        }
        if let Some(why) = &self.node_error {
            parts.push(format!("What its node remembers is not known now: {why}."));
        }
        parts.join("\n\n")
    }

    /// What became of it, in one sentence.
    fn verdict(&self) -> String {
        let Self { sandbox, state, .. } = self;
        let Some(Ended { at, reason, message, detail }) = &self.ended else {
            return match state.as_str() {
                "killing" => format!("Sandbox {sandbox} was asked to end, and has not yet."),
                state => format!("Sandbox {sandbox} is {state}."),
            };
        };
        let detail = detail.iter().map(|detail| format!(": {}", harmless(detail)));
        format!(
            "Sandbox {sandbox} ended at {at}, because {message} ({reason}){}.",
            detail.collect::<String>()
        )
    }

    fn facts(&self) -> String {
        let row = |name: &str, value: &str| [name.to_owned(), value.to_owned()];
        let mut rows = vec![row("template", &self.template)];
        rows.extend(self.node.iter().map(|node| row("node", node)));
        rows.extend(self.lifecycle.iter().map(|lifecycle| row("lifecycle", lifecycle)));
        let name = if self.ended.is_some() { "would have ended" } else { "ends" };
        rows.push(row(name, &self.end_at));
        if let Some(known) = &self.on_node {
            rows.extend(known.used().map(|used| row("used", &used)));
            rows.extend(known.failed_step.iter().map(|step| row("failed step", step)));
        }
        say::table(&rows)
    }

    fn story(&self) -> String {
        let rows = self.timeline.iter().map(|moment| {
            let detail = moment.detail.as_deref().map_or_else(String::new, harmless);
            [format!("  {}", moment.at), moment.what.clone(), detail]
        });
        format!("timeline\n{}", say::table(&Vec::from_iter(rows)))
    }
}

impl OnNode {
    fn parts(&self) -> impl Iterator<Item = String> {
        let steps = self.steps.iter().map(|step| {
            let took = step.took_ms.map_or_else(|| "-".to_owned(), |took| format!("{took:.1} ms"));
            let error = step.error.as_deref().map_or_else(String::new, harmless);
            [format!("  {}", step.at), step.name.clone(), took, error]
        });
        let steps = say::table(&Vec::from_iter(steps));
        let lines = |lines: &[String]| {
            let lines = lines.iter().map(|line| format!("  {}", harmless(line)));
            lines.collect::<Vec<_>>().join("\n")
        };
        let parts = [
            ("steps on its node", steps),
            ("last output", lines(&self.output)),
            ("reclaimed after its node was interrupted", lines(&self.reclaimed)),
        ];
        let parts = parts.into_iter().filter(|(_, text)| !text.is_empty());
        parts.map(|(title, text)| format!("{title}\n{text}"))
    }

    /// The most memory and the processor time it has had.
    fn used(&self) -> Option<String> {
        let memory = self.memory_peak_bytes.map(|bytes| {
            let tenths = bytes / (MIB / 10);
            format!("at most {}.{} MiB of memory", tenths / 10, tenths % 10)
        });
        let cpu = self.cpu_ms.map(|ms| format!("{}.{:03} s of processor", ms / 1000, ms % 1000));
        let parts = Vec::from_iter(memory.into_iter().chain(cpu));
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// Programs of its user may have written it: it does nothing to a terminal.
pub(super) fn harmless(text: &str) -> String {
    let shown = |c: char| match c {
        c if c.is_control() => c.escape_debug().to_string(),
        c => c.to_string(),
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::Explanation;

    fn words(told: &Value) -> String {
        Explanation::deserialize(told).unwrap().in_words()
    }

    fn ended() -> Value {
        json!({
            "sandboxID": "ione", "templateID": "base", "state": "ended", "nodeID": "n",
            "lifecycleID": "l1", "endAt": "2027-01-15T09:00:00Z",
            "ended": {
                "at": "2027-01-15T08:00:02Z", "reason": "start-failed",
                "message": "it did not start", "detail": "init: no answer",
            },
            "timeline": [
                { "at": "2027-01-15T08:00:00Z", "what": "asked" },
                { "at": "2027-01-15T08:00:02Z", "what": "ended", "detail": "start-failed" },
            ],
            "onNode": {
                "lifecycleID": "l1", "failedStep": "init", "memoryPeakBytes": 13_000_000,
                "cpuMs": 1234, "output": ["\u{1b}[31mred"], "reclaimed": ["cgroup l1"],
                "steps": [
                    { "at": "2027-01-15T08:00:00Z", "name": "slot", "tookMs": 1.25 },
                    { "at": "2027-01-15T08:00:01Z", "name": "init", "error": "no answer" },
                ],
            },
        })
    }

    #[test]
    fn an_end_is_told_with_its_reason_its_story_and_what_is_known_of_it() {
        let expected = "\
Sandbox ione ended at 2027-01-15T08:00:02Z, because it did not start (start-failed): init: no answer.

template          base
node              n
lifecycle         l1
would have ended  2027-01-15T09:00:00Z
used              at most 12.3 MiB of memory, 1.234 s of processor
failed step       init

timeline
  2027-01-15T08:00:00Z  asked
  2027-01-15T08:00:02Z  ended  start-failed

steps on its node
  2027-01-15T08:00:00Z  slot  1.2 ms
  2027-01-15T08:00:01Z  init  -       no answer

last output
  \\u{1b}[31mred

reclaimed after its node was interrupted
  cgroup l1";
        assert_eq!(words(&ended()), expected);
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let mut told = ended();
        told["state"] = json!("killing");
        for part in ["ended", "onNode", "nodeID", "lifecycleID"] {
            told.as_object_mut().unwrap().remove(part);
        }
        told["nodeError"] = json!("its node did not answer");
        let expected = "\
Sandbox ione was asked to end, and has not yet.

template  base
ends      2027-01-15T09:00:00Z

timeline
  2027-01-15T08:00:00Z  asked
  2027-01-15T08:00:02Z  ended  start-failed

What its node remembers is not known now: its node did not answer.";
        assert_eq!(words(&told), expected);
    }
}
