//! The agent: one static binary in every database pod, in three parts (docs/ha.md section 1).
//!
//! | subcommand | runs in | does |
//! |---|---|---|
//! | `install` | init container | puts the binary where both containers reach it |
//! | `supervise` | PID 1 of `postgres` | owns every `PostgreSQL` process and enforces the fence |
//! | `timeline` | `kubectl exec` | shows what all members saw and did |
//! | `run` | native sidecar | lease, elections, labels, HTTP, archive; tells the supervisor what to do |
//! | `restore` | init container of the PostgreSQL image | fills an empty volume from a repository |
//! | `drill` | Job of the restore drills, PostgreSQL image | proves that a repository restores |
//! | `standby` | Job of a new instance, PostgreSQL image | makes a standby's data of a VolumeSnapshot |
//! | `wal` | PostgreSQL's `archive_command` | hands a WAL file to the sidecar |
//! | `request-backup` | Job of the schedule | makes a `Backup` and waits for its end |

mod archive;
mod backup;
mod boot_clock;
mod chain;
mod chronicle;
mod cluster;
mod driver;
mod environment;
mod http;
mod install;
mod journal;
mod lease;
mod link;
mod metrics;
mod passwords;
mod peer;
mod pods;
mod published;
mod request_backup;
mod restore;
mod run;
mod serving;
mod settings;
mod spare;
mod sql;
mod supervisor;
mod tls;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "Runs beside every PostgreSQL of a Database")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Copy this binary to where both containers mount it
    Install {
        /// Where to
        #[arg(default_value = proto::pod::INSTALLED_AGENT)]
        target: PathBuf,
    },
    /// Own PostgreSQL as PID 1 of its container
    Supervise(supervisor::Layout),
    /// Started by `supervise`: enforces the same fence from a second process
    #[command(hide = true)]
    Twin,
    /// Show what all members saw and did, in the order of time
    Timeline(chronicle::command::Options),
    /// Make a Backup and wait for its end
    RequestBackup,
    /// Run the sidecar: lease, elections, labels, HTTP, archive
    Run,
    /// Make an empty volume what a backup and the archive say, before PostgreSQL starts
    Restore(restore::RestoreArguments),
    /// Prove a restore: the same into a volume that is thrown away, with every table read
    Drill(restore::drill::DrillArguments),
    /// Make a standby's data of what a VolumeSnapshot of the same Database brought
    Standby(restore::RestoreArguments),
    /// What PostgreSQL runs to archive a WAL file, and to get one back
    #[command(subcommand)]
    Wal(archive::command::WalCommand),
}

/// Renewals must not wait behind a handshake or a scrape; more threads would only cost memory.
const WORKER_THREADS: usize = 2;
/// Only name lookups and reads of small files block; each thread costs a stack.
const BLOCKING_THREADS: usize = 4;

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Wal(command) => return Ok(command.run()),
        Command::Install { target } => install::install(&target).context("installing the agent"),
        Command::Run => {
            log_to_stderr();
            block_on(run::run())
        }
        Command::Timeline(options) => block_on(chronicle::command::run(&options)),
        Command::Restore(arguments) => {
            log_to_stderr();
            with_all_threads(restore::run(arguments))
        }
        Command::Drill(arguments) => {
            log_to_stderr();
            with_all_threads(restore::drill::run(arguments))
        }
        Command::Standby(arguments) => {
            log_to_stderr();
            with_all_threads(restore::standby::run(arguments))
        }
        Command::RequestBackup => {
            log_to_stderr();
            request_backup()
        }
        Command::Supervise(layout) => {
            log_to_stderr();
            supervisor::run(layout)
        }
        Command::Twin => supervisor::twin::run().context("enforcing the fence"),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn install_tls() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was installed twice"))
}

fn block_on(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    install_tls()?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(task)
}

fn with_all_threads(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    install_tls()?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(task)
}

fn request_backup() -> anyhow::Result<()> {
    install_tls()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(request_backup::run())
}

/// Lines of JSON on standard error; `RUST_LOG` chooses what.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    // These libraries log what they also return as errors, which are logged here once, with what it means.
    let filter = ["kube_client=off", "tokio_postgres=warn"]
        .into_iter()
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, tracing_subscriber::EnvFilter::add_directive);
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
}
