//! Template builds.

use super::{Malformed, id, optional_time, time};
use crate::grpc::proto::cofferdam::node::v1;
use crate::{BuildRequest, BuildState, BuildStatus};

impl From<BuildRequest> for v1::StartBuildRequest {
    fn from(request: BuildRequest) -> Self {
        Self {
            build: request.build.to_string(),
            template: request.template.to_string(),
            alias: request.alias,
            ..Self::default()
        }
    }
}

impl TryFrom<v1::StartBuildRequest> for BuildRequest {
    type Error = Malformed;

    fn try_from(message: v1::StartBuildRequest) -> Result<Self, Malformed> {
        Ok(Self {
            build: id("build", &message.build)?,
            template: id("template", &message.template)?,
            alias: message.alias,
        })
    }
}

impl From<BuildStatus> for v1::Build {
    fn from(status: BuildStatus) -> Self {
        let state = match status.state {
            BuildState::Building => v1::Building::default().into(),
            BuildState::Completed => v1::Completed::default().into(),
            BuildState::Failed(reason) => v1::Failed { reason, ..v1::Failed::default() }.into(),
        };
        Self {
            build: status.request.build.to_string(),
            template: status.request.template.to_string(),
            alias: status.request.alias,
            state,
            started_at: Some(status.started_at.into()).into(),
            ended_at: status.ended_at.map(Into::into).into(),
            step: status.step,
            ..Self::default()
        }
    }
}

impl TryFrom<v1::Build> for BuildStatus {
    type Error = Malformed;

    fn try_from(message: v1::Build) -> Result<Self, Malformed> {
        let state = match message.state {
            Some(v1::build::State::Building(_)) => BuildState::Building,
            Some(v1::build::State::Completed(_)) => BuildState::Completed,
            Some(v1::build::State::Failed(failed)) => BuildState::Failed(failed.reason),
            None => return Err(Malformed::missing("build.state")),
        };
        Ok(Self {
            request: BuildRequest {
                build: id("build.build", &message.build)?,
                template: id("build.template", &message.template)?,
                alias: message.alias,
            },
            state,
            started_at: time("build.started_at", message.started_at.into_option())?,
            ended_at: optional_time("build.ended_at", message.ended_at.into_option())?,
            step: message.step,
        })
    }
}
