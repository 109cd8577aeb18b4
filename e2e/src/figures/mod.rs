//! `lab figures`: each fault many times, and how long a writer could not write, beside the targets of docs/ha.md; and
//! how long it took to detect, to elect, to promote and to route. Nothing else should run on the machine.

mod page;
mod record;
mod stages;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Args;
use proto::ha::profile::Profile;

use self::record::Run;
use crate::{
    cargo::workspace,
    fault::partition::{Direction, From},
    scenario::{
        chronicle,
        database::Database,
        fault,
        load::Size,
        ordeal::{Ordeal, Until},
        stage::Stage,
        trial::{Report, survive_under},
        trouble::{Ground, INSTANCES, Manner, Trouble, WHOLE_LIMIT, Who, word},
        verdict,
        wait::say,
    },
};

/// Cleared at the start.
const NAMESPACE: &str = "figures";
/// A fault that nobody should notice lasts longer than the lease of the slowest profile measured.
const UNNOTICED: Until = Until::Passed(Duration::from_secs(15));
/// What ends by itself.
const MOMENT: Until = Until::Passed(Duration::from_secs(1));
/// A partition or a loss of power ends when another one leads.
const TAKEN_OVER: Until = Until::AnotherLeads(Duration::ZERO);
/// A writer waits for its answers, and then for a moment: an outage shorter than this is none.
const NONE: f64 = 0.25;

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Only faults whose name contains this
    #[arg(long, default_value = "")]
    fault: String,
    /// How often each; those already in the file count
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// `spec.failover.profile`
    #[arg(long, value_parser = word::<Profile>, default_value = "Standard")]
    profile: Profile,
    /// Where the results are kept
    #[arg(long, default_value_os_t = workspace().join("target/figures.jsonl"))]
    file: PathBuf,
    /// Measure nothing; print what is in the file, as markdown
    #[arg(long)]
    print: bool,
}

/// A fault with its targets of docs/ha.md section 11.
#[derive(Debug)]
struct Fault {
    name: &'static str,
    trouble: Trouble,
    until: Until,
    /// p50 and p99, in seconds, in `Standard`.
    targets: (f64, f64),
    /// Whether the lease has to expire: then `Fast` has targets of its own.
    expires: bool,
}

impl Fault {
    const fn new(name: &'static str, trouble: Trouble, until: Until, targets: (f64, f64)) -> Self {
        Self { name, trouble, until, targets, expires: false }
    }

    const fn expiring(name: &'static str, trouble: Trouble) -> Self {
        Self { name, trouble, until: TAKEN_OVER, targets: (10.7, 13.0), expires: true }
    }

    fn targets(&self, profile: &str) -> (f64, f64) {
        match (self.expires, profile) {
            (true, "Fast") => (6.7, 8.5),
            _ => self.targets,
        }
    }
}

const FAULTS: &[Fault] = &[
    Fault::new("postmaster killed", Trouble::PostmasterKilled(Who::Primary), MOMENT, (1.5, 4.0)),
    Fault::new("switchover", Trouble::Switchover, TAKEN_OVER, (1.0, 3.0)),
    Fault::new("pod deleted", Trouble::PodDeleted(Who::Primary), TAKEN_OVER, (1.0, 3.0)),
    Fault::new("container killed", Trouble::ContainerKilled(Who::Primary), MOMENT, (2.5, 6.0)),
    Fault::expiring("node lost", Trouble::NodeOff(Who::Primary)),
    Fault::expiring("primary cut off", Trouble::Cut(Who::Primary, From::All, Direction::Both)),
    Fault::new("volume hangs", Trouble::DiskHangs(Who::Primary), TAKEN_OVER, (9.0, 15.0)),
    Fault::new("agent killed", Trouble::AgentKilled(Who::Primary), UNNOTICED, (NONE, NONE)),
    Fault::new("API server down", Trouble::ApiDown, UNNOTICED, (NONE, NONE)),
    Fault::new("API server read-only", Trouble::ApiReadOnly, UNNOTICED, (NONE, NONE)),
    Fault::new(
        "API server away from the primary",
        Trouble::Cut(Who::Primary, From::Api, Direction::Both),
        UNNOTICED,
        (NONE, NONE),
    ),
    Fault::new("operator absent", Trouble::OperatorAbsent, UNNOTICED, (NONE, NONE)),
];

/// Measures what is not in the file yet, and prints all of it.
pub async fn run(options: &Options) -> Result<()> {
    let wanted = FAULTS.iter().filter(|fault| fault.name.contains(&options.fault));
    let wanted: Vec<&Fault> = wanted.collect();
    ensure!(!wanted.is_empty(), "no fault is called like {:?}", options.fault);
    if !options.print {
        measure(options, &wanted).await?;
    }
    println!("{}", page::page(&record::read(&options.file)?));
    Ok(())
}

async fn measure(options: &Options, wanted: &[&Fault]) -> Result<()> {
    let stage = Stage::with_operator().await?;
    stage.without(NAMESPACE).await?;
    let manner = Manner { profile: options.profile, ..Manner::default() };
    let ground = Ground::prepare(stage, NAMESPACE, "measured", manner).await?;
    let profile = format!("{:?}", options.profile);
    for fault in wanted {
        let same = |run: &Run| run.fault == fault.name && run.profile == profile;
        let done = record::read(&options.file)?.iter().filter(|run| same(run)).count();
        for number in done + 1..=options.runs {
            unworn(&ground.database).await?;
            let run = once(&ground, fault, &profile).await;
            let run = run.with_context(|| format!("{}, run {number}", fault.name))?;
            say(&format!("{} {number}/{}: {:.2} s, {:?}", fault.name, options.runs, run.outage, run.stages));
            record::add(&options.file, &run)?;
        }
    }
    Ok(())
}

/// Replaces the pods whose containers were restarted. The kubelet waits before each restart twice as long as before
/// the one before it: without this, the tenth run would measure the ninth as well.
async fn unworn(database: &Database) -> Result<()> {
    for worn in database.pods().await?.iter().filter(|pod| pod.restarts > 0) {
        database.delete_pod(worn).await?;
        fault::ended(database, worn, WHOLE_LIMIT).await?;
        verdict::whole(database, INSTANCES, WHOLE_LIMIT).await?;
    }
    Ok(())
}

async fn once(ground: &Ground, fault: &Fault, profile: &str) -> Result<Run> {
    let ordeal = Ordeal::of(fault.trouble, fault.until);
    let undergo = async || ordeal.undergo(ground).await;
    let report = survive_under(&ground.database, Size::LIGHT, INSTANCES, WHOLE_LIMIT, undergo).await?;
    let Report { outage, whole, moment, restored, leaders, .. } = report;
    let told = chronicle::told(&ground.database).await?;
    let stages = restored.and_then(|restored| stages::stages(moment, restored, &leaders.1, &told));
    Ok(Run {
        profile: profile.to_owned(),
        fault: fault.name.to_owned(),
        outage: outage.as_secs_f64(),
        whole: whole.as_secs_f64(),
        stages: stages.map(Into::into),
    })
}
