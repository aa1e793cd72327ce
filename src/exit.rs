//! How a process of ours ends: the exit codes that a service manager tells apart.
//! The daemon returns an [`Exit`] as its error where the code matters; `main` turns it into the status.

/// Something failed; the text on standard error says what.
pub const ERROR: u8 = 1;
/// The command line or the configuration is wrong.
pub const USAGE: u8 = 2;
/// The journal made no progress for too long; a new process recovers it.
pub const STUCK_JOURNAL: u8 = 70;
/// Another process holds the data directory.
pub const HELD: u8 = 73;
/// What is missing may come back (a full disk); try again later.
pub const TEMPORARY: u8 = 75;

/// An end with a code of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Exit {
    /// The exit status.
    pub code: u8,
    /// Why, for a person.
    pub message: String,
}

impl Exit {
    /// An end with this status and reason.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The status for an error: that of the [`Exit`] in its chain, else [`ERROR`].
    pub fn code_of(error: &(dyn std::error::Error + 'static)) -> u8 {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(exit) = error.downcast_ref::<Self>() {
                return exit.code;
            }
            cause = error.source();
        }
        ERROR
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_status_is_found_beneath_what_was_said_about_it() {
        let held = || Err::<(), _>(Exit::new(HELD, "process 12 holds it"));
        let error = held().context("cannot start").expect_err("it is an error");
        assert_eq!(Exit::code_of(error.as_ref()), HELD);
        assert_eq!(Exit::code_of(anyhow::anyhow!("another").as_ref()), ERROR);
    }
}
