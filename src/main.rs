//! The `lakehouse` command: hands the command line to `cli` and ends with its status.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lakehouse::cli::main()
}
