//! What every endpoint shares: errors, bodies, parameters, limits, and the list of endpoints.

mod api_error;
mod body;
mod limits;
mod params;
mod router;
mod unsupported;

pub(crate) use api_error::ApiError;
pub(crate) use body::JsonBody;
pub(crate) use params::{NodeSandboxPath, Params, SandboxPath, Segment};
pub(crate) use router::router;
