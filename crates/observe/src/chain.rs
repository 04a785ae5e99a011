use std::error::Error;
use std::fmt;

/// Prints an error with all its causes, `a: b: c`.
#[derive(Debug)]
pub struct Chain<'a>(&'a dyn Error);

/// The whole chain of `error`, for logs and for people; never for another tenant.
#[must_use]
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> Chain<'a> {
    Chain(error)
}

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::chain;

    #[derive(Debug, thiserror::Error)]
    #[error("make the slot")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn every_cause_is_printed_once() {
        let error = Outer(std::io::Error::other("no room"));
        assert_eq!(chain(&error).to_string(), "make the slot: no room");
    }
}
