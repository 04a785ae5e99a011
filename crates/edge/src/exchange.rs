//! One request to a sandbox and its answer, over a connection that may turn out to be dead.

use http::{HeaderMap, Method, Request, Response, Uri};
use hyper::body::Incoming;

use crate::request_body::{BodyReturn, RequestBody};
use crate::upstream::{DialError, Port, Sender, Upstream};

/// No answer from the sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the sandbox ended")]
    Ended,
    #[error("connect to the sandbox")]
    Dial(#[source] DialError),
    #[error("wait for the sandbox to answer")]
    Broken(#[source] hyper::Error),
}

/// Sends `request` and waits for the head of the answer, however long that takes. Gives back the
/// connection too; it is free when the body of the answer has ended.
///
/// Cancel safety: yes. The connection of a dropped call is closed, which tells the sandbox.
pub(crate) async fn exchange(
    upstream: &Upstream,
    port: Port,
    request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Sender), Failure> {
    let done = send(upstream, port, request).await;
    // Its connections end with the sandbox.
    done.map_err(|failure| if upstream.has_ended() { Failure::Ended } else { failure })
}

async fn send(
    upstream: &Upstream,
    port: Port,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Sender), Failure> {
    let repeatable = is_repeatable(&request);
    while let Some(mut sender) = upstream.kept(port, repeatable).await {
        let spare = Spare::of(&request);
        let mut failed = match sender.try_send_request(request).await {
            Ok(response) => return Ok((response, rest(upstream, sender, &spare.body))),
            Err(failed) => failed,
        };
        if let Some(unsent) = failed.take_message() {
            request = unsent;
            continue;
        }
        let failed = failed.into_error();
        match spare.restore() {
            // An answer that makes no sense is an answer.
            Some(again) if !failed.is_parse() && !upstream.has_ended() => request = again,
            _ => return Err(Failure::Broken(failed)),
        }
        // Sent at most twice: whatever ends connections may do it again.
        break;
    }
    // What is rare is kept out of the room that every request takes, and is moved with it.
    let mut sender = Box::pin(connect(upstream, port)).await?;
    let body = request.body().lend();
    match sender.try_send_request(request).await {
        Ok(response) => Ok((response, rest(upstream, sender, &body))),
        Err(failed) => Err(Failure::Broken(failed.into_error())),
    }
}

/// An answer that came before the end of its request must not hold that up, which it would when the
/// client reads the one only after it has sent the other.
fn rest(upstream: &Upstream, mut sender: Sender, body: &BodyReturn) -> Sender {
    if body.is_under_way() {
        let transport = sender.take_transport();
        upstream.spawn("rest of a request", async { drop(transport.run().await) });
    }
    sender
}

async fn connect(upstream: &Upstream, port: Port) -> Result<Sender, Failure> {
    tokio::select! {
        biased;
        () = upstream.stop_token().cancelled() => Err(Failure::Ended),
        connected = upstream.connect(port) => connected.map_err(Failure::Dial),
    }
}

/// Whether sending all of `request` twice does no more than sending it once.
fn is_repeatable(request: &Request<RequestBody>) -> bool {
    request.method().is_idempotent() && request.body().is_empty()
}

/// What it takes to send a request again: either it does no harm, or the sandbox cannot have acted
/// on it because none of its body had been sent.
struct Spare {
    head: Option<(Method, Uri, HeaderMap)>,
    body: BodyReturn,
}

impl Spare {
    fn of(request: &Request<RequestBody>) -> Self {
        let useful = is_repeatable(request) || !request.body().is_empty();
        let head = useful
            .then(|| (request.method().clone(), request.uri().clone(), request.headers().clone()));
        Self { head, body: request.body().lend() }
    }

    fn restore(self) -> Option<Request<RequestBody>> {
        let (method, uri, headers) = self.head?;
        let mut request = Request::new(self.body.take_back()?);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Some(request)
    }
}
