//! Filters, order and pages of the list of sandboxes.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use e2b_wire::{Order, PageToken, SandboxListQuery, TemplateRef, Timestamp, parse_metadata_query};

use crate::http::ApiError;
use crate::store::{RowState, SandboxRow};

const PAGE_MAX: usize = 100;

/// What a list is asked for.
#[derive(Debug)]
pub(crate) struct ListRequest {
    pub(crate) metadata: BTreeMap<String, String>,
    /// Whether running sandboxes are asked for.
    pub(crate) running: bool,
    /// Whether paused ones are.
    pub(crate) paused: bool,
    pub(crate) order: Order,
    pub(crate) started_after: Option<Timestamp>,
    pub(crate) template: Option<TemplateRef>,
    pub(crate) limit: usize,
    pub(crate) after: Option<PageToken>,
}

/// Some rows, and where the next ones begin.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) rows: Vec<SandboxRow>,
    pub(crate) next: Option<PageToken>,
    /// Running ones of all pages.
    pub(crate) running: usize,
}

impl ListRequest {
    pub(crate) fn parse(query: SandboxListQuery) -> Result<Self, ApiError> {
        let metadata = match &query.metadata {
            Some(text) => parse_metadata_query(text)
                .map_err(|problem| ApiError::bad_request(format!("metadata: {problem}")))?,
            None => BTreeMap::new(),
        };
        let order = match query.order.as_deref() {
            None | Some("desc") => Order::Descending,
            Some("asc") => Order::Ascending,
            Some(other) => return Err(wrong("order", other, "asc or desc")),
        };
        let started_after = query
            .started_after
            .as_deref()
            .map(|text| {
                text.parse().map_err(|_not_a_time| wrong("startedAfter", text, "an RFC 3339 time"))
            })
            .transpose()?;
        let limit = match query.limit.as_deref() {
            None => PAGE_MAX,
            Some(text) => match text.parse() {
                Ok(limit) if (1..=PAGE_MAX).contains(&limit) => limit,
                Ok(_) | Err(_) => return Err(wrong("limit", text, "a number from 1 to 100")),
            },
        };
        let after: Option<PageToken> = query
            .next_token
            .as_deref()
            .map(|text| text.parse().map_err(ApiError::validation))
            .transpose()?;
        if after.as_ref().is_some_and(|token| token.order != order) {
            let problem = "nextToken belongs to a list in the other order";
            return Err(ApiError::validation(problem));
        }
        let (running, paused) = states(query.state.as_deref())?;
        let template = query.template.as_deref().map(parse_template).transpose()?;
        Ok(Self { metadata, running, paused, order, started_after, template, limit, after })
    }

    /// The page of `rows` that was asked for. `template` is the id the request's name stands for.
    pub(crate) fn page(&self, mut rows: Vec<SandboxRow>) -> Page {
        rows.retain(|row| self.matches(row));
        let running = rows.iter().filter(|row| row.state == RowState::Running).count();
        rows.sort_unstable_by(|a, b| self.compare((a.started_at, a.id.as_str()), b));
        if let Some(token) = &self.after {
            rows.retain(|row| self.compare((token.time, &token.id), row) == Ordering::Less);
        }
        let more = rows.len() > self.limit;
        rows.truncate(self.limit);
        let next = rows.last().filter(|_| more).map(|row| PageToken {
            time: row.started_at,
            id: row.id.to_string(),
            order: self.order,
        });
        Page { rows, next, running }
    }

    fn matches(&self, row: &SandboxRow) -> bool {
        let wanted = if row.state == RowState::Running { self.running } else { self.paused };
        wanted
            && self.metadata.iter().all(|(key, value)| row.metadata.get(key) == Some(value))
            && self.started_after.is_none_or(|after| row.started_at >= after)
    }

    /// Newest first and by id within a moment, or exactly the reverse.
    fn compare(&self, (time, id): (Timestamp, &str), row: &SandboxRow) -> Ordering {
        let newest_first = row.started_at.cmp(&time).then_with(|| id.cmp(row.id.as_str()));
        match self.order {
            Order::Descending => newest_first,
            Order::Ascending => newest_first.reverse(),
        }
    }
}

/// Whether running and paused ones are asked for; both when nothing is said.
fn states(states: Option<&str>) -> Result<(bool, bool), ApiError> {
    let Some(states) = states.filter(|states| !states.is_empty()) else { return Ok((true, true)) };
    let (mut running, mut paused) = (false, false);
    for state in states.split(',') {
        match state {
            "running" => running = true,
            "paused" => paused = true,
            other => return Err(wrong("state", other, "running, paused or both")),
        }
    }
    Ok((running, paused))
}

fn parse_template(text: &str) -> Result<TemplateRef, ApiError> {
    let problem = |problem| ApiError::bad_request(format!("template: {problem}"));
    let template: TemplateRef = text.parse().map_err(problem)?;
    if text.contains(':') {
        return Err(ApiError::bad_request("template: name it without a tag"));
    }
    Ok(template)
}

fn wrong(parameter: &str, value: &str, expected: &str) -> ApiError {
    ApiError::validation(format!("{parameter} is {value:?} and must be {expected}"))
}

#[cfg(test)]
mod tests;
