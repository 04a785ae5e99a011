use std::time::{Duration, SystemTime};

use e2b_wire::{ApiKey, LogLevel, Timestamp};
use model::SandboxId;
use node_wire::{Journal, JournalLevel, JournalLine, JournalMark};
use tempfile::TempDir;

use super::{LINE_BYTES_MAX, LINES_MAX};
use crate::Team;
use crate::app::now;
use crate::store::sandboxes::tests::insert;
use crate::store::{LogLine, LogQuery, Store};

async fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.sqlite")).await.unwrap();
    store.configure_team(&Team::default(), &ApiKey::generate(), now()).await.unwrap();
    (dir, store)
}

fn line(number: u64) -> JournalLine {
    JournalLine {
        number,
        at: SystemTime::now() + Duration::from_secs(number.min(1000)),
        level: JournalLevel::Info,
        message: format!("line {number}"),
        fields: [("pid".to_owned(), number.to_string())].into(),
    }
}

fn journal(run: &str, numbers: impl IntoIterator<Item = u64>) -> Journal {
    let lines = numbers.into_iter().map(line).collect();
    Journal { run: run.into(), lines, ..Journal::default() }
}

fn mark(run: &str, number: u64) -> JournalMark {
    JournalMark { run: run.into(), number }
}

/// After every line of these tests.
fn later() -> Timestamp {
    now().after(Duration::from_secs(3600))
}

/// What agents have noted of the sandbox, the oldest first.
async fn noted(store: &Store, id: &SandboxId) -> Vec<LogLine> {
    let query = LogQuery {
        from: Timestamp::from_micros(0).unwrap(),
        to: later(),
        newest_first: false,
        level: LogLevel::Debug,
        search: String::new(),
        limit: 10_000,
    };
    let lines = store.log(&Team::default().id, id, &query).await.unwrap();
    lines.into_iter().filter(|line| line.fields.contains_key("logger")).collect()
}

async fn messages(store: &Store, id: &SandboxId) -> Vec<String> {
    noted(store, id).await.into_iter().map(|line| line.message).collect()
}

#[tokio::test]
async fn each_line_is_kept_once_whoever_has_read_it_and_however_often() {
    let (_dir, store) = store().await;
    let id = insert(&store, "i1").await;
    let none = JournalMark::default();
    assert_eq!(store.journal_mark(&id).await.unwrap(), none);
    // Two have asked at one time, and one of them once more.
    for numbers in [1..=2, 1..=3, 3..=3] {
        store.keep_journal(&id, &none, &journal("r1", numbers), now()).await.unwrap();
    }
    assert_eq!(messages(&store, &id).await, ["line 1", "line 2", "line 3"]);
    assert_eq!(store.journal_mark(&id).await.unwrap(), mark("r1", 3));
    // A new run of the agent counts anew.
    let before = mark("r1", 3);
    store.keep_journal(&id, &before, &journal("r2", 1..=1), now()).await.unwrap();
    assert_eq!(store.journal_mark(&id).await.unwrap(), mark("r2", 1));
    // The answer of the run before comes late: it was asked for by somebody who did not know more.
    let early = mark("r1", 1);
    store.keep_journal(&id, &early, &journal("r1", 2..=4), now()).await.unwrap();
    assert_eq!(messages(&store, &id).await, ["line 1", "line 2", "line 3", "line 1"]);
    assert_eq!(store.journal_mark(&id).await.unwrap(), mark("r2", 1));
    store.close().await;
}

#[tokio::test]
async fn what_agents_note_pushes_out_what_they_noted_and_nothing_else() {
    let (_dir, store) = store().await;
    let [one, other] = [insert(&store, "i1").await, insert(&store, "i2").await];
    let count = u64::try_from(LINES_MAX).unwrap();
    let none = JournalMark::default();
    store.keep_journal(&one, &none, &journal("r1", 1..=count + 50), later()).await.unwrap();
    store.keep_journal(&other, &none, &journal("r1", 1..=2), later()).await.unwrap();
    let more = journal("r1", count + 51..=count + 60);
    store.keep_journal(&one, &mark("r1", count + 50), &more, later()).await.unwrap();
    let kept = messages(&store, &one).await;
    assert_eq!((kept.len(), kept[0].as_str()), (300, "line 61"));
    assert_eq!(messages(&store, &other).await.len(), 2);
    let written = "SELECT COUNT(*) FROM sandbox_log";
    let written: i64 = sqlx::query_scalar(written).fetch_one(&store.reader).await.unwrap();
    assert_eq!(written, 2, "what became of both");
    // Of all sandboxes together, the oldest go.
    store.purge_journals(2).await.unwrap();
    assert_eq!(messages(&store, &other).await.len(), 0);
    assert_eq!(messages(&store, &one).await, ["line 359", "line 360"]);
    assert_eq!(store.journal_mark(&one).await.unwrap(), mark("r1", 360), "nothing comes again");
    store.close().await;
}

#[tokio::test]
async fn nothing_of_what_an_agent_says_is_taken_as_it_is() {
    let (_dir, store) = store().await;
    let id = insert(&store, "i1").await;
    let begun = now();
    let mut told = journal("r1", [7, 6, 7, 8, 9, u64::MAX]);
    let [first, _, _, large, last, _] = &mut told.lines[..] else { panic!("six lines") };
    first.at = SystemTime::now() + Duration::from_secs(3600);
    first.message = "\u{1b}[2Jsandbox\nended".into();
    first.level = JournalLevel::Error;
    first.fields = [("logger", "cofferdam"), ("co\u{7}de", "a\n\tb\u{0}c")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    large.fields.insert("more".into(), "x".repeat(LINE_BYTES_MAX));
    last.at = SystemTime::UNIX_EPOCH;
    store.keep_journal(&id, &JournalMark::default(), &told, now()).await.unwrap();
    let kept = noted(&store, &id).await;
    assert_eq!(kept.len(), 2, "{kept:?}");
    let [early, late] = &kept[..] else { panic!("two lines") };
    assert_eq!(early.message, "line 9");
    assert!(early.at <= begun, "of before the sandbox was");
    assert_eq!(
        (late.message.as_str(), late.level),
        ("\u{fffd}[2Jsandbox\u{fffd}ended", LogLevel::Error)
    );
    assert!(late.at >= begun && late.at <= now());
    let fields = [("co\u{fffd}de", "a\n\tb\u{fffd}c"), ("logger", "process")];
    assert!(late.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(fields));
    assert_eq!(store.journal_mark(&id).await.unwrap(), mark("r1", 9));
    store.close().await;
}

#[tokio::test]
async fn of_a_sandbox_without_a_record_nothing_is_kept_and_it_goes_with_its_record() {
    let (_dir, store) = store().await;
    let nobody = SandboxId::parse("inobody").unwrap();
    let none = JournalMark::default();
    store.keep_journal(&nobody, &none, &journal("r1", 1..=2), now()).await.unwrap();
    assert_eq!(store.journal_mark(&nobody).await.unwrap(), none);
    let id = insert(&store, "i1").await;
    store.keep_journal(&id, &none, &journal("r1", 1..=2), now()).await.unwrap();
    sqlx::query("DELETE FROM sandboxes").execute(&store.writer).await.unwrap();
    let left = "SELECT (SELECT COUNT(*) FROM agent_log) + (SELECT COUNT(*) FROM agent_marks)";
    let left: i64 = sqlx::query_scalar(left).fetch_one(&store.reader).await.unwrap();
    assert_eq!(left, 0);
    store.close().await;
}
