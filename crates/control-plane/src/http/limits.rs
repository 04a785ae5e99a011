use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use lifecycle::Budget;

use super::{ApiError, RateSlot};
use crate::app::App;

const RETRY_BUSY: Duration = Duration::from_secs(1);

/// Bounds how many requests are answered at one time and how long each may take.
///
/// Handlers may be dropped at any await: what must be finished runs in [`App::owned`].
pub(super) async fn bound(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let Ok(_permit) = Arc::clone(&app.requests).try_acquire_owned() else {
        let limit = app.config.limits.requests;
        let message = format!("the service is answering {limit} requests already; try again soon");
        return ApiError::unavailable(message, RETRY_BUSY).into_response();
    };
    let limit = app.config.limits.request;
    let slot = RateSlot::default();
    request.extensions_mut().insert(slot.clone());
    match Budget::within(limit).run("request", next.run(request)).await {
        Ok(mut response) => {
            slot.tell(response.headers_mut());
            response
        }
        Err(_expired) => {
            let message = format!(
                "no answer within {} s; what was asked for may still happen",
                limit.as_secs()
            );
            ApiError::new(StatusCode::REQUEST_TIMEOUT, message).into_response()
        }
    }
}
