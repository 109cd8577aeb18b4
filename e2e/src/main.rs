//! `lab`: the command that people and CI use to drive the local Kubernetes.

mod fault_command;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use e2e::bench;
use e2e::chaos;
use e2e::csi::serve::{self, Setup};
use e2e::demo;
use e2e::figures;
use e2e::images;
use e2e::lab::Lab;
use e2e::suite;

/// A real Kubernetes with three nodes on this machine, and faults for it.
#[derive(Parser)]
#[command(name = "lab", version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Makes the lab, or starts what has ended of it; prints the path of its kubeconfig
    Up,
    /// Removes the lab and everything in it
    Down,
    /// Says what runs; fails if something does not
    Status,
    /// Imports images on every node
    LoadImage {
        /// agent, operator, tools, s3, a PostgreSQL version such as 16.13 or 16, or the path of an archive
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Shows a Database that survives the death of its primary
    Demo,
    /// Measures times, memory and image sizes against their targets
    Bench(bench::Options),
    /// Breaks a Database in ways drawn from a seed, again and again, and checks what clients saw
    Chaos(chaos::Options),
    /// Measures how long writes stop in each fault, and where the time goes
    Figures(figures::Options),
    /// Runs every check and test; brings the lab up and takes it down where there was none
    Test(suite::Options),
    /// Starts a shell with kubectl in PATH and KUBECONFIG set
    Shell,
    /// Runs kubectl against the lab
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Breaks something, or repairs it
    Fault {
        #[command(subcommand)]
        fault: fault_command::Fault,
    },
    /// Serves the lab's volumes; started by `up`
    #[command(hide = true)]
    CsiDriver {
        /// The folder of volumes and snapshots
        #[arg(long)]
        folder: PathBuf,
        /// The socket for the sidecars
        #[arg(long)]
        controller: PathBuf,
        /// A node and the root folder of its kubelet: `node1=/path`
        #[arg(long = "kubelet", value_parser = kubelet)]
        kubelets: Vec<(String, PathBuf)>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match act(Arguments::parse().action).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn act(action: Action) -> Result<()> {
    match action {
        Action::Up => up().await,
        Action::Down => Lab::down().await,
        Action::Status => status().await,
        Action::LoadImage { images } => load_images(&images).await,
        Action::Demo => demo::run().await,
        Action::Chaos(options) => chaos::run(&options).await,
        Action::Figures(options) => figures::run(&options).await,
        Action::Bench(options) => bench::run(&options).await,
        Action::Test(options) => test(options).await,
        Action::Shell => shell().await,
        Action::Kubectl { arguments } => kubectl(&arguments).await,
        Action::CsiDriver { folder, controller, kubelets } => {
            tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
            Ok(serve::run(Setup { folder, controller, kubelets: kubelets.into_iter().collect() }).await?)
        }
        Action::Fault { fault } => fault.act(&Lab::attach().await?).await,
    }
}

fn kubelet(argument: &str) -> Result<(String, PathBuf), String> {
    let (node, folder) = argument.split_once('=').ok_or("not of the form node=folder")?;
    Ok((node.to_owned(), folder.into()))
}

async fn up() -> Result<()> {
    let start = Instant::now();
    let lab = Lab::up().await?;
    eprintln!("lab: up after {:.1} s; its kubeconfig:", start.elapsed().as_secs_f32());
    println!("{}", lab.kubeconfig().display());
    Ok(())
}

async fn status() -> Result<()> {
    let status = Lab::status().await?;
    println!("{status}");
    if !status.is_whole() {
        bail!("not everything runs: `cargo lab up` starts what has ended");
    }
    Ok(())
}

async fn load_images(names: &[String]) -> Result<()> {
    let lab = Lab::attach().await?;
    let (archives, names): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|name| Path::new(name).is_file());
    for archive in archives {
        lab.load_image(Path::new(archive)).await?;
    }
    let names: Vec<images::Name> = names.iter().map(|name| name.parse()).collect::<Result<_>>()?;
    images::ensure(&lab, &names).await
}

/// Ends the process itself: its last line is the result, which an error message would follow.
async fn test(options: suite::Options) -> Result<()> {
    match suite::run(options).await? {
        true => Ok(()),
        false => std::process::exit(1),
    }
}

async fn shell() -> Result<()> {
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
    replace_by(&Lab::attach().await?, Command::new(shell))
}

async fn kubectl(arguments: &[String]) -> Result<()> {
    let lab = Lab::attach().await?;
    let mut kubectl = Command::new(lab.programs().join("kubectl"));
    kubectl.args(arguments);
    replace_by(&lab, kubectl)
}

/// Becomes another program, in the lab's environment.
fn replace_by(lab: &Lab, mut command: Command) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(lab.programs().to_owned()).chain(std::env::split_paths(&path));
    command.env("KUBECONFIG", lab.kubeconfig()).env("PATH", std::env::join_paths(folders)?);
    Err(command.exec()).with_context(|| format!("cannot run {}", command.get_program().display()))
}
