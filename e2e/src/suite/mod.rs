//! The test command, `cargo lab test`: everything that must be true before a change is merged.
//!
//! Its last line is `N passed, N failed` (with `, N skipped` where something could not run here) and its
//! exit code says the same. A lab that it brought up it takes down, however it ends.

mod cluster;
mod libtest;
mod lint;
mod step;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

pub use self::libtest::{SKIPPED, Tally};
use crate::cargo::cargo;
use crate::images;
use crate::lab::packages::{self, Package};

/// The whole run: CI ends it at 90 minutes without a word, so it must say itself what hangs.
const OVERALL_LIMIT: Duration = Duration::from_mins(86);
/// Compiles everything for tests, on a clean machine, and runs some hundred tests and the model checker.
const UNIT_LIMIT: Duration = Duration::from_mins(30);
/// The packages that have unit tests: that one ran none is a failure.
const UNIT_TESTED: &[&str] = &["agent", "e2e", "operator", "proto"];

/// The test binaries that start a PostgreSQL server on this machine.
const SERVER_TESTED: &[&str] = &["supervisor"];
/// Their server, of whatever version the distribution has.
const SERVER: &[Package] = &[
    Package { name: "postgresql", provides: "/usr/lib/postgresql" },
    // What is encrypted is decrypted by hand with it.
    Package { name: "age", provides: "/usr/bin/age" },
    Package { name: "zstd", provides: "/usr/bin/zstd" },
];
/// For what the distribution's may be too old for: incremental backups. The lab's test of them has another version.
const NEWER_SERVER: &str = "18";
/// Some twenty tests that start and stop servers.
const SERVER_LIMIT: Duration = Duration::from_mins(15);

/// What to run.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Only this part
    #[arg(long)]
    only: Option<Part>,
    /// Only tests whose names contain this
    #[arg(long)]
    filter: Option<String>,
}

/// A part of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Formatting, lints, dependencies, generated files, documentation
    Lint,
    /// Tests without a cluster: of the code alone, and of the agent with a PostgreSQL server
    Unit,
    /// Tests on a real cluster: the lab, or that of KUBECONFIG
    Cluster,
}

/// Runs it all, prints the final line and says whether everything passed.
pub async fn run(options: Options) -> Result<bool> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut run =
        Run { options, program, tally: Tally::default(), problems: Vec::new(), skips: Vec::new(), lab: None };
    if let Err(reason) = run.until_stopped().await {
        run.failed(&format!("{reason:#}"));
    }
    run.finish_cluster().await;
    run.print_summary();
    Ok(run.tally.failed == 0 && run.tally.passed > 0)
}

struct Run {
    options: Options,
    /// Where this program lies. Asked before the tests are compiled: that replaces its file, and then the
    /// kernel no longer knows the path.
    program: PathBuf,
    tally: Tally,
    problems: Vec<String>,
    skips: Vec<String>,
    /// The lab that this run brought up, or began to.
    lab: Option<cluster::BroughtUp>,
}

impl Run {
    /// Runs all parts; the error is why it ended before they did.
    async fn until_stopped(&mut self) -> Result<()> {
        let mut terminated = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
        let mut interrupted = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
        tokio::select! {
            finished = self.parts() => finished,
            () = tokio::time::sleep(OVERALL_LIMIT) => bail!("the whole run did not end in {OVERALL_LIMIT:?}"),
            _ = terminated.recv() => bail!("ended by SIGTERM"),
            _ = interrupted.recv() => bail!("ended by SIGINT"),
        }
    }

    async fn parts(&mut self) -> Result<()> {
        if self.wants(Part::Lint) && self.options.filter.is_none() {
            self.lint().await?;
        }
        if self.wants(Part::Unit) {
            self.unit_tests().await?;
            self.server_tests().await?;
        }
        if self.wants(Part::Cluster) {
            self.cluster().await?;
        }
        Ok(())
    }

    fn wants(&self, part: Part) -> bool {
        self.options.only.is_none_or(|only| only == part)
    }

    async fn unit_tests(&mut self) -> Result<()> {
        packages::ensure(&[packages::XFS]).await?;
        let mut command = cargo();
        command.args(["test", "--workspace", "--locked", "--no-fail-fast", "--"]);
        command.args(&self.options.filter);
        self.tests("unit tests", command, UNIT_LIMIT, UNIT_TESTED).await.map(drop)
    }

    /// The supervisor with Debian's PostgreSQL, and what only newer ones can; cluster tests have the images of all
    /// versions.
    async fn server_tests(&mut self) -> Result<()> {
        packages::ensure(SERVER).await?;
        // Not in the cache: servers run as a user who may not look into anybody's home.
        let newer = tempfile::Builder::new()
            .prefix("postgresql-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir()?;
        let newer_programs = images::unpack_postgres(NEWER_SERVER.parse()?, newer.path()).await?;
        let mut command = cargo();
        command.env("POSTGRES_17_BIN_DIRS", newer_programs);
        command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
        command.args(SERVER_TESTED.iter().map(|name| format!("--test={name}")));
        command.arg("--bin=agent"); // archive, backup and restore, by their parts
        command.args(["--", "--ignored"]).args(&self.options.filter);
        self.tests("tests with a PostgreSQL server", command, SERVER_LIMIT, SERVER_TESTED).await.map(drop)
    }

    /// A step that passes or fails as a whole.
    async fn check(&mut self, name: &str, command: Command, limit: Duration) -> Result<bool> {
        let end = step::run(name, command, limit, |_| {}).await?;
        match end.is_success() {
            true => self.tally.passed += 1,
            false => self.failed(&format!("{name}: {end}")),
        }
        Ok(end.is_success())
    }

    /// A step whose tests count, each of the `expected` binaries running at least one.
    async fn tests(
        &mut self,
        name: &str,
        command: Command,
        limit: Duration,
        expected: &[impl AsRef<str>],
    ) -> Result<bool> {
        let mut reader = libtest::Reader::default();
        let end = step::run(name, command, limit, |line| reader.line(line)).await?;
        let all = self.options.filter.is_none();
        let expected: Vec<String> =
            expected.iter().filter(|_| all).map(|name| name.as_ref().to_owned()).collect();
        let outcome = reader.finish(&expected);
        let good = end.is_success() && outcome.tally.failed == 0;
        if !good && outcome.tally.failed == 0 {
            self.failed(&format!("{name}: {end}"));
        }
        self.tally += outcome.tally;
        self.problems.extend(outcome.problems);
        self.skips.extend(outcome.skips);
        Ok(good)
    }

    fn failed(&mut self, reason: &str) {
        self.tally.failed += 1;
        self.problems.push(reason.to_owned());
    }

    fn skipped(&mut self, reason: String) {
        println!("-- {SKIPPED}{reason}");
        self.tally.skipped += 1;
        self.skips.push(reason);
    }

    fn print_summary(&self) {
        println!("\n== summary");
        self.skips.iter().for_each(|reason| println!("skipped: {reason}"));
        self.problems.iter().for_each(|problem| println!("failed: {problem}"));
        println!("{}", self.tally);
    }
}
