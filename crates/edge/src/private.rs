//! What a sandbox without public traffic asks of its clients.

use e2b_wire::host_name::{ENVD_PORT, Target};
use e2b_wire::proxy_error::ProxyError;
use http::{HeaderMap, HeaderName};
use node_wire::Ingress;
use subtle::ConstantTimeEq as _;

pub(crate) const TRAFFIC_TOKEN: HeaderName = HeaderName::from_static("e2b-traffic-access-token");

/// Whether a request with `headers` may go to `target`. The guest agent has a token of its own.
///
/// # Errors
/// [`ProxyError::TrafficToken`].
pub(crate) fn admit<'a>(
    target: &'a Target,
    ingress: &Ingress,
    headers: &HeaderMap,
) -> Result<(), ProxyError<'a>> {
    let Some(token) = ingress.traffic_token.as_ref().filter(|_| target.port != ENVD_PORT) else {
        return Ok(());
    };
    let sandbox = &target.sandbox;
    let mut shown = headers.get_all(TRAFFIC_TOKEN).iter().filter(|shown| !shown.is_empty());
    let Some(first) = shown.next() else {
        return Err(ProxyError::TrafficToken { sandbox, shown: false });
    };
    // Of two, the program inside might look at the other one.
    let only = shown.next().is_none();
    if only && bool::from(first.as_bytes().ct_eq(token.expose().as_bytes())) {
        return Ok(());
    }
    Err(ProxyError::TrafficToken { sandbox, shown: true })
}
