//! Events.

use super::sandbox::REASONS;
use super::{Malformed, from_wire, id, time, to_wire};
use crate::NodeEvent;
use crate::grpc::proto::cofferdam::node::v1;

impl From<NodeEvent> for v1::Event {
    fn from(event: NodeEvent) -> Self {
        let event = match event {
            NodeEvent::Ended { id, lifecycle, reason, at } => v1::Ended {
                sandbox: id.to_string(),
                lifecycle: lifecycle.to_string(),
                reason: to_wire(&REASONS, &reason).into(),
                at: Some(at.into()).into(),
                ..v1::Ended::default()
            }
            .into(),
            NodeEvent::TornDown { id, lifecycle, reason, forced, left, at } => v1::TornDown {
                sandbox: id.to_string(),
                lifecycle: lifecycle.to_string(),
                reason: to_wire(&REASONS, &reason).into(),
                forced,
                left,
                at: Some(at.into()).into(),
                ..v1::TornDown::default()
            }
            .into(),
            NodeEvent::Pausing { id, lifecycle, at } => v1::Pausing {
                sandbox: id.to_string(),
                lifecycle: lifecycle.to_string(),
                at: Some(at.into()).into(),
                ..v1::Pausing::default()
            }
            .into(),
            NodeEvent::Paused { id, lifecycle, memory, agent_silent, at } => v1::Paused {
                sandbox: id.to_string(),
                lifecycle: lifecycle.to_string(),
                memory,
                agent_silent,
                at: Some(at.into()).into(),
                ..v1::Paused::default()
            }
            .into(),
            NodeEvent::Resumed { id, lifecycle, at } => v1::Resumed {
                sandbox: id.to_string(),
                lifecycle: lifecycle.to_string(),
                at: Some(at.into()).into(),
                ..v1::Resumed::default()
            }
            .into(),
            NodeEvent::EndMoved { id, lifecycle, ends_at } => v1::EndMoved {
                sandbox: id.to_string(),
                lifecycle: lifecycle.to_string(),
                ends_at: Some(ends_at.into()).into(),
                ..v1::EndMoved::default()
            }
            .into(),
        };
        Self { event, ..Self::default() }
    }
}

/// `None` for the word that the subscription is in force, and for kinds of events that only a
/// newer node has.
pub(in crate::grpc) fn event(message: v1::Event) -> Result<Option<NodeEvent>, Malformed> {
    Ok(match message.event {
        None | Some(v1::event::Event::Subscribed(_)) => None,
        Some(v1::event::Event::Ended(ended)) => Some(NodeEvent::Ended {
            id: id("ended.sandbox", &ended.sandbox)?,
            lifecycle: id("ended.lifecycle", &ended.lifecycle)?,
            reason: from_wire(&REASONS, "ended.reason", ended.reason)?,
            at: time("ended.at", ended.at.into_option())?,
        }),
        Some(v1::event::Event::TornDown(torn)) => Some(NodeEvent::TornDown {
            id: id("torn_down.sandbox", &torn.sandbox)?,
            lifecycle: id("torn_down.lifecycle", &torn.lifecycle)?,
            reason: from_wire(&REASONS, "torn_down.reason", torn.reason)?,
            forced: torn.forced,
            left: torn.left,
            at: time("torn_down.at", torn.at.into_option())?,
        }),
        Some(v1::event::Event::Pausing(pausing)) => Some(NodeEvent::Pausing {
            id: id("pausing.sandbox", &pausing.sandbox)?,
            lifecycle: id("pausing.lifecycle", &pausing.lifecycle)?,
            at: time("pausing.at", pausing.at.into_option())?,
        }),
        Some(v1::event::Event::Paused(paused)) => Some(NodeEvent::Paused {
            id: id("paused.sandbox", &paused.sandbox)?,
            lifecycle: id("paused.lifecycle", &paused.lifecycle)?,
            memory: paused.memory,
            agent_silent: paused.agent_silent,
            at: time("paused.at", paused.at.into_option())?,
        }),
        Some(v1::event::Event::Resumed(resumed)) => Some(NodeEvent::Resumed {
            id: id("resumed.sandbox", &resumed.sandbox)?,
            lifecycle: id("resumed.lifecycle", &resumed.lifecycle)?,
            at: time("resumed.at", resumed.at.into_option())?,
        }),
        Some(v1::event::Event::EndMoved(moved)) => Some(NodeEvent::EndMoved {
            id: id("end_moved.sandbox", &moved.sandbox)?,
            lifecycle: id("end_moved.lifecycle", &moved.lifecycle)?,
            ends_at: time("end_moved.ends_at", moved.ends_at.into_option())?,
        }),
    })
}

#[cfg(test)]
mod tests {
    use buffa::Message as _;

    use super::{event, v1};

    #[test]
    fn a_kind_of_event_that_only_a_newer_node_has_is_passed_over() {
        // Field 100, a message without fields.
        let newer = v1::Event::decode_from_slice(&[0xa2, 0x06, 0x00]).unwrap();
        assert!(event(newer).unwrap().is_none());
        let mut paused = v1::Paused {
            sandbox: "i1".into(),
            lifecycle: "l1".into(),
            at: Some(std::time::SystemTime::UNIX_EPOCH.into()).into(),
            ..v1::Paused::default()
        };
        let told = |paused: &v1::Paused| {
            event(v1::Event { event: paused.clone().into(), ..v1::Event::default() })
        };
        assert!(told(&paused).unwrap().is_some());
        paused.at = None.into();
        assert_eq!(told(&paused).unwrap_err().to_string(), "paused.at is missing");
    }

    #[test]
    fn a_reason_that_only_a_newer_node_has_is_an_error_that_names_it() {
        let ended = v1::Ended {
            sandbox: "i1".into(),
            lifecycle: "l1".into(),
            reason: buffa::EnumValue::Unknown(99),
            ..v1::Ended::default()
        };
        let message = v1::Event { event: ended.into(), ..v1::Event::default() };
        let text = "ended.reason has a value (99) that is not known";
        assert_eq!(event(message).unwrap_err().to_string(), text);
    }
}
