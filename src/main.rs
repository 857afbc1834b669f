//! Reads the command line, starts the runtime, runs, and ends with an exit code.

use std::process::ExitCode;

use vault_sync_operator::cli::{self, Command, Surroundings};
use vault_sync_operator::run;

fn main() -> ExitCode {
    let (Command::Run, config) = match cli::parse(std::env::args_os(), &Surroundings::of_process()) {
        Ok(parsed) => parsed,
        Err(exit) => return exit.report().into(),
    };
    config.logs.clone().install();
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::error!("another TLS provider is installed already, which is a bug");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.runtime.max_procs)
        .enable_all()
        .build();
    match runtime {
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            ExitCode::FAILURE
        }
        Ok(runtime) => match runtime.block_on(run::run(config)) {
            Ok(()) => {
                tracing::info!("stopped");
                ExitCode::SUCCESS
            }
            Err(error) => {
                tracing::error!(%error, "stopped");
                ExitCode::FAILURE
            }
        },
    }
}
