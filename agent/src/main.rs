//! The agent: one static binary beside every `PostgreSQL`.

fn main() -> anyhow::Result<()> {
    anyhow::bail!("no subcommand yet")
}
