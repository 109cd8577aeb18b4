//! The operator: shapes each `Database`.

fn main() -> anyhow::Result<()> {
    anyhow::bail!("no subcommand yet")
}
