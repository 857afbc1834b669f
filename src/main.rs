//! Reads the command line, starts the runtime, runs the command, and ends with an exit code.

use std::process::ExitCode;

use vault_sync_operator::cli::{self, Command, Config, Surroundings};
use vault_sync_operator::cmd;
use vault_sync_operator::run::{self, Duty};

fn main() -> ExitCode {
    let (command, config) = match cli::parse(std::env::args_os(), &Surroundings::of_process()) {
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
        Ok(runtime) => match runtime.block_on(carry_out(command, config)) {
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

async fn carry_out(command: Command, config: Config) -> Result<(), run::Error> {
    match command {
        Command::Run => run::run(config, Duty::Sync).await,
        Command::Release(release) => cmd::release(config, &release).await,
        Command::Doctor(doctor) => cmd::doctor(config, &doctor).await,
    }
}
