//! `lab chaos`: faults drawn from a seed, one step after the other, on a Database that clients write all the time.
//! After each step everything must be whole again within a bound and true; at the end all of it is checked once
//! more. A failure prints the seed, the step, and what the members did.

pub mod dice;
pub mod draw;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::draw::Step;
use crate::scenario::{
    load::{Load, Size},
    stage::Stage,
    trial::written,
    trouble::{Ground, INSTANCES, Manner, WHOLE_LIMIT},
    verdict,
    wait::say,
};

/// Cleared at the start.
const NAMESPACE: &str = "chaos";
/// Writes that show that the Database works, before the next step.
const WRITES: usize = 50;

/// What to draw.
#[derive(Args, Debug)]
pub struct Options {
    /// What the faults are drawn from; another one each time unless it is given
    #[arg(long)]
    seed: Option<u64>,
    /// Begin no step after so many minutes
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Leave out the steps before this one: a step that failed can be tried by itself
    #[arg(long, default_value_t = 1)]
    from_step: usize,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    manner: Manner,
}

/// Runs it.
pub async fn run(options: &Options) -> Result<()> {
    let seed =
        options.seed.unwrap_or_else(|| jiff::Timestamp::now().as_microsecond().unsigned_abs() % 1_000_000);
    say(&format!("seed {seed}: cargo lab chaos --seed {seed} draws the same again"));
    if options.dry_run {
        draw::steps(seed).take(20).enumerate().for_each(|(index, step)| println!("{}: {step}", index + 1));
        return Ok(());
    }
    let ground = ground(options.manner).await?;
    let mut load = Load::start(&ground.database, Size::full(ground.lab.nodes())).await?;
    let end = Instant::now() + Duration::from_mins(options.minutes);
    let steps = draw::steps(seed).enumerate().skip(options.from_step - 1);
    let mut done = 0;
    for (index, step) in steps.take_while(|_| Instant::now() < end) {
        let number = index + 1;
        say(&format!("step {number}: {step}"));
        let took = round(&ground, &mut load, &step).await;
        if let Err(error) = took {
            show_what_happened(&ground).await;
            return Err(error).with_context(|| format!("seed {seed}, step {number}: {step}"));
        }
        done += 1;
    }
    ensure!(done > 0, "no step was made");
    let (work, _) = load.stop(&ground.database).await.with_context(|| format!("seed {seed}, at the end"))?;
    println!("seed {seed}: {done} steps in {} minutes: {work}", options.minutes);
    Ok(())
}

async fn ground(manner: Manner) -> Result<Ground> {
    let stage = Stage::with_operator().await?;
    stage.without(NAMESPACE).await?;
    Ground::prepare(stage, NAMESPACE, "stormy", manner).await
}

/// From whole to whole.
async fn round(ground: &Ground, load: &mut Load, step: &Step) -> Result<()> {
    tokio::time::sleep(step.rest).await;
    step.ordeal.undergo(ground).await?;
    let took = verdict::whole(&ground.database, INSTANCES, WHOLE_LIMIT).await?;
    written(load.writer(), load.writer().count() + WRITES).await?;
    let work = load.check(&ground.database).await?;
    say(&format!("whole after {:.1} s; {work}", took.as_secs_f64()));
    Ok(())
}

/// What a person on call would look at: the members' own account first.
async fn show_what_happened(ground: &Ground) {
    let pods: Vec<String> =
        (0..INSTANCES).map(|ordinal| format!("{}-{ordinal}", ground.database.name)).collect();
    for pod in &pods {
        if show(ground, &["exec", pod, "-c", "agent", "--", "/agent", "timeline", "--last", "10m"]).await {
            break;
        }
    }
    show(ground, &["get", "db,pods", "--output=wide"]).await;
    show(ground, &["get", "events", "--sort-by=.lastTimestamp"]).await;
}

async fn show(ground: &Ground, arguments: &[&str]) -> bool {
    println!("\n$ kubectl -n {NAMESPACE} {}", arguments.join(" "));
    let shown = ground.database.kubectl(arguments).await;
    match &shown {
        Ok(output) => println!("{output}"),
        Err(error) => println!("{error:#}"),
    }
    shown.is_ok()
}
