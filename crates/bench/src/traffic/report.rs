use std::time::Duration;

use super::Roads;
use super::files::{Bulk, Busy};
use super::load::{Kind, Load, Spread, Turn};
use crate::numbers::{Series, line, told};

/// Of the speed of the plain server.
const FILE_SHARE: f64 = 0.7;
const AGENT_KIB: f64 = 15.0 * 1000.0 * 1000.0 / 1024.0;
/// Longer than this, somebody has noticed.
const STALL: Duration = Duration::from_millis(100);

/// What is to be no worse than nginx is worse when three of four turns say so: with fewer the machine
/// cannot tell the two apart.
pub(crate) fn roads(all: &[Roads]) {
    for roads in all {
        let what = match roads.kind {
            Kind::Http => "requests",
            Kind::WebSocket => "WebSocket echoes",
        };
        let what = format!("{what}, {} connections", roads.connections);
        let per_second = |load: &Load| load.middle(|turn| turn.per_second);
        let (direct, nginx, edge) =
            (per_second(&roads.direct), per_second(&roads.nginx), per_second(&roads.edge));
        told(&what, &format!("direct {direct:.0}/s  nginx {nginx:.0}/s  edge {edge:.0}/s"));
        let ratio =
            roads.edge.beside(&roads.nginx, |edge, nginx| edge.per_second / nginx.per_second);
        line("  a second, edge to nginx", &times(ratio), ">= 1x", ratio.high >= 1.0);
        let busy = |load: &Load| load.middle(|turn| turn.busy);
        let ratio = roads.edge.beside(&roads.nginx, |edge, nginx| edge.busy / nginx.busy);
        let (edge, nginx) = (busy(&roads.edge), busy(&roads.nginx));
        let measured = format!("{edge:.1} / {nginx:.1} us, {}", times(ratio));
        told("  processor time of one, edge to nginx", &measured);
        added("  added, p50", roads, |turn| turn.p50);
        added("  added, p99", roads, |turn| turn.p99);
    }
}

fn times(ratio: Spread) -> String {
    format!("{:.2}x ({:.2} to {:.2})", ratio.middle, ratio.low, ratio.high)
}

fn added(what: &str, roads: &Roads, field: impl Fn(&Turn) -> f64) {
    let direct = roads.direct.middle(&field);
    let (edge, nginx) = (roads.edge.middle(&field) - direct, roads.nginx.middle(&field) - direct);
    let more = roads.edge.beside(&roads.nginx, |edge, nginx| field(edge) - field(nginx));
    let measured = format!(
        "{edge:.0} / {nginx:.0} us, direct {direct:.0}; edge less nginx {:.0} ({:.0} to {:.0})",
        more.middle, more.low, more.high
    );
    line(what, &measured, "<= nginx", more.low <= 0.0);
}

pub(crate) fn bulk(bulk: &Bulk) {
    if let Some((before, most)) = bulk.agent_kib {
        copied(&format!("{} MiB up", bulk.file_mib), bulk.file_mib, &bulk.up, &bulk.plain_up);
        copied(&format!("{} MiB down", bulk.file_mib), bulk.file_mib, &bulk.down, &bulk.plain_down);
        let measured = format!("{:.1} MiB, before {:.1}", most / 1024.0, before / 1024.0);
        line("guest agent's memory, at most, with files", &measured, "< 15 MB", most < AGENT_KIB);
    }
    if let Some(busy) = &bulk.listing {
        busily(&format!("list {} entries", busy.files), "plain", busy);
    }
    if let Some(busy) = &bulk.watching {
        busily(&format!("{} writes watched", busy.files), "the writes alone", busy);
    }
    let (end, most) = bulk.agent_end_kib;
    let measured = format!("{:.1} MiB, at the end {:.1}", most / 1024.0, end / 1024.0);
    told("guest agent's memory, at most, everything", &measured);
}

fn copied(what: &str, mib: u64, ours: &Series, plain: &Series) {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let speed = |series: &Series| mib as f64 * 1000.0 / series.p50();
    let (ours, plain) = (speed(ours), speed(plain));
    let measured = format!("{ours:.0} / {plain:.0} MiB/s = {:.2}x", ours / plain);
    line(what, &measured, ">= 0.7x of a plain server", ours >= plain * FILE_SHARE);
}

fn busily(what: &str, plain: &str, busy: &Busy) {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    told(what, &format!("{:.0} ms, {plain} {:.0} ms", ms(busy.took), ms(busy.plain)));
    let measured = format!("{:.1} ms", ms(busy.slowest_other));
    line("  slowest other request meanwhile", &measured, "< 100 ms", busy.slowest_other < STALL);
}
