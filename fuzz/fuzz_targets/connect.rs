//! Messages of the guest agent's services, in every encoding they may have, through the codec that
//! reads them. The services behind it do nothing, so nothing is done to the host.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use connectrpc::{
    ConnectError, ConnectRpcService, InboundStream, Limits, RequestContext, ServiceRequest,
    ServiceResult, ServiceStream,
};
use futures::StreamExt as _;
use guest_wire::proto::{filesystem as fs, process as ps};
use http_body_util::{BodyExt as _, Full};
use libfuzzer_sys::fuzz_target;
use tower::ServiceExt as _;

/// Small, so that it is reached.
const LIMIT: usize = 64 * 1024;

const METHODS: [&str; 17] = [
    "process.Process/List",
    "process.Process/Connect",
    "process.Process/Start",
    "process.Process/Update",
    "process.Process/StreamInput",
    "process.Process/SendInput",
    "process.Process/SendSignal",
    "process.Process/CloseStdin",
    "filesystem.Filesystem/Stat",
    "filesystem.Filesystem/MakeDir",
    "filesystem.Filesystem/Move",
    "filesystem.Filesystem/ListDir",
    "filesystem.Filesystem/Remove",
    "filesystem.Filesystem/WatchDir",
    "filesystem.Filesystem/CreateWatcher",
    "filesystem.Filesystem/GetWatcherEvents",
    "filesystem.Filesystem/RemoveWatcher",
];

const TYPES: [&str; 4] = [
    "application/json",
    "application/proto",
    "application/connect+json",
    "application/connect+proto",
];

/// Reads everything and does nothing.
struct Nothing;

/// Answers that the request was read, and can be written again.
macro_rules! read {
    ($request:expr) => {{
        let message = $request.to_owned_message();
        drop(format!("{message:?}"));
        Err(ConnectError::unimplemented("read"))
    }};
}

macro_rules! unary {
    ($($name:ident($request:ty) -> $answer:ty;)*) => {$(
        async fn $name(
            &self,
            _context: RequestContext,
            request: ServiceRequest<'_, $request>,
        ) -> ServiceResult<$answer> {
            read!(request)
        }
    )*};
}

macro_rules! streamed {
    ($($name:ident($request:ty) -> $answer:ty;)*) => {$(
        async fn $name(
            &self,
            _context: RequestContext,
            request: ServiceRequest<'_, $request>,
        ) -> ServiceResult<ServiceStream<$answer>> {
            read!(request)
        }
    )*};
}

#[expect(refining_impl_trait, reason = "as the guest agent's own")]
impl ps::Process for Nothing {
    unary! {
        list(ps::ListRequest) -> ps::ListResponse;
        update(ps::UpdateRequest) -> ps::UpdateResponse;
        send_input(ps::SendInputRequest) -> ps::SendInputResponse;
        send_signal(ps::SendSignalRequest) -> ps::SendSignalResponse;
        close_stdin(ps::CloseStdinRequest) -> ps::CloseStdinResponse;
    }

    streamed! {
        connect(ps::ConnectRequest) -> ps::ConnectResponse;
        start(ps::StartRequest) -> ps::StartResponse;
    }

    async fn stream_input(
        &self,
        _context: RequestContext,
        mut requests: InboundStream<ps::StreamInputRequest>,
    ) -> ServiceResult<ps::StreamInputResponse> {
        while let Some(message) = requests.next().await {
            drop(message?.to_owned_message());
        }
        Err(ConnectError::unimplemented("read"))
    }
}

#[expect(refining_impl_trait, reason = "as the guest agent's own")]
impl fs::Filesystem for Nothing {
    unary! {
        stat(fs::StatRequest) -> fs::StatResponse;
        make_dir(fs::MakeDirRequest) -> fs::MakeDirResponse;
        r#move(fs::MoveRequest) -> fs::MoveResponse;
        list_dir(fs::ListDirRequest) -> fs::ListDirResponse;
        remove(fs::RemoveRequest) -> fs::RemoveResponse;
        create_watcher(fs::CreateWatcherRequest) -> fs::CreateWatcherResponse;
        get_watcher_events(fs::GetWatcherEventsRequest) -> fs::GetWatcherEventsResponse;
        remove_watcher(fs::RemoveWatcherRequest) -> fs::RemoveWatcherResponse;
    }

    streamed! {
        watch_dir(fs::WatchDirRequest) -> fs::WatchDirResponse;
    }
}

fn service() -> ConnectRpcService {
    let services = ps::ProcessExt::register(Arc::new(Nothing), connectrpc::Router::new());
    let services = fs::FilesystemExt::register(Arc::new(Nothing), services);
    let limits = Limits::default().with_max_request_body_size(LIMIT).with_max_message_size(LIMIT);
    ConnectRpcService::new(services).with_limits(limits)
}

fuzz_target!(|data: &[u8]| {
    let [method, kind, body @ ..] = data else { return };
    let method = METHODS[usize::from(*method) % METHODS.len()];
    let is_packed = kind & 0x80 != 0;
    let kind = TYPES[usize::from(*kind) % TYPES.len()];
    let packed =
        if kind.contains("connect+") { "connect-content-encoding" } else { "content-encoding" };
    let mut request = http::Request::post(format!("/{method}")).header("content-type", kind);
    if is_packed {
        request = request.header(packed, "gzip");
    }
    let Ok(request) = request.body(Full::new(Bytes::copy_from_slice(body))) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let Ok(answer) = service().oneshot(request).await;
        // Nothing that a client can send is a fault of the service.
        assert_ne!(answer.status(), http::StatusCode::INTERNAL_SERVER_ERROR);
        drop(answer.into_body().collect().await);
    });
});
