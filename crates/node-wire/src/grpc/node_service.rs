use std::sync::Arc;

use connectrpc::{
    ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::{Stream, StreamExt as _, future, stream};
use model::{LifecycleId, NodeRequest, SandboxId, SandboxSpec, TemplateId};
use observe::metrics::{LOST, LOST_EVENTS};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::convert::{Malformed, duration, id, keep};
use super::failure::Failure;
use super::proto::cofferdam::node::v1;
use crate::{BuildRequest, Expected, JournalMark, NewSnapshot, NodeApi, NodeEvent, PauseOrder};

/// Everything E2B's services have no words for: three lines a call.
#[derive(Debug)]
pub(super) struct Nodes {
    node: Arc<dyn NodeApi>,
    ending: CancellationToken,
}

impl Nodes {
    pub(super) fn new(node: Arc<dyn NodeApi>, ending: CancellationToken) -> Self {
        Self { node, ending }
    }
}

/// `items` until they are over, or until the listener ends its streams: then a status says so.
pub(super) fn until_end<T: Send + 'static>(
    items: impl Stream<Item = T> + Send + 'static,
    ending: CancellationToken,
) -> impl Stream<Item = Result<T, ConnectError>> + Send {
    let told = ending.clone();
    let last = stream::once(async move { told.is_cancelled() })
        .filter(|ended| future::ready(*ended))
        .map(|_ended| Err(Failure::stopping().into()));
    items.take_until(ending.cancelled_owned()).map(Ok).chain(last)
}

/// Every item as a message.
fn each<A, B: From<A> + Send + 'static>(items: Vec<A>) -> ServiceResult<ServiceStream<B>>
where
    A: Send + 'static,
{
    Response::stream_ok(stream::iter(items.into_iter().map(|item| Ok(B::from(item)))))
}

fn refused(malformed: Malformed) -> ConnectError {
    Failure::from(malformed).into()
}

/// Events until the receiver has missed some: its client has to look at everything again, and so
/// learns that it has.
fn events(events: Receiver<NodeEvent>) -> impl Stream<Item = Result<v1::Event, Failure>> + Send {
    stream::unfold(Some(events), |events| async move {
        let mut events = events?;
        match events.recv().await {
            Ok(event) => Some((Ok(event.into()), Some(events))),
            Err(RecvError::Closed) => None,
            Err(RecvError::Lagged(missed)) => {
                LOST.add(LOST_EVENTS, missed);
                Some((Err(Failure::missed(missed)), None))
            }
        }
    })
}

#[expect(refining_impl_trait, reason = "naming the plain message is clearer than its bound")]
impl v1::NodeService for Nodes {
    async fn get_info(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, v1::GetInfoRequest>,
    ) -> ServiceResult<v1::NodeInfo> {
        let info = self.node.info().await.map_err(Failure::from)?;
        Response::ok(v1::NodeInfo::from(info))
    }

    async fn create_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, v1::CreateSandboxRequest>,
    ) -> ServiceResult<v1::CreateSandboxResponse> {
        let message = request.to_owned_message();
        let spec = message.spec.into_option().ok_or_else(|| refused(Malformed::missing("spec")))?;
        let spec = SandboxSpec::try_from(spec).map_err(refused)?;
        let started = self.node.create(spec, duration(message.limit_ms)).await;
        Response::ok(v1::CreateSandboxResponse::from(started.map_err(Failure::from)?))
    }

    async fn list_sandboxes(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, v1::ListSandboxesRequest>,
    ) -> ServiceResult<ServiceStream<v1::Sandbox>> {
        each(self.node.list().await.map_err(Failure::from)?)
    }

    async fn pause_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, v1::PauseSandboxRequest>,
    ) -> ServiceResult<v1::PausedSandbox> {
        let message = request.to_owned_message();
        let sandbox: SandboxId = id("sandbox", &message.sandbox).map_err(refused)?;
        let keep = keep(message.keep).map_err(refused)?;
        let order = PauseOrder { keep, healthy_only: message.healthy_only };
        let paused = self.node.pause_by(&sandbox, order).await.map_err(Failure::from)?;
        Response::ok(v1::PausedSandbox::from(paused))
    }

    async fn resume_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, v1::ResumeSandboxRequest>,
    ) -> ServiceResult<v1::ResumeSandboxResponse> {
        let message = request.to_owned_message();
        let spec = message.spec.into_option().ok_or_else(|| refused(Malformed::missing("spec")))?;
        let spec = SandboxSpec::try_from(spec).map_err(refused)?;
        let keep = keep(message.keep).map_err(refused)?;
        let resumed = self.node.resume(spec, keep, duration(message.limit_ms)).await;
        Response::ok(v1::ResumeSandboxResponse::from(resumed.map_err(Failure::from)?))
    }

    async fn list_paused_sandboxes(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, v1::ListPausedSandboxesRequest>,
    ) -> ServiceResult<ServiceStream<v1::PausedSandbox>> {
        each(self.node.paused().await.map_err(Failure::from)?)
    }

    async fn snapshot_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, v1::SnapshotSandboxRequest>,
    ) -> ServiceResult<v1::Snapshot> {
        let asked: Result<(SandboxId, NewSnapshot), _> = request.to_owned_message().try_into();
        let (sandbox, new) = asked.map_err(refused)?;
        let snapshot = self.node.snapshot(&sandbox, new).await.map_err(Failure::from)?;
        Response::ok(v1::Snapshot::from(snapshot))
    }

    async fn list_endings(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, v1::ListEndingsRequest>,
    ) -> ServiceResult<ServiceStream<v1::Ending>> {
        let message = request.to_owned_message();
        let sandboxes = message.sandboxes.iter().map(|sandbox| id("sandboxes", sandbox));
        let sandboxes: Vec<SandboxId> = sandboxes.collect::<Result<_, _>>().map_err(refused)?;
        each(self.node.ended(&sandboxes).await.map_err(Failure::from)?)
    }

    async fn explain_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, v1::ExplainSandboxRequest>,
    ) -> ServiceResult<v1::ExplainSandboxResponse> {
        let message = request.to_owned_message();
        let sandbox = id("sandbox", &message.sandbox).map_err(refused)?;
        let lifecycle = message.lifecycle.map(|lifecycle| id("lifecycle", &lifecycle));
        let lifecycle: Option<LifecycleId> = lifecycle.transpose().map_err(refused)?;
        let known = self.node.explain(&sandbox, lifecycle.as_ref()).await.map_err(Failure::from)?;
        Response::ok(v1::ExplainSandboxResponse {
            explanation: known.map(v1::Explanation::from).into(),
            ..v1::ExplainSandboxResponse::default()
        })
    }

    async fn get_adopt_report(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, v1::GetAdoptReportRequest>,
    ) -> ServiceResult<v1::GetAdoptReportResponse> {
        let report = self.node.adopt_report().await.map_err(Failure::from)?;
        Response::ok(v1::GetAdoptReportResponse {
            report: report.map(v1::AdoptReport::from).into(),
            ..v1::GetAdoptReportResponse::default()
        })
    }

    async fn list_samples(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, v1::ListSamplesRequest>,
    ) -> ServiceResult<v1::ListSamplesResponse> {
        let sandbox = id("sandbox", request.sandbox).map_err(refused)?;
        let samples = self.node.samples(&sandbox).await.map_err(Failure::from)?;
        Response::ok(v1::ListSamplesResponse {
            samples: samples.into_iter().map(Into::into).collect(),
            ..v1::ListSamplesResponse::default()
        })
    }

    async fn read_journal(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, v1::ReadJournalRequest>,
    ) -> ServiceResult<v1::ReadJournalResponse> {
        let message = request.to_owned_message();
        let sandbox = id("sandbox", &message.sandbox).map_err(refused)?;
        let mark = JournalMark { run: message.run, number: message.after };
        let journal = self.node.journal(&sandbox, &mark).await.map_err(Failure::from)?;
        Response::ok(v1::ReadJournalResponse {
            journal: journal.map(v1::Journal::from).into(),
            ..v1::ReadJournalResponse::default()
        })
    }

    async fn watch_events(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, v1::WatchEventsRequest>,
    ) -> ServiceResult<ServiceStream<v1::Event>> {
        let subscribed =
            v1::Event { event: v1::Subscribed::default().into(), ..v1::Event::default() };
        let first = stream::iter([Ok(subscribed)]);
        let all = first.chain(events(self.node.events()));
        let told = until_end(all, self.ending.clone());
        Response::stream_ok(told.map(|told| told?.map_err(ConnectError::from)))
    }

    async fn get_drain_status(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, v1::GetDrainStatusRequest>,
    ) -> ServiceResult<v1::DrainStatus> {
        let drain = self.node.drain_status().await.map_err(Failure::from)?;
        Response::ok(v1::DrainStatus::from(drain))
    }

    async fn watch_drain(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, v1::WatchDrainRequest>,
    ) -> ServiceResult<ServiceStream<v1::DrainStatus>> {
        let drains = self.node.drain_updates().await.map_err(Failure::from)?;
        Response::stream_ok(until_end(drains.map(v1::DrainStatus::from), self.ending.clone()))
    }

    async fn change_status(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, v1::ChangeStatusRequest>,
    ) -> ServiceResult<v1::ChangeStatusResponse> {
        let asked: Result<(NodeRequest, Expected), _> = request.to_owned_message().try_into();
        let (request, expected) = asked.map_err(refused)?;
        self.node.request_if(request, expected).await.map_err(Failure::from)?;
        Response::ok(v1::ChangeStatusResponse::default())
    }

    async fn get_leaks(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, v1::GetLeaksRequest>,
    ) -> ServiceResult<v1::Leaks> {
        Response::ok(v1::Leaks::from(self.node.leaks().await.map_err(Failure::from)?))
    }

    async fn start_build(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, v1::StartBuildRequest>,
    ) -> ServiceResult<v1::StartBuildResponse> {
        let request = BuildRequest::try_from(request.to_owned_message()).map_err(refused)?;
        self.node.build(request).await.map_err(Failure::from)?;
        Response::ok(v1::StartBuildResponse::default())
    }

    async fn get_build(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, v1::GetBuildRequest>,
    ) -> ServiceResult<v1::Build> {
        let build = id("build", request.build).map_err(refused)?;
        let status = self.node.build_status(&build).await.map_err(Failure::from)?;
        Response::ok(v1::Build::from(status))
    }

    async fn delete_build(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, v1::DeleteBuildRequest>,
    ) -> ServiceResult<v1::DeleteBuildResponse> {
        let build = id("build", request.build).map_err(refused)?;
        self.node.build_delete(&build).await.map_err(Failure::from)?;
        Response::ok(v1::DeleteBuildResponse::default())
    }

    async fn list_builds(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, v1::ListBuildsRequest>,
    ) -> ServiceResult<ServiceStream<v1::Build>> {
        each(self.node.builds().await.map_err(Failure::from)?)
    }

    async fn remove_template(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, v1::RemoveTemplateRequest>,
    ) -> ServiceResult<v1::RemoveTemplateResponse> {
        let template: TemplateId = id("template", request.template).map_err(refused)?;
        self.node.remove_template(&template).await.map_err(Failure::from)?;
        Response::ok(v1::RemoveTemplateResponse::default())
    }
}
