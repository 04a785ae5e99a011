//! The node itself.

use super::{Malformed, PHASES, from_wire, id, time, to_wire, word};
use crate::grpc::proto::cofferdam::node::v1;
use crate::{Enforcement, NodeInfo, NodeMetrics, Processor, TemplateInfo};

impl From<NodeInfo> for v1::NodeInfo {
    fn from(info: NodeInfo) -> Self {
        Self {
            id: info.id.to_string(),
            phase: to_wire(&PHASES, &info.phase).into(),
            version: info.version,
            driver: info.driver,
            sandboxes: info.sandboxes,
            starting: info.starting,
            stuck: info.stuck,
            slots: info.slots,
            processor: v1::Processor::from(info.processor).into(),
            metrics: v1::NodeMetrics::from(info.metrics).into(),
            enforcement: info.enforcement.into_iter().map(Into::into).collect(),
            templates: info.templates.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

impl TryFrom<v1::NodeInfo> for NodeInfo {
    type Error = Malformed;

    fn try_from(message: v1::NodeInfo) -> Result<Self, Malformed> {
        Ok(Self {
            id: id("node.id", &message.id)?,
            phase: from_wire(&PHASES, "node.phase", message.phase)?,
            version: message.version,
            driver: message.driver,
            sandboxes: message.sandboxes,
            starting: message.starting,
            stuck: message.stuck,
            slots: message.slots,
            processor: message.processor.into_option().unwrap_or_default().into(),
            // None at all: the node could not measure.
            metrics: message.metrics.into_option().unwrap_or_default().into(),
            enforcement: message.enforcement.into_iter().map(Into::into).collect(),
            templates: message
                .templates
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<NodeMetrics> for v1::NodeMetrics {
    fn from(metrics: NodeMetrics) -> Self {
        Self {
            cpu_count: metrics.cpu_count,
            cpu_percent: metrics.cpu_percent,
            memory_total_bytes: metrics.memory_total_bytes,
            memory_used_bytes: metrics.memory_used_bytes,
            disk_total_bytes: metrics.disk_total_bytes,
            disk_used_bytes: metrics.disk_used_bytes,
            allocated_vcpus: metrics.allocated_vcpus,
            allocated_memory_bytes: metrics.allocated_memory_bytes,
            ..Self::default()
        }
    }
}

impl From<v1::NodeMetrics> for NodeMetrics {
    fn from(message: v1::NodeMetrics) -> Self {
        Self {
            cpu_count: message.cpu_count,
            cpu_percent: message.cpu_percent,
            memory_total_bytes: message.memory_total_bytes,
            memory_used_bytes: message.memory_used_bytes,
            disk_total_bytes: message.disk_total_bytes,
            disk_used_bytes: message.disk_used_bytes,
            allocated_vcpus: message.allocated_vcpus,
            allocated_memory_bytes: message.allocated_memory_bytes,
        }
    }
}

impl From<Processor> for v1::Processor {
    fn from(processor: Processor) -> Self {
        let Processor { family, model, model_name, architecture } = processor;
        Self { family, model, model_name, architecture, ..Self::default() }
    }
}

impl From<v1::Processor> for Processor {
    fn from(message: v1::Processor) -> Self {
        let v1::Processor { family, model, model_name, architecture, .. } = message;
        Self { family, model, model_name, architecture }
    }
}

impl From<Enforcement> for v1::Enforcement {
    fn from(limit: Enforcement) -> Self {
        let Enforcement { what, enforced, detail } = limit;
        Self { what: what.to_owned(), enforced, detail, ..Self::default() }
    }
}

impl From<v1::Enforcement> for Enforcement {
    fn from(message: v1::Enforcement) -> Self {
        let v1::Enforcement { what, enforced, detail, .. } = message;
        Self { what: word(&what), enforced, detail }
    }
}

impl From<TemplateInfo> for v1::Template {
    fn from(template: TemplateInfo) -> Self {
        Self {
            id: template.id.to_string(),
            build: template.build.to_string(),
            aliases: template.aliases,
            resources: v1::Resources::from(template.resources).into(),
            envd_version: template.envd_version,
            created_at: Some(template.created_at.into()).into(),
            snapshot: template.snapshot,
            ..Self::default()
        }
    }
}

impl TryFrom<v1::Template> for TemplateInfo {
    type Error = Malformed;

    fn try_from(message: v1::Template) -> Result<Self, Malformed> {
        let resources = message.resources.into_option();
        Ok(Self {
            id: id("template.id", &message.id)?,
            build: id("template.build", &message.build)?,
            aliases: message.aliases,
            resources: resources.ok_or_else(|| Malformed::missing("template.resources"))?.into(),
            envd_version: message.envd_version,
            created_at: time("template.created_at", message.created_at.into_option())?,
            snapshot: message.snapshot,
        })
    }
}
