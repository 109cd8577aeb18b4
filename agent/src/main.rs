//! The agent: one static binary in every database pod, in three parts (docs/ha.md section 1).
//!
//! | subcommand | runs in | does |
//! |---|---|---|
//! | `install` | init container | puts the binary where both containers reach it |
//! | `supervise` | PID 1 of `postgres` | owns every `PostgreSQL` process and enforces the fence |
//! | `run` | native sidecar | lease, elections, labels, HTTP; tells the supervisor what to do |

#[allow(dead_code)] // both parts that follow read it
mod boot_clock;
mod install;

use std::path::PathBuf;

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
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Install { target } => install::install(&target).context("installing the agent"),
    }
}
