//! A node that is elsewhere.

mod events;
mod link;
mod streams;

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use connectrpc::client::ClientConfig;
use connectrpc::{ErrorCode, Protocol};
use futures::StreamExt as _;
use futures::stream::{BoxStream, iter, unfold};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Uri};
use lifecycle::{Budget, Expired, TaskGroup};
use model::{
    BuildId, Egress, EndReason, Keep, LifecycleId, NodeRequest, SandboxId, SandboxSpec, Secret,
    TemplateId,
};
use tokio::sync::broadcast;

use self::events::Events;
use self::link::Link;
use self::streams::{Broken, collect, next_drain};
use super::MAX_RESPONSE_BYTES;
use super::convert::{Malformed, ms, to_e2b};
use super::failure::{
    build_error, create_error, node_error, pause_error, remove_error, sandbox_error, status_error,
};
use super::info_service::change;
use super::proto::cofferdam::node::v1::{self, NodeServiceClient};
use super::proto::{
    InfoServiceClient, SandboxDeleteRequest, SandboxServiceClient, SandboxUpdateRequest,
};
use crate::{
    AdoptReport, BuildError, BuildRequest, BuildStatus, CreateError, DrainStatus, Ending, Expected,
    Explanation, Journal, JournalMark, Leaks, NewSnapshot, NodeApi, NodeError, NodeEvent, NodeInfo,
    PauseError, PauseOrder, PausedStatus, RemoveError, Resumed, Sample, SandboxStatus,
    SnapshotStatus, Started, StatusError,
};

/// Sandboxes that are asked after in one message; many times as many fit into one.
const MAX_ASKED: usize = 4096;

/// A node's calls over one HTTP/2 connection, which is made when it is needed and made anew when
/// it is lost.
///
/// No call has a limit of its own, apart from making the connection: a caller gives one, or drops
/// the call. A node that has gone silent is noticed within seconds by pings.
pub struct Client {
    sandboxes: SandboxServiceClient<Link>,
    info: InfoServiceClient<Link>,
    nodes: NodeServiceClient<Link>,
    events: Events,
    link: Link,
    tasks: TaskGroup,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("link", &self.link).finish_non_exhaustive()
    }
}

/// An address or a token with which no node can be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    #[error("a node's address is like http://10.0.0.7:5008, not {0:?}")]
    Address(String),
    #[error("a node's token has only visible ASCII characters")]
    Token,
}

impl Client {
    /// A client of the node at `address`, such as `http://10.0.0.7:5008`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`BadAddress`].
    pub fn new(address: &str, token: &Secret) -> Result<Self, BadAddress> {
        let bad = || BadAddress::Address(address.to_owned());
        let uri: Uri = address.parse().map_err(|_invalid| bad())?;
        let plain = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/");
        let target = uri.authority().filter(|to| plain && to.port_u16().is_some());
        let target = target.ok_or_else(bad)?.as_str().to_owned();
        let bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()));
        let mut bearer = bearer.map_err(|_invalid| BadAddress::Token)?;
        bearer.set_sensitive(true);

        let tasks = TaskGroup::default();
        let link = Link::new(target, tasks.clone());
        let config = ClientConfig::new(uri)
            .with_protocol(Protocol::Grpc)
            .with_default_max_message_size(MAX_RESPONSE_BYTES)
            .with_default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer)]));
        let nodes = NodeServiceClient::new(link.clone(), config.clone());
        Ok(Self {
            sandboxes: SandboxServiceClient::new(link.clone(), config.clone()),
            info: InfoServiceClient::new(link.clone(), config),
            events: Events::new(nodes.clone(), tasks.clone()),
            nodes,
            link,
            tasks,
        })
    }

    /// Ends the connection and everything that uses it.
    ///
    /// # Errors
    /// [`Expired`] when a task of it has not ended within `budget`.
    pub async fn close(&self, budget: Budget) -> Result<(), Expired> {
        self.tasks.close(budget).await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Nobody is left to use what these tasks do.
        self.tasks.stop_token().cancel();
    }
}

/// The node has said something that this version does not understand.
fn not_understood(malformed: Malformed) -> NodeError {
    NodeError::Internal(format!("its answer is not understood: {malformed}"))
}

/// The same of the answer to a start.
fn not_started(malformed: Malformed) -> CreateError {
    CreateError::Failed { step: "answer", message: malformed.to_string() }
}

/// The same of the answer to a pause: what became of the sandbox is not known.
fn not_paused(malformed: Malformed) -> PauseError {
    PauseError::Unreachable(format!("its answer is not understood: {malformed}"))
}

#[async_trait]
impl NodeApi for Client {
    async fn info(&self) -> Result<NodeInfo, NodeError> {
        let answer = self.nodes.get_info(v1::GetInfoRequest::default()).await;
        answer.map_err(node_error)?.into_owned().try_into().map_err(not_understood)
    }

    async fn create(&self, spec: SandboxSpec, limit: Duration) -> Result<Started, CreateError> {
        let request = v1::CreateSandboxRequest {
            spec: v1::SandboxSpec::from(spec).into(),
            limit_ms: ms(limit),
            ..v1::CreateSandboxRequest::default()
        };
        let answer = self.nodes.create_sandbox(request).await.map_err(create_error)?;
        answer.into_owned().try_into().map_err(not_started)
    }

    async fn kill(&self, id: &SandboxId, reason: EndReason) -> Result<(), NodeError> {
        let request = SandboxDeleteRequest {
            sandbox_id: id.to_string(),
            kill_reason: Some(reason.as_str().to_owned()),
            ..SandboxDeleteRequest::default()
        };
        let answer = self.sandboxes.delete(request).await;
        answer.map(drop).map_err(|error| sandbox_error(error, id))
    }

    async fn pause_by(
        &self,
        id: &SandboxId,
        order: PauseOrder,
    ) -> Result<PausedStatus, PauseError> {
        let request = v1::PauseSandboxRequest {
            sandbox: id.to_string(),
            keep: v1::Keep::from(order.keep).into(),
            healthy_only: order.healthy_only,
            ..v1::PauseSandboxRequest::default()
        };
        let answer = self.nodes.pause_sandbox(request).await;
        let answer = answer.map_err(|error| pause_error(error, id))?;
        answer.into_owned().try_into().map_err(not_paused)
    }

    async fn resume(
        &self,
        spec: SandboxSpec,
        keep: Keep,
        limit: Duration,
    ) -> Result<Resumed, CreateError> {
        let id = spec.id.to_string();
        let request = v1::ResumeSandboxRequest {
            spec: v1::SandboxSpec::from(spec).into(),
            keep: v1::Keep::from(keep).into(),
            limit_ms: ms(limit),
            ..v1::ResumeSandboxRequest::default()
        };
        let answer = match self.nodes.resume_sandbox(request).await {
            // A node of an older version has paused nothing.
            Err(error) if error.code == ErrorCode::Unimplemented => {
                return Err(CreateError::NotPaused(id));
            }
            answer => answer.map_err(create_error)?.into_owned(),
        };
        answer.try_into().map_err(not_started)
    }

    async fn paused(&self) -> Result<Vec<PausedStatus>, NodeError> {
        self.events.settled().await;
        let call = self.nodes.list_paused_sandboxes(v1::ListPausedSandboxesRequest::default());
        match collect!(call, v1::PausedSandbox) {
            // A node of an older version has paused nothing.
            Err(Broken::Failed(error)) if error.code == ErrorCode::Unimplemented => Ok(Vec::new()),
            paused => Ok(paused?),
        }
    }

    async fn snapshot(
        &self,
        id: &SandboxId,
        new: NewSnapshot,
    ) -> Result<SnapshotStatus, PauseError> {
        let answer = self.nodes.snapshot_sandbox((id, new).into()).await;
        let answer = answer.map_err(|error| pause_error(error, id))?;
        answer.into_owned().try_into().map_err(not_paused)
    }

    async fn remove_template(&self, id: &TemplateId) -> Result<(), RemoveError> {
        let request = v1::RemoveTemplateRequest { template: id.to_string(), ..Default::default() };
        let answer = self.nodes.remove_template(request).await;
        answer.map(drop).map_err(|error| remove_error(error, id))
    }

    async fn set_end(&self, id: &SandboxId, ends_at: SystemTime) -> Result<(), NodeError> {
        let request = SandboxUpdateRequest {
            sandbox_id: id.to_string(),
            end_time: Some(ends_at.into()).into(),
            ..SandboxUpdateRequest::default()
        };
        let answer = self.sandboxes.update(request).await;
        answer.map(drop).map_err(|error| sandbox_error(error, id))
    }

    async fn set_egress(&self, id: &SandboxId, egress: Egress) -> Result<(), NodeError> {
        let request = SandboxUpdateRequest {
            sandbox_id: id.to_string(),
            egress: Some(to_e2b(&egress)).into(),
            ..SandboxUpdateRequest::default()
        };
        let answer = self.sandboxes.update(request).await;
        answer.map(drop).map_err(|error| sandbox_error(error, id))
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>, NodeError> {
        // What happens after this list is in the events, for whoever has asked for them before.
        self.events.settled().await;
        let call = self.nodes.list_sandboxes(v1::ListSandboxesRequest::default());
        Ok(collect!(call, v1::Sandbox)?)
    }

    async fn ended(&self, ids: &[SandboxId]) -> Result<Vec<Ending>, NodeError> {
        let mut endings = Vec::new();
        for ids in ids.chunks(MAX_ASKED) {
            let call = self.nodes.list_endings(v1::ListEndingsRequest {
                sandboxes: ids.iter().map(ToString::to_string).collect(),
                ..v1::ListEndingsRequest::default()
            });
            let some: Vec<Ending> = collect!(call, v1::Ending)?;
            endings.extend(some);
        }
        Ok(endings)
    }

    async fn explain(
        &self,
        id: &SandboxId,
        lifecycle: Option<&LifecycleId>,
    ) -> Result<Option<Explanation>, NodeError> {
        let request = v1::ExplainSandboxRequest {
            sandbox: id.to_string(),
            lifecycle: lifecycle.map(ToString::to_string),
            ..v1::ExplainSandboxRequest::default()
        };
        let answer = match self.nodes.explain_sandbox(request).await {
            // A node of an older version remembers nothing.
            Err(error) if error.code == ErrorCode::Unimplemented => return Ok(None),
            answer => answer.map_err(|error| sandbox_error(error, id))?.into_owned(),
        };
        let known = answer.explanation.into_option().map(TryInto::try_into);
        known.transpose().map_err(not_understood)
    }

    async fn adopt_report(&self) -> Result<Option<AdoptReport>, NodeError> {
        let request = v1::GetAdoptReportRequest::default();
        let answer = match self.nodes.get_adopt_report(request).await {
            // A node of an older version takes nothing over.
            Err(error) if error.code == ErrorCode::Unimplemented => return Ok(None),
            answer => answer.map_err(node_error)?.into_owned(),
        };
        let report = answer.report.into_option().map(TryInto::try_into);
        report.transpose().map_err(not_understood)
    }

    async fn samples(&self, id: &SandboxId) -> Result<Vec<Sample>, NodeError> {
        let request =
            v1::ListSamplesRequest { sandbox: id.to_string(), ..v1::ListSamplesRequest::default() };
        let answer = self.nodes.list_samples(request).await;
        let answer = answer.map_err(|error| sandbox_error(error, id))?.into_owned();
        let samples: Result<_, _> = answer.samples.into_iter().map(TryInto::try_into).collect();
        samples.map_err(not_understood)
    }

    async fn journal(
        &self,
        id: &SandboxId,
        mark: &JournalMark,
    ) -> Result<Option<Journal>, NodeError> {
        let request = v1::ReadJournalRequest {
            sandbox: id.to_string(),
            run: mark.run.clone(),
            after: mark.number,
            ..v1::ReadJournalRequest::default()
        };
        let answer = match self.nodes.read_journal(request).await {
            // A node of an older version does not tell.
            Err(error) if error.code == ErrorCode::Unimplemented => return Ok(None),
            answer => answer.map_err(|error| sandbox_error(error, id))?.into_owned(),
        };
        let journal = answer.journal.into_option().map(TryInto::try_into);
        journal.transpose().map_err(not_understood)
    }

    fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.events.subscribe()
    }

    async fn request_if(
        &self,
        request: NodeRequest,
        expected: Expected,
    ) -> Result<(), StatusError> {
        // Every node understands E2B's call, which has no words for what is expected.
        if expected.is_any() {
            let answer = self.info.service_status_override(change(request)).await;
            return answer.map(drop).map_err(status_error);
        }
        let answer = self.nodes.change_status((request, expected).into()).await;
        answer.map(drop).map_err(status_error)
    }

    async fn drain_status(&self) -> Result<DrainStatus, NodeError> {
        let answer = self.nodes.get_drain_status(v1::GetDrainStatusRequest::default()).await;
        answer.map_err(node_error)?.into_owned().try_into().map_err(not_understood)
    }

    async fn drain_updates(&self) -> Result<BoxStream<'static, DrainStatus>, NodeError> {
        let call = self.nodes.watch_drain(v1::WatchDrainRequest::default());
        let mut stream = call.await.map_err(node_error)?;
        // A refusal comes in its place; the node tells at once how it is.
        let first = stream.message::<v1::DrainStatus>().await.map_err(node_error)?;
        let first = first.map(|first| first.to_owned_message().try_into());
        let first: Option<DrainStatus> = first.transpose().map_err(not_understood)?;
        let rest = unfold(stream, |mut stream| async move {
            next_drain(&mut stream).await.map(|drain| (drain, stream))
        });
        let updates = iter(first).chain(rest);
        Ok(updates.boxed())
    }

    async fn leaks(&self) -> Result<Leaks, NodeError> {
        let answer = self.nodes.get_leaks(v1::GetLeaksRequest::default()).await;
        Ok(answer.map_err(node_error)?.into_owned().into())
    }

    async fn build(&self, request: BuildRequest) -> Result<(), BuildError> {
        let build = request.build.clone();
        let answer = self.nodes.start_build(request.into()).await;
        answer.map(drop).map_err(|error| build_error(error, &build))
    }

    async fn build_status(&self, id: &BuildId) -> Result<BuildStatus, BuildError> {
        let request = v1::GetBuildRequest { build: id.to_string(), ..Default::default() };
        let answer = self.nodes.get_build(request).await.map_err(|error| build_error(error, id))?;
        let not_understood = |malformed: Malformed| {
            BuildError::Unreachable(format!("its answer is not understood: {malformed}"))
        };
        answer.into_owned().try_into().map_err(not_understood)
    }

    async fn build_delete(&self, id: &BuildId) -> Result<(), BuildError> {
        let request = v1::DeleteBuildRequest { build: id.to_string(), ..Default::default() };
        let answer = self.nodes.delete_build(request).await;
        answer.map(drop).map_err(|error| build_error(error, id))
    }

    async fn builds(&self) -> Result<Vec<BuildStatus>, NodeError> {
        let call = self.nodes.list_builds(v1::ListBuildsRequest::default());
        Ok(collect!(call, v1::Build)?)
    }
}
