//! `lab`: the command that people and CI use to drive the local Kubernetes.

fn main() -> anyhow::Result<()> {
    anyhow::bail!("no subcommand yet")
}
