//! The `pavane` binary: parse, run, exit. Everything else is in the library beside it.

use std::process::ExitCode;

use clap::Parser;
use pavane::cli::Cli;
use pavane_core::expression::Counting;

/// It counts what an expression holds, so that one can be stopped before it holds too much.
#[global_allocator]
static ALLOCATOR: Counting<mimalloc::MiMalloc> = Counting(mimalloc::MiMalloc);

fn main() -> ExitCode {
    Cli::parse().execute()
}
