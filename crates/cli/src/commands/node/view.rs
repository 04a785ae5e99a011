use std::io::{self, IsTerminal};
use std::time::{Duration, SystemTime};

use e2b_wire::{NodeDrain, NodeDrainAttempt, NodeDrainCounts};
use tokio::time::Instant;

use super::text;
use crate::args::Output;
use crate::say;

/// How often ages are counted on, on a terminal.
const REFRESH: Duration = Duration::from_secs(1);
/// Where nobody looks on, a line for every change, but not more often.
const LINE_PAUSE: Duration = Duration::from_secs(1);

/// How a drain is shown while it goes on: a picture that moves on a terminal, a line for every
/// change elsewhere, a document for every change to a program.
#[derive(Debug)]
pub(super) struct View {
    style: Style,
    last: Option<(NodeDrain, Instant)>,
}

#[derive(Debug)]
enum Style {
    Json,
    Lines {
        said: Option<Gist>,
        at: Option<Instant>,
    },
    /// How many lines the picture has now.
    Picture {
        lines: usize,
    },
}

/// What has to change for a new line.
type Gist = (String, NodeDrainCounts, Option<NodeDrainAttempt>);

impl View {
    pub(super) fn new(output: Output) -> Self {
        let style = if output.json {
            Style::Json
        } else if io::stdout().is_terminal() {
            Style::Picture { lines: 0 }
        } else {
            Style::Lines { said: None, at: None }
        };
        Self { style, last: None }
    }

    /// Shows what the node has just said.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(super) fn show(&mut self, document: NodeDrain) -> anyhow::Result<()> {
        match &mut self.style {
            Style::Json => say::answer(&serde_json::to_string(&document)?)?,
            Style::Lines { said, at } => {
                let gist = gist(&document);
                let due = at.is_none_or(|at| at.elapsed() >= LINE_PAUSE);
                if due && said.as_ref() != Some(&gist) {
                    say::answer(&text::line(&document, SystemTime::now()))?;
                    (*said, *at) = (Some(gist), Some(Instant::now()));
                }
            }
            Style::Picture { .. } => {}
        }
        self.last = Some((document, Instant::now()));
        self.draw()
    }

    /// The one document of a command that does not watch.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(super) fn last(self, document: &NodeDrain) -> anyhow::Result<()> {
        let text = match self.style {
            Style::Json => serde_json::to_string_pretty(document)?,
            Style::Lines { .. } | Style::Picture { .. } => {
                text::block(document, SystemTime::now(), Duration::ZERO)
            }
        };
        Ok(say::answer(&text)?)
    }

    /// When to call [`View::refresh`].
    ///
    /// Cancel safety: yes.
    pub(super) async fn tick(&self) {
        tokio::time::sleep(REFRESH).await;
    }

    /// Shows what time alone has changed, and the change a line was too early for.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(super) fn refresh(&mut self) -> anyhow::Result<()> {
        if let (Style::Lines { said, at }, Some((document, _))) = (&mut self.style, &self.last) {
            let gist = gist(document);
            if said.as_ref() != Some(&gist) {
                say::answer(&text::line(document, SystemTime::now()))?;
                (*said, *at) = (Some(gist), Some(Instant::now()));
            }
        }
        self.draw()
    }

    fn draw(&mut self) -> anyhow::Result<()> {
        let (Style::Picture { lines }, Some((document, received))) = (&mut self.style, &self.last)
        else {
            return Ok(());
        };
        let size = rustix::termios::tcgetwinsize(io::stdout());
        // A terminal that nobody has told its size says 0.
        let width = size.map(|size| size.ws_col).ok().filter(|width| *width > 0).unwrap_or(80);
        let picture = text::block(document, SystemTime::now(), received.elapsed());
        // A line that wraps would be two, and the way back up would be wrong.
        let cut = |line: &str| line.chars().take(usize::from(width)).collect::<String>();
        let picture: Vec<String> = picture.lines().map(cut).collect();
        let back = if *lines == 0 { String::new() } else { format!("\x1b[{lines}A\r\x1b[J") };
        *lines = picture.len();
        Ok(say::answer(&format!("{back}{}", picture.join("\n")))?)
    }

    /// Says something that stays, below what was shown.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(super) fn remark(&mut self, what: &str) -> anyhow::Result<()> {
        match &mut self.style {
            // Standard output has documents only.
            Style::Json => say::remark(what),
            Style::Lines { .. } => say::answer(what)?,
            Style::Picture { lines } => {
                *lines = 0;
                say::answer(what)?;
            }
        }
        Ok(())
    }
}

fn gist(document: &NodeDrain) -> Gist {
    (document.phase.clone(), document.counts, document.attempt.clone())
}
