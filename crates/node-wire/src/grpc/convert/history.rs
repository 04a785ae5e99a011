//! What a node remembers of runs that have ended.

use super::sandbox::REASONS;
use super::{Malformed, duration, from_wire, id, micros, ms, time, to_wire, us};
use crate::grpc::proto::cofferdam::node::v1;
use crate::{AdoptEnd, AdoptReport, Ending, ExplainedStep, Explanation};

impl From<Ending> for v1::Ending {
    fn from(ending: Ending) -> Self {
        Self {
            sandbox: ending.id.to_string(),
            lifecycle: ending.lifecycle.to_string(),
            reason: to_wire(&REASONS, &ending.reason).into(),
            at: Some(ending.at.into()).into(),
            detail: ending.detail,
            ..Self::default()
        }
    }
}

impl TryFrom<v1::Ending> for Ending {
    type Error = Malformed;

    fn try_from(message: v1::Ending) -> Result<Self, Malformed> {
        Ok(Self {
            id: id("ending.sandbox", &message.sandbox)?,
            lifecycle: id("ending.lifecycle", &message.lifecycle)?,
            reason: from_wire(&REASONS, "ending.reason", message.reason)?,
            at: time("ending.at", message.at.into_option())?,
            detail: message.detail,
        })
    }
}

impl From<AdoptReport> for v1::AdoptReport {
    fn from(report: AdoptReport) -> Self {
        let end = |end: AdoptEnd| v1::AdoptEnd {
            sandbox: end.id.to_string(),
            reason: to_wire(&REASONS, &end.reason).into(),
            ..v1::AdoptEnd::default()
        };
        Self {
            finished: report.finished,
            adopted: report.adopted,
            ended: report.ended.into_iter().map(end).collect(),
            rolled_back: report.rolled_back,
            stuck: report.stuck,
            took_ms: ms(report.took),
            ..Self::default()
        }
    }
}

impl TryFrom<v1::AdoptReport> for AdoptReport {
    type Error = Malformed;

    fn try_from(message: v1::AdoptReport) -> Result<Self, Malformed> {
        let end = |end: v1::AdoptEnd| {
            Ok(AdoptEnd {
                id: id("adopt_report.sandbox", &end.sandbox)?,
                reason: from_wire(&REASONS, "adopt_report.reason", end.reason)?,
            })
        };
        Ok(Self {
            finished: message.finished,
            adopted: message.adopted,
            ended: message.ended.into_iter().map(end).collect::<Result<_, Malformed>>()?,
            rolled_back: message.rolled_back,
            stuck: message.stuck,
            took: duration(message.took_ms),
        })
    }
}

impl From<Explanation> for v1::Explanation {
    fn from(explanation: Explanation) -> Self {
        Self {
            lifecycle: explanation.lifecycle.to_string(),
            steps: explanation.steps.into_iter().map(Into::into).collect(),
            failed_step: explanation.failed_step,
            output: explanation.output,
            memory_peak_bytes: explanation.memory_peak_bytes,
            cpu_time_us: explanation.cpu_time.map(us),
            reclaimed: explanation.reclaimed,
            ..Self::default()
        }
    }
}

impl TryFrom<v1::Explanation> for Explanation {
    type Error = Malformed;

    fn try_from(message: v1::Explanation) -> Result<Self, Malformed> {
        let steps: Result<_, _> = message.steps.into_iter().map(TryInto::try_into).collect();
        Ok(Self {
            lifecycle: id("explanation.lifecycle", &message.lifecycle)?,
            steps: steps?,
            failed_step: message.failed_step,
            output: message.output,
            memory_peak_bytes: message.memory_peak_bytes,
            cpu_time: message.cpu_time_us.map(micros),
            reclaimed: message.reclaimed,
        })
    }
}

impl From<ExplainedStep> for v1::ExplainedStep {
    fn from(step: ExplainedStep) -> Self {
        Self {
            at: Some(step.at.into()).into(),
            name: step.name,
            took_us: step.took.map(us),
            error: step.error,
            ..Self::default()
        }
    }
}

impl TryFrom<v1::ExplainedStep> for ExplainedStep {
    type Error = Malformed;

    fn try_from(message: v1::ExplainedStep) -> Result<Self, Malformed> {
        Ok(Self {
            at: time("step.at", message.at.into_option())?,
            name: message.name,
            took: message.took_us.map(micros),
            error: message.error,
        })
    }
}
