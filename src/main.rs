//! The `lakehouse` command.
fn main() {}
