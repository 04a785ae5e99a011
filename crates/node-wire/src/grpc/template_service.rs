use std::sync::Arc;

use buffa_types::google::protobuf::Empty;
use connectrpc::{
    ConnectError, ErrorCode, RequestContext, Response, ServiceRequest, ServiceResult,
};
use model::BuildId;

use super::convert::id;
use super::failure::Failure;
use super::proto::{
    InitLayerFileUploadRequest, InitLayerFileUploadResponse, TemplateBuildDeleteRequest,
    TemplateBuildMetadata, TemplateBuildState, TemplateBuildStatusReason,
    TemplateBuildStatusResponse, TemplateConfig, TemplateCreateRequest, TemplateService,
    TemplateStatusRequest,
};
use crate::{BuildError, BuildRequest, BuildState, BuildStatus, NodeApi, NodeError, TemplateInfo};

/// E2B's words for template builds.
///
/// Of a template only its two ids are taken, and the template's id is what it is called: the node
/// builds whole templates it knows, and says of every other wish which field it cannot honour. No
/// build log is kept, so none is told.
#[derive(Debug)]
pub(super) struct Templates {
    node: Arc<dyn NodeApi>,
}

impl Templates {
    pub(super) fn new(node: Arc<dyn NodeApi>) -> Self {
        Self { node }
    }

    /// Removes what a checkpoint has made, if `build` is one; and whether it is.
    async fn remove_checkpoint(&self, build: &BuildId) -> Result<bool, Failure> {
        let info = self.node.info().await?;
        let made = |template: &TemplateInfo| {
            template.snapshot && template.build == *build && template.id.as_str() == build.as_str()
        };
        let Some(template) = info.templates.into_iter().find(made) else { return Ok(false) };
        self.node.remove_template(&template.id).await?;
        Ok(true)
    }

    /// What a finished build has made; `None` when it has been replaced since.
    async fn made(&self, build: &BuildId) -> Result<Option<TemplateBuildMetadata>, NodeError> {
        let info = self.node.info().await?;
        let template = info.templates.into_iter().find(|template| template.build == *build);
        Ok(template.map(|template| TemplateBuildMetadata {
            rootfsSizeKey: i32::try_from(template.resources.disk_mib).unwrap_or(i32::MAX),
            envdVersionKey: template.envd_version,
            ..TemplateBuildMetadata::default()
        }))
    }
}

/// The first field of a template that asks for what the node does not have.
///
/// Not looked at: kernel, Firecracker and huge pages, which a node chooses itself; `force`, as
/// nothing is cached between builds; the team, as builds belong to the node.
fn not_honoured(template: &TemplateConfig) -> Option<&'static str> {
    let fields = [
        (template.memoryMB != 0, "memoryMB"),
        (template.vCpuCount != 0, "vCpuCount"),
        (template.diskSizeMB != 0, "diskSizeMB"),
        (!template.startCommand.is_empty(), "startCommand"),
        (!template.readyCommand.is_empty(), "readyCommand"),
        (template.source.is_some(), "fromImage or fromTemplate"),
        (!template.steps.is_empty(), "steps"),
        (template.fromImageRegistry.is_set(), "fromImageRegistry"),
    ];
    fields.into_iter().find(|(asked, _)| *asked).map(|(_, field)| field)
}

/// E2B's texts for a build that is there already, or not; others as everywhere.
fn failure(error: BuildError) -> Failure {
    let text = match &error {
        BuildError::AlreadyExists(id) => {
            format!("error while creating build cache: build {id} already exists in cache")
        }
        BuildError::NotFound(id) => format!(
            "error while getting build info, maybe already expired: the node has no build {id}"
        ),
        BuildError::Draining
        | BuildError::Starting
        | BuildError::TooMany { .. }
        | BuildError::Unsupported(_)
        | BuildError::Unreachable(_) => return error.into(),
    };
    Failure::from(error).told_as(ErrorCode::Unknown, text)
}

fn response(
    status: BuildStatus,
    made: Option<TemplateBuildMetadata>,
) -> TemplateBuildStatusResponse {
    let (state, reason) = match status.state {
        BuildState::Building => (TemplateBuildState::Building, None),
        BuildState::Completed => (TemplateBuildState::Completed, None),
        BuildState::Failed(message) => {
            let step = Some(status.step).filter(|step| !step.is_empty());
            let reason =
                TemplateBuildStatusReason { message, step, ..TemplateBuildStatusReason::default() };
            (TemplateBuildState::Failed, Some(reason))
        }
    };
    TemplateBuildStatusResponse {
        status: state.into(),
        metadata: made.into(),
        reason: reason.into(),
        ..TemplateBuildStatusResponse::default()
    }
}

fn refused(malformed: super::convert::Malformed) -> ConnectError {
    Failure::from(malformed).into()
}

#[expect(refining_impl_trait, reason = "naming the plain message is clearer than its bound")]
impl TemplateService for Templates {
    async fn template_create(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, TemplateCreateRequest>,
    ) -> ServiceResult<Empty> {
        let template = request.to_owned_message().template.into_option().unwrap_or_default();
        let request = BuildRequest {
            build: id("buildID", &template.buildID).map_err(refused)?,
            template: id("templateID", &template.templateID).map_err(refused)?,
            alias: template.templateID.clone(),
        };
        if let Some(field) = not_honoured(&template) {
            let text = format!("{field} is not supported by this node, which builds `base` only");
            return Err(Failure::unsupported(text).into());
        }
        self.node.build(request).await.map_err(failure)?;
        Response::ok(Empty::default())
    }

    async fn template_build_status(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, TemplateStatusRequest>,
    ) -> ServiceResult<TemplateBuildStatusResponse> {
        let build = id("buildID", request.buildID).map_err(refused)?;
        let status = self.node.build_status(&build).await.map_err(failure)?;
        let made = match status.state {
            BuildState::Completed => self.made(&build).await.map_err(Failure::from)?,
            BuildState::Building | BuildState::Failed(_) => None,
        };
        Response::ok(response(status, made))
    }

    async fn template_build_delete(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, TemplateBuildDeleteRequest>,
    ) -> ServiceResult<Empty> {
        if request.templateID.is_empty() || request.buildID.is_empty() {
            return Err(ConnectError::unknown("template id and build id are required fields"));
        }
        let build = id("buildID", request.buildID).map_err(refused)?;
        match self.node.build_delete(&build).await {
            Ok(()) => Response::ok(Empty::default()),
            Err(BuildError::NotFound(_)) if self.remove_checkpoint(&build).await? => {
                Response::ok(Empty::default())
            }
            Err(error) => Err(Failure::from(error).into()),
        }
    }

    async fn init_layer_file_upload(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, InitLayerFileUploadRequest>,
    ) -> ServiceResult<InitLayerFileUploadResponse> {
        let text = "this node takes no files for templates: it builds `base` only";
        Err(Failure::unsupported(text).into())
    }
}
