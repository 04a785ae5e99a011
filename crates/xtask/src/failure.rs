//! The one error of this tool: what was tried, and the cause where there is one.

use std::error::Error;
use std::fmt;

/// What most functions here return.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// What could not be done, in words for the person at the terminal.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure that explains itself.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    /// A failure with a cause, as a closure for `map_err`.
    pub(crate) fn because<E>(what: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Error + Send + Sync + 'static,
    {
        let what = what.into();
        move |source| Self { what, source: Some(Box::new(source)) }
    }

    /// The failure and all its causes in one line.
    pub(crate) fn chain(&self) -> String {
        let mut line = self.what.clone();
        let mut cause = self.source();
        while let Some(err) = cause {
            line.push_str(": ");
            line.push_str(&err.to_string());
            cause = err.source();
        }
        line
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|err| err as &(dyn Error + 'static))
    }
}
