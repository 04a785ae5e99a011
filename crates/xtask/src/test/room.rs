//! Whether there is room for what the tests build: a disk that fills up in the middle fails in places
//! that say nothing of it.

use std::process::Command;

use crate::failure::{Failure, Result};
use crate::{command, paths};

/// A build of everything from nothing, with what the tests write: 5 GiB, and a reserve.
const WHOLE_MIB: u64 = 7 * 1024;
/// What tests write, and what is built anew after a change.
const AGAIN_MIB: u64 = 2 * 1024;

/// # Errors
/// When there is not. Where nobody can say, there is.
pub(super) fn check() -> Result<()> {
    let built = paths::release().join("cofferdam").is_file();
    let needed = if built { AGAIN_MIB } else { WHOLE_MIB };
    let mut ask = Command::new("df");
    let said = command::answer(ask.args(["--output=avail", "-BM"]).arg(paths::root()));
    let free = said.as_deref().and_then(mebibytes);
    match free.filter(|free| *free < needed) {
        None => Ok(()),
        Some(free) => Err(Failure::new(format!(
            "{free} MiB are free on the disk of {}, and the tests need {needed}; `cargo clean` frees \
             what older builds have left",
            paths::root().display()
        ))),
    }
}

/// The number in what `df` says, below its heading.
fn mebibytes(said: &str) -> Option<u64> {
    said.lines().last()?.trim().strip_suffix('M')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::mebibytes;

    #[test]
    fn what_df_says_is_understood_or_left_alone() {
        assert_eq!(mebibytes(" Avail\n  5321M\n"), Some(5321));
        for odd in ["", "Avail", "Avail\n-\n", "df: no such file"] {
            assert_eq!(mebibytes(odd), None, "{odd:?}");
        }
    }
}
