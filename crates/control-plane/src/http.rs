//! What every endpoint shares: errors, bodies, parameters, limits, and the list of endpoints.

mod api_error;
mod body;
mod limits;
mod params;
mod rate;
mod router;
mod unsupported;

pub(crate) use api_error::ApiError;
pub(crate) use body::JsonBody;
pub(crate) use params::{NodeSandboxPath, Pair, Params, SandboxPath, Segment};
pub(crate) use rate::{RateSlot, Rates};
#[cfg(test)]
pub(crate) use router::endpoints;
pub(crate) use router::router;
