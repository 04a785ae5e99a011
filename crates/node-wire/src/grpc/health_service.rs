use std::sync::Arc;

use connectrpc::{
    ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::{StreamExt as _, future, stream};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::node_service::until_end;
use super::proto;
use super::proto::grpc::health::v1::health_check_response::ServingStatus;
use super::proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use super::server::Condition;
use crate::NodeApi;

/// The services that can be asked for by name; the empty name is all of them.
const SERVICES: [&str; 5] = [
    "",
    proto::SANDBOX_SERVICE_SERVICE_NAME,
    proto::INFO_SERVICE_SERVICE_NAME,
    proto::TEMPLATE_SERVICE_SERVICE_NAME,
    proto::cofferdam::node::v1::NODE_SERVICE_SERVICE_NAME,
];

/// The health check gRPC clients and load balancers know.
#[derive(Debug)]
pub(super) struct Health {
    node: Arc<dyn NodeApi>,
    ending: CancellationToken,
}

impl Health {
    pub(super) fn new(node: Arc<dyn NodeApi>, ending: CancellationToken) -> Self {
        Self { node, ending }
    }
}

fn is_known(service: &str) -> bool {
    SERVICES.contains(&service)
}

/// A node that drains still serves.
fn serving(condition: Condition) -> ServingStatus {
    match condition {
        Condition::Healthy | Condition::Draining => ServingStatus::Serving,
        Condition::Unhealthy => ServingStatus::NotServing,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into(), ..HealthCheckResponse::default() }
}

#[expect(refining_impl_trait, reason = "naming the plain message is clearer than its bound")]
impl proto::grpc::health::v1::Health for Health {
    async fn check(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, HealthCheckRequest>,
    ) -> ServiceResult<HealthCheckResponse> {
        if !is_known(request.service) {
            let text = format!("there is no service {:?} here", request.service);
            return Err(ConnectError::not_found(text));
        }
        let drain = self.node.drain_status().await.map_err(Failure::from)?;
        Response::ok(response(serving(Condition::of(drain.phase))))
    }

    async fn watch(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, HealthCheckRequest>,
    ) -> ServiceResult<ServiceStream<HealthCheckResponse>> {
        if !is_known(request.service) {
            // The service might come, says the protocol: not an end of the stream.
            let unknown = stream::iter([response(ServingStatus::ServiceUnknown)]);
            let stream = unknown.chain(stream::pending());
            return Response::stream_ok(until_end(stream, self.ending.clone()));
        }
        let drains = self.node.drain_updates().await.map_err(Failure::from)?;
        let mut last = None;
        let changes = drains.filter_map(move |drain| {
            let now = serving(Condition::of(drain.phase));
            let told = last.replace(now) == Some(now);
            future::ready((!told).then(|| response(now)))
        });
        Response::stream_ok(until_end(changes, self.ending.clone()))
    }
}
