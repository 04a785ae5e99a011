//! `process.Process` on the wire.

pub(crate) mod feed;

use std::sync::Arc;

use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult,
    ServiceStream,
};
use futures::StreamExt as _;
use guest_wire::proto::process::process_input::Input as Payload;
use guest_wire::proto::process::stream_input_request::Event as Piece;
use guest_wire::proto::process::{
    CloseStdinRequest, CloseStdinResponse, ConnectRequest, ConnectResponse, ListRequest,
    ListResponse, Process, ProcessInfo, ProcessInput, ProcessSelector, SendInputRequest,
    SendInputResponse, SendSignalRequest, SendSignalResponse, Signal as WireSignal, StartRequest,
    StartResponse, StreamInputRequest, StreamInputResponse, UpdateRequest, UpdateResponse,
    process_selector,
};
use rustix::process::Signal;

use self::feed::{Feed, keepalive_interval};
use super::input::InputError;
use super::launch::{LaunchError, launch, size};
use super::registry::{NotFound, Processes, Selector};
use super::running::Running;
use crate::agent::Agent;
use crate::gatekeeper::{Named, TimeLimit, user_error_code};
use crate::tasks;

/// Serves processes. Any client may name any process, whoever's it is.
pub(crate) struct ProcessService {
    agent: Arc<Agent>,
}

impl ProcessService {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self { agent }
    }

    fn processes(&self) -> &Processes {
        &self.agent.processes
    }

    fn running(&self, selector: Option<&ProcessSelector>) -> Result<Arc<Running>, ConnectError> {
        self.processes().running(&read_selector(selector)?).map_err(not_found)
    }
}

#[expect(refining_impl_trait, reason = "naming the plain message is clearer than its bound")]
impl Process for ProcessService {
    async fn list(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, ListRequest>,
    ) -> ServiceResult<ListResponse> {
        let info = |process: Arc<Running>| ProcessInfo {
            config: process.origin.config.clone().into(),
            pid: process.wire_pid(),
            tag: process.tag().cloned(),
            ..ProcessInfo::default()
        };
        let processes = self.processes().list().into_iter().map(info).collect();
        Response::ok(ListResponse { processes, ..ListResponse::default() })
    }

    async fn connect(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, ConnectRequest>,
    ) -> ServiceResult<ServiceStream<ConnectResponse>> {
        let place = self.agent.streams.place()?;
        let request = request.to_owned_message();
        let selector = read_selector(request.process.as_option())?;
        let (pid, hub) = self.processes().hub(&selector).map_err(not_found)?;
        let subscription =
            hub.subscribe().map_err(|full| ConnectError::resource_exhausted(full.to_string()))?;
        let feed = Feed::new(pid, subscription, keepalive_interval(&context), place);
        Response::stream_ok(
            feed.into_stream().map(|event| {
                Ok(ConnectResponse { event: event.into(), ..ConnectResponse::default() })
            }),
        )
    }

    async fn start(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, StartRequest>,
    ) -> ServiceResult<ServiceStream<StartResponse>> {
        let place = self.agent.streams.place()?;
        let request = request.to_owned_message();
        let named = context.extensions().get::<Named>().cloned().unwrap_or_default();
        let limit = context.extensions().get::<TimeLimit>().map(|limit| limit.0);
        let user = self
            .agent
            .user(named.0.as_deref())
            .map_err(|error| ConnectError::new(user_error_code(&error), error.to_string()))?;
        let agent = Arc::clone(&self.agent);
        let worker = agent.upgrades.requests.worker();
        let launched = async move {
            let _worker = worker;
            launch(&agent, request, &user, limit).await
        };
        let started = tasks::detached(launched).await;
        let (process, subscription) = started
            .ok_or_else(|| ConnectError::internal("starting the process panicked"))?
            .map_err(launch_error)?;
        let keepalive = keepalive_interval(&context);
        let feed = Feed::new(process.wire_pid(), subscription, keepalive, place);
        Response::stream_ok(
            feed.into_stream()
                .map(|event| Ok(StartResponse { event: event.into(), ..StartResponse::default() })),
        )
    }

    async fn update(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, UpdateRequest>,
    ) -> ServiceResult<UpdateResponse> {
        let request = request.to_owned_message();
        let process = self.running(request.process.as_option())?;
        if let Some(pty) = request.pty.as_option() {
            process.input.resize(size(pty)).map_err(|error| {
                // Here the wrong kind of process is told without advice.
                ConnectError::internal(match error {
                    InputError::NoTerminal => {
                        "error resizing tty: tty not assigned to process".to_owned()
                    }
                    other => format!("error resizing tty: {other}"),
                })
            })?;
        }
        Response::ok(UpdateResponse::default())
    }

    async fn stream_input(
        &self,
        _context: RequestContext,
        mut requests: InboundStream<StreamInputRequest>,
    ) -> ServiceResult<StreamInputResponse> {
        let _place = self.agent.streams.place()?;
        let mut process = None;
        while let Some(message) = requests.next().await {
            match message?.to_owned_message().event {
                Some(Piece::Start(start)) => {
                    process = Some(self.running(start.process.as_option())?);
                }
                Some(Piece::Data(data)) => {
                    let process = process.as_deref().ok_or_else(|| {
                        ConnectError::failed_precondition(
                            "input came before any start event: send start with a process first",
                        )
                    })?;
                    send_input(process, data.input.into_option()).await?;
                }
                Some(Piece::Keepalive(_)) => {}
                None => {
                    return Err(ConnectError::unimplemented("stream input event is not set"));
                }
            }
        }
        Response::ok(StreamInputResponse::default())
    }

    async fn send_input(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SendInputRequest>,
    ) -> ServiceResult<SendInputResponse> {
        let request = request.to_owned_message();
        let process = self.running(request.process.as_option())?;
        send_input(&process, request.input.into_option()).await?;
        Response::ok(SendInputResponse::default())
    }

    async fn send_signal(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SendSignalRequest>,
    ) -> ServiceResult<SendSignalResponse> {
        let request = request.to_owned_message();
        let process = self.running(request.process.as_option())?;
        let signal = match request.signal.as_known() {
            Some(WireSignal::SIGNAL_SIGKILL) => Signal::KILL,
            Some(WireSignal::SIGNAL_SIGTERM) => Signal::TERM,
            Some(WireSignal::SIGNAL_UNSPECIFIED) | None => {
                return Err(ConnectError::unimplemented(format!(
                    "invalid signal: {}; send SIGNAL_SIGKILL or SIGNAL_SIGTERM",
                    request.signal
                )));
            }
        };
        process
            .signal(signal)
            .map_err(|error| ConnectError::internal(format!("error sending signal: {error}")))?;
        Response::ok(SendSignalResponse::default())
    }

    async fn close_stdin(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, CloseStdinRequest>,
    ) -> ServiceResult<CloseStdinResponse> {
        let request = request.to_owned_message();
        let process = self.running(request.process.as_option())?;
        if process.input.is_terminal {
            return Err(ConnectError::unknown(
                "error closing stdin: cannot close stdin for PTY process — send Ctrl+D (0x04) \
                 instead",
            ));
        }
        process.input.close();
        Response::ok(CloseStdinResponse::default())
    }
}

fn read_selector(selector: Option<&ProcessSelector>) -> Result<Selector, ConnectError> {
    match selector.and_then(|selector| selector.selector.as_ref()) {
        Some(process_selector::Selector::Pid(pid)) => Ok(Selector::Pid(*pid)),
        Some(process_selector::Selector::Tag(tag)) => Ok(Selector::Tag(tag.clone())),
        None => Err(ConnectError::unimplemented(
            "no process selected: set either pid or tag in the selector",
        )),
    }
}

fn not_found(error: NotFound) -> ConnectError {
    ConnectError::not_found(error.to_string())
}

fn launch_error(error: LaunchError) -> ConnectError {
    let text = error.to_string();
    match error {
        LaunchError::TooMany(_) => ConnectError::resource_exhausted(text),
        LaunchError::Workdir(_)
        | LaunchError::NoWorkdir(_)
        | LaunchError::Variable(_)
        | LaunchError::ZeroByte { .. }
        | LaunchError::Start { .. }
        | LaunchError::SetUp { .. } => ConnectError::invalid_argument(text),
    }
}

async fn send_input(process: &Running, input: Option<ProcessInput>) -> Result<(), ConnectError> {
    let (what, written) = match input.and_then(|input| input.input) {
        Some(Payload::Stdin(data)) => ("stdin", {
            if process.input.is_terminal {
                Err(InputError::IsTerminal)
            } else {
                process.input.write(&data).await
            }
        }),
        Some(Payload::Pty(data)) => ("tty", {
            if process.input.is_terminal {
                process.input.write(&data).await
            } else {
                Err(InputError::NoTerminal)
            }
        }),
        None => {
            return Err(ConnectError::unimplemented(
                "input is empty: set either stdin or pty in it",
            ));
        }
    };
    written.map_err(|error| ConnectError::internal(format!("error writing to {what}: {error}")))
}
