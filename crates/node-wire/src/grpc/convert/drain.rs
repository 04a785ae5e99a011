//! Drains and leaks.

use model::NodeRequest;

use super::{Malformed, PHASES, duration, from_wire, id, ms, optional_time, time, to_wire};
use crate::grpc::proto::cofferdam::node::v1;
use crate::{AttemptStatus, Blocker, Class, ClassCount, DrainStatus, Expected, LeakItem, Leaks};

pub(super) const CLASSES: [(Class, v1::WorkClass); 6] = [
    (Class::Starting, v1::WorkClass::Starting),
    (Class::Live, v1::WorkClass::Live),
    (Class::Stopping, v1::WorkClass::Stopping),
    (Class::Stuck, v1::WorkClass::Stuck),
    (Class::Build, v1::WorkClass::Build),
    (Class::Upload, v1::WorkClass::Upload),
];

const REQUESTS: [(NodeRequest, v1::StatusRequest); 5] = [
    (NodeRequest::Healthy, v1::StatusRequest::Healthy),
    (NodeRequest::Standby, v1::StatusRequest::Standby),
    (NodeRequest::Unhealthy, v1::StatusRequest::Unhealthy),
    (NodeRequest::Drain, v1::StatusRequest::Drain),
    (NodeRequest::DrainForced, v1::StatusRequest::DrainForced),
];

impl From<(NodeRequest, Expected)> for v1::ChangeStatusRequest {
    fn from((request, expected): (NodeRequest, Expected)) -> Self {
        Self {
            request: to_wire(&REQUESTS, &request).into(),
            expected_instance: expected.instance,
            expected_epoch: expected.epoch,
            ..Self::default()
        }
    }
}

impl TryFrom<v1::ChangeStatusRequest> for (NodeRequest, Expected) {
    type Error = Malformed;

    fn try_from(message: v1::ChangeStatusRequest) -> Result<Self, Malformed> {
        let request = from_wire(&REQUESTS, "change_status.request", message.request)?;
        let (instance, epoch) = (message.expected_instance, message.expected_epoch);
        Ok((request, Expected { instance, epoch }))
    }
}

impl From<DrainStatus> for v1::DrainStatus {
    fn from(drain: DrainStatus) -> Self {
        let count = |count: ClassCount| v1::ClassCount {
            class: to_wire(&CLASSES, &count.class).into(),
            count: count.count,
            ..v1::ClassCount::default()
        };
        Self {
            node: drain.node.to_string(),
            service_instance: drain.service_instance,
            phase: to_wire(&PHASES, &drain.phase).into(),
            changed_at: Some(drain.changed_at.into()).into(),
            epoch: drain.epoch,
            accepting: drain.accepting,
            draining_since: drain.draining_since.map(Into::into).into(),
            force_at: drain.force_at.map(Into::into).into(),
            counts: drain.counts.into_iter().map(count).collect(),
            blockers: drain.blockers.into_iter().map(Into::into).collect(),
            attempt: drain.attempt.map(v1::ForceAttempt::from).into(),
            eta_ms: drain.eta.map(ms),
            leaked: drain.leaked,
            ..Self::default()
        }
    }
}

impl TryFrom<v1::DrainStatus> for DrainStatus {
    type Error = Malformed;

    fn try_from(message: v1::DrainStatus) -> Result<Self, Malformed> {
        let count = |count: v1::ClassCount| {
            let class = from_wire(&CLASSES, "drain.counts", count.class)?;
            Ok(ClassCount { class, count: count.count })
        };
        let attempt = message.attempt.into_option();
        Ok(Self {
            node: id("drain.node", &message.node)?,
            service_instance: message.service_instance,
            phase: from_wire(&PHASES, "drain.phase", message.phase)?,
            changed_at: time("drain.changed_at", message.changed_at.into_option())?,
            epoch: message.epoch,
            accepting: message.accepting,
            draining_since: optional_time(
                "drain.draining_since",
                message.draining_since.into_option(),
            )?,
            force_at: optional_time("drain.force_at", message.force_at.into_option())?,
            counts: message.counts.into_iter().map(count).collect::<Result<_, _>>()?,
            blockers: message
                .blockers
                .into_iter()
                .take(Self::MAX_BLOCKERS)
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            attempt: attempt.map(TryInto::try_into).transpose()?,
            eta: message.eta_ms.map(duration),
            leaked: message.leaked,
        })
    }
}

impl From<Blocker> for v1::Blocker {
    fn from(blocker: Blocker) -> Self {
        Self {
            class: to_wire(&CLASSES, &blocker.class).into(),
            id: blocker.id,
            state: blocker.state,
            age_ms: ms(blocker.age),
            ends_at: blocker.ends_at.map(Into::into).into(),
            last_error: blocker.last_error,
            ..Self::default()
        }
    }
}

impl TryFrom<v1::Blocker> for Blocker {
    type Error = Malformed;

    fn try_from(message: v1::Blocker) -> Result<Self, Malformed> {
        Ok(Self {
            class: from_wire(&CLASSES, "blocker.class", message.class)?,
            id: message.id,
            state: message.state,
            age: duration(message.age_ms),
            ends_at: optional_time("blocker.ends_at", message.ends_at.into_option())?,
            last_error: message.last_error,
        })
    }
}

impl From<AttemptStatus> for v1::ForceAttempt {
    fn from(attempt: AttemptStatus) -> Self {
        Self {
            number: attempt.number,
            started_at: Some(attempt.started_at.into()).into(),
            running: attempt.running,
            stopped: attempt.stopped,
            late: attempt.late,
            failed: attempt.failed,
            ..Self::default()
        }
    }
}

impl TryFrom<v1::ForceAttempt> for AttemptStatus {
    type Error = Malformed;

    fn try_from(message: v1::ForceAttempt) -> Result<Self, Malformed> {
        Ok(Self {
            number: message.number,
            started_at: time("attempt.started_at", message.started_at.into_option())?,
            running: message.running,
            stopped: message.stopped,
            late: message.late,
            failed: message.failed,
        })
    }
}

impl From<LeakItem> for v1::LeakItem {
    fn from(item: LeakItem) -> Self {
        let LeakItem { kind, name, owner } = item;
        Self { kind, name, owner, ..Self::default() }
    }
}

impl From<v1::LeakItem> for LeakItem {
    fn from(message: v1::LeakItem) -> Self {
        let v1::LeakItem { kind, name, owner, .. } = message;
        Self { kind, name, owner }
    }
}

impl From<Leaks> for v1::Leaks {
    fn from(leaks: Leaks) -> Self {
        let all = |items: Vec<LeakItem>| items.into_iter().map(Into::into).collect();
        Self { owned: all(leaks.owned), leaked: all(leaks.leaked), ..Self::default() }
    }
}

impl From<v1::Leaks> for Leaks {
    fn from(message: v1::Leaks) -> Self {
        let all = |items: Vec<v1::LeakItem>| items.into_iter().map(Into::into).collect();
        Self { owned: all(message.owned), leaked: all(message.leaked) }
    }
}
