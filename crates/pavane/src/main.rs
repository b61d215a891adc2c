//! The `pavane` binary: parse, run, exit. Everything else is in the library beside it.

use std::process::ExitCode;

use clap::Parser;
use pavane::cli::Cli;
use pavane_core::expression::Counting;

/// It counts what an expression holds, so that one can be stopped before it holds too much.
#[global_allocator]
static ALLOCATOR: Counting<mimalloc::MiMalloc> = Counting(mimalloc::MiMalloc);

/// Threads for what blocks: reads of the store, of which four run at a time, and looking up names, which may hang. Each costs
/// some megabytes of the allocator's, and they come and go with the load.
const BLOCKING_THREADS: usize = 64;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.init_tracing();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cli.threads())
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(cli.run());
            // A thread that still reads the store must not hold the exit up.
            runtime.shutdown_timeout(std::time::Duration::from_millis(500));
            code
        }
        Err(error) => {
            eprintln!("error: the runtime cannot be started: {error}");
            ExitCode::from(1)
        }
    }
}
