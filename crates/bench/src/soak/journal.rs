//! What was done, one line each, in a file; the newest also in memory, for who looks at a failure.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use parking_lot::Mutex;

const KEPT: usize = 50;

#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    began: Instant,
    inner: Mutex<(File, VecDeque<String>)>,
}

impl Journal {
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("make {}", path.display()))?;
        let inner = Mutex::new((file, VecDeque::new()));
        Ok(Self { path: path.to_owned(), began: Instant::now(), inner })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// `who` begins or did `what`. In the file at once, by one write: a run that stands still has to
    /// show at what.
    pub(crate) fn note(&self, who: &str, what: &str) {
        let line = format!("{:>9.3} {who:<10} {what}", self.began.elapsed().as_secs_f64());
        let (file, newest) = &mut *self.inner.lock();
        // A full disk ends the run by what else it breaks; the newest lines are in memory.
        drop(file.write_all(format!("{line}\n").as_bytes()));
        if newest.len() == KEPT {
            newest.pop_front();
        }
        newest.push_back(line);
    }

    pub(crate) fn newest(&self) -> Vec<String> {
        self.inner.lock().1.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Journal, KEPT};

    #[test]
    fn the_file_has_all_lines_and_memory_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(&dir.path().join("journal")).unwrap();
        for number in 0..KEPT + 7 {
            journal.note("worker 0", &format!("did {number}."));
        }
        let newest = journal.newest();
        assert_eq!(newest.len(), KEPT);
        assert!(newest[0].ends_with("did 7."), "{newest:?}");
        let text = std::fs::read_to_string(journal.path()).unwrap();
        assert_eq!(text.lines().count(), KEPT + 7);
        assert!(text.lines().next().unwrap().ends_with("did 0."), "{text}");
    }
}
