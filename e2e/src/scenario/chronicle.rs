//! What the members say that they saw and did, on the test's own clock.

use std::time::{Duration, Instant};

use anyhow::Result;
use proto::wire::chronicle::{Chronicle, TIMELINE_PATH, Topic};

use super::{
    database::{Database, Identity, Pod},
    peer::Peer,
    wait,
};

/// On a machine so busy that it may take several attempts.
const PATIENCE: Duration = Duration::from_secs(30);

/// Something that a member saw or did.
#[derive(Clone, Debug)]
pub struct Happened {
    /// When.
    pub at: Instant,
    /// Who tells it.
    pub pod: String,
    /// About what.
    pub topic: Topic,
    /// A phrase.
    pub what: String,
}

/// All that the members remember.
pub async fn told(database: &Database) -> Result<Vec<Happened>> {
    let identity = database.identity().await?;
    let mut all = Vec::new();
    for pod in database.pods().await? {
        let what = format!("the account of {}", pod.name);
        let ask = async || ask(database, &identity, &pod).await;
        all.extend(wait::until(&what, PATIENCE, ask).await?.0);
    }
    Ok(all)
}

async fn ask(database: &Database, identity: &Identity, pod: &Pod) -> Result<Vec<Happened>> {
    let answer = Peer::of(database, identity, pod)?.get(TIMELINE_PATH).send().await?;
    let chronicle: Chronicle = answer.error_for_status()?.json().await?;
    let received = Instant::now();
    let happened = chronicle.moments.into_iter().filter_map(|moment| {
        // What happened before this machine started has no place on its clock, and is not asked for.
        let at = received.checked_sub(Duration::from_micros(moment.age_us))?;
        Some(Happened { at, pod: chronicle.pod.clone(), topic: moment.topic, what: moment.what })
    });
    Ok(happened.collect())
}
