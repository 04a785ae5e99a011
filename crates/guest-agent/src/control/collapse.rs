//! `POST /collapse`: the agent's own memory is put together to huge pages, so that a picture of
//! the machine has fewer pieces of it.

use std::io;
use std::time::Instant;

use axum::Json;
use http::StatusCode;
use serde::Serialize;

use super::freeze::panicked;
use crate::rest::RestError;
use crate::tasks;

/// Of a huge page.
const CHUNK: u64 = 2 * 1024 * 1024;

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Mappings with room for a huge page.
    regions: u64,
    /// Places for one.
    chunks: u64,
    collapsed: u64,
    already_huge: u64,
    /// The kernel would not: it knows nothing of this, or there was nothing to put together.
    skipped: u64,
    elapsed_ms: u64,
}

/// Private memory that belongs to no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Region {
    start: u64,
    end: u64,
    /// In huge pages already.
    huge_bytes: u64,
}

impl Region {
    /// Where huge pages may begin.
    fn chunks(self) -> impl Iterator<Item = u64> {
        let first = self.start.checked_next_multiple_of(CHUNK).unwrap_or(u64::MAX);
        let count = self.end.saturating_sub(first) / CHUNK;
        (0..count).map(move |index| first + index * CHUNK)
    }
}

pub(super) async fn collapse() -> Result<Json<Report>, RestError> {
    match tasks::blocking(collapse_all).await.ok_or_else(panicked)? {
        Ok(report) => Ok(Json(report)),
        Err(error) => {
            let text = format!("the agent cannot look at its own memory: {error}");
            Err(RestError::new(StatusCode::INTERNAL_SERVER_ERROR, text))
        }
    }
}

fn collapse_all() -> io::Result<Report> {
    let started = Instant::now();
    let mut report = Report::default();
    let mut done = 0;
    let before = regions()?;
    for region in &before {
        let count = region.chunks().count().try_into().unwrap_or(u64::MAX);
        if count == 0 {
            continue;
        }
        report.regions += 1;
        report.chunks += count;
        done += region.chunks().map(|start| u64::from(collapse_one(start))).sum::<u64>();
    }
    // A page that is huge already is a success as well, so the kernel's own count tells them apart.
    let huge = |regions: &[Region]| regions.iter().map(|region| region.huge_bytes).sum::<u64>();
    report.collapsed = (huge(&regions()?).saturating_sub(huge(&before)) / CHUNK).min(done);
    report.already_huge = done - report.collapsed;
    report.skipped = report.chunks - done;
    report.elapsed_ms = started.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
    Ok(report)
}

/// Whether it is one huge page afterwards.
fn collapse_one(start: u64) -> bool {
    let (Ok(start), Ok(length)) = (usize::try_from(start), usize::try_from(CHUNK)) else {
        return false;
    };
    let start = std::ptr::with_exposed_provenance_mut::<libc::c_void>(start);
    // SAFETY: this changes which pages hold a range, and never what is in it nor who may use it;
    // a range that was unmapped since it was read, or mapped again, is an error or the same again.
    #[expect(unsafe_code, reason = "the mappings of this program are known by their numbers alone")]
    let done = unsafe { libc::madvise(start, length, libc::MADV_COLLAPSE) };
    done == 0
}

/// The longer of the two files has all that the shorter has, and some kernels do not have it.
fn regions() -> io::Result<Vec<Region>> {
    let text = match std::fs::read_to_string("/proc/self/smaps") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::read_to_string("/proc/self/maps")?
        }
        other => other?,
    };
    Ok(parse(&text))
}

/// Private writable mappings without a file, of proc_pid_maps(5), with what proc_pid_smaps(5) says
/// of their huge pages.
fn parse(text: &str) -> Vec<Region> {
    let mut all: Vec<Region> = Vec::new();
    let mut is_ours = false;
    for line in text.lines() {
        if let Some(range) = range(line) {
            let ours = region(range, line);
            is_ours = ours.is_some();
            all.extend(ours);
        } else if is_ours
            && let Some(size) = line.strip_prefix("AnonHugePages:")
            && let Some(region) = all.last_mut()
        {
            let kib = size.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok());
            region.huge_bytes = kib.unwrap_or(0).saturating_mul(1024);
        }
    }
    all
}

/// A line that begins with two addresses begins a mapping.
fn range(line: &str) -> Option<(u64, u64)> {
    let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some((address(start)?, address(end)?))
}

fn region((start, end): (u64, u64), line: &str) -> Option<Region> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let is_private = fields.next()?.starts_with("rw-p");
    let inode = fields.nth(2)?;
    // The kernel's own mappings have names in brackets; stacks grow, and are best left alone.
    let is_plain = fields.next().is_none_or(|name| name == "[heap]" || name.starts_with("[anon"));
    (is_private && inode == "0" && is_plain).then_some(Region { start, end, huge_bytes: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_writable_memory_without_a_file_is_meant() {
        let text = "\
55d000000000-55d000400000 r-xp 00000000 fe:00 12   /usr/bin/envd
55d000400000-55d000800000 rw-p 00400000 fe:00 12   /usr/bin/envd
55d000800000-55d000e00000 rw-p 00000000 00:00 0    [heap]
Size:               6144 kB
AnonHugePages:      2048 kB
VmFlags: rd wr mr mw me ac sd
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
7f0000400000-7f0000800000 ---p 00000000 00:00 0
AnonHugePages:      4096 kB
7f0000800000-7f0000c00000 rw-s 00000000 00:01 9    /dev/zero (deleted)
7f0000c00000-7f0001000000 rw-p 00000000 00:00 0    [anon:heap of a library]
7ffe00000000-7ffe00400000 rw-p 00000000 00:00 0    [stack]
";
        let found: Vec<_> = parse(text).iter().map(|it| (it.start, it.huge_bytes)).collect();
        let expected = [(0x55d0_0080_0000, 2 << 20), (0x7f00_0000_0000, 0), (0x7f00_00c0_0000, 0)];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_chunk_lies_wholly_inside_and_begins_where_a_huge_page_can() {
        let chunks = |start, end| {
            Region { start, end, huge_bytes: 0 }.chunks().map(|at| at / CHUNK).collect::<Vec<_>>()
        };
        assert_eq!(chunks(2 * CHUNK, 4 * CHUNK), [2, 3]);
        assert_eq!(chunks(2 * CHUNK + 4096, 4 * CHUNK + 4096), [3]);
        assert!(chunks(2 * CHUNK + 4096, 4 * CHUNK - 4096).is_empty());
        assert!(chunks(u64::MAX - 4096, u64::MAX).is_empty());
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "a test says when it skips")]
    fn memory_is_huge_afterwards_and_holds_what_it_held() {
        let length = 4 * usize::try_from(CHUNK).unwrap();
        let memory: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
        let start = u64::try_from(memory.as_ptr().expose_provenance()).unwrap();
        let chunk = start.next_multiple_of(CHUNK);
        if !collapse_one(chunk) {
            println!("skipped, because this kernel puts no memory together when asked");
            return;
        }
        let report = collapse_all().unwrap();
        assert!(report.regions > 0 && report.collapsed + report.already_huge > 0, "{report:?}");
        assert_eq!(report.chunks, report.collapsed + report.already_huge + report.skipped);
        assert!(memory.iter().enumerate().all(|(at, byte)| *byte == at.to_le_bytes()[0]));
        // Of another test's memory some may be given back meanwhile.
        let own = |region: &Region| region.start <= chunk && chunk < region.end;
        let huge = regions().unwrap().into_iter().find(own).unwrap().huge_bytes;
        assert!(huge >= CHUNK, "{huge}");
    }
}
