//! Lists that come message by message.

use connectrpc::ConnectError;
use connectrpc::client::{ClientTransport, ServerStream};

use super::{Link, not_understood};
use crate::grpc::convert::Malformed;
use crate::grpc::failure::node_error;
use crate::grpc::proto::cofferdam::node::v1;
use crate::{DrainStatus, NodeError};

/// The longest list that is taken: many times what a node runs.
pub(super) const MAX_ITEMS: usize = 65_536;

/// Why a list is not whole.
pub(super) enum Broken {
    Failed(ConnectError),
    Malformed(Malformed),
    Endless,
}

impl From<ConnectError> for Broken {
    fn from(error: ConnectError) -> Self {
        Self::Failed(error)
    }
}

impl From<Malformed> for Broken {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<Broken> for NodeError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Failed(error) => node_error(error),
            Broken::Malformed(malformed) => not_understood(malformed),
            Broken::Endless => Self::Internal("its list does not end".to_owned()),
        }
    }
}

/// Every message of a stream that ends, or why it is [`Broken`].
macro_rules! collect {
    ($call:expr, $message:ty) => {
        async {
            let mut stream = $call.await?;
            let mut all = Vec::new();
            while let Some(message) = stream.message::<$message>().await? {
                if all.len() == $crate::grpc::client::streams::MAX_ITEMS {
                    return Err(Broken::Endless);
                }
                all.push(message.to_owned_message().try_into()?);
            }
            Ok::<_, Broken>(all)
        }
        .await
    };
}

pub(super) use collect;

type Drains = ServerStream<
    <Link as ClientTransport>::ResponseBody,
    v1::__buffa::view::DrainStatusView<'static>,
>;

/// The next drain status; `None` when the stream is over, in whatever way.
pub(super) async fn next_drain(stream: &mut Drains) -> Option<DrainStatus> {
    match stream.message::<v1::DrainStatus>().await {
        Ok(message) => DrainStatus::try_from(message?.to_owned_message())
            .inspect_err(|bad| tracing::warn!(error = %bad, "a drain status is not understood"))
            .ok(),
        Err(error) => {
            tracing::info!(error = %observe::chain(&error), "no more news of a node's drain");
            None
        }
    }
}
