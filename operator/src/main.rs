//! The operator: shapes each `Database`.

mod authority;
mod build;
mod cluster;
mod deadline;
mod digest;
mod http;
mod leader;
mod metrics;

fn main() -> anyhow::Result<()> {
    anyhow::bail!("no subcommand yet")
}
