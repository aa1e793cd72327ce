//! Signatures that the command line calls; the daemon itself takes this file's place.

use crate::config::Config;

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting or running on.
pub fn run(config: Config) -> anyhow::Result<()> {
    anyhow::bail!("no daemon is part of this build ({})", config.server.listen)
}

/// Rebuilds the journal of an empty data directory from the archive in a bucket: one of the
/// configuration, or a directory.
///
/// # Errors
/// What keeps it from being rebuilt.
pub fn restore(config: &Config, from: &str) -> anyhow::Result<String> {
    anyhow::bail!(
        "no daemon is part of this build ({from}, {})",
        config.data_dir.display()
    )
}
