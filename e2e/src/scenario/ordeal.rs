//! One or two troubles at a time, how long they last, and that they end whatever happens.

use std::{fmt, time::Duration};

use anyhow::{Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    fault::another_leads,
    trouble::{Ground, Prepared, Trouble},
    wait::say,
};

/// What goes wrong, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordeal {
    /// In this order.
    pub troubles: Vec<Trouble>,
    /// From one to the next.
    pub stagger: Duration,
    /// When they end.
    pub until: Until,
}

/// When troubles end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// So long after the last one began.
    Passed(Duration),
    /// So long after another instance has taken over: whoever led may go on trying meanwhile.
    AnotherLeads(Duration),
}

impl Ordeal {
    /// One trouble.
    pub fn of(trouble: Trouble, until: Until) -> Self {
        Self { troubles: vec![trouble], stagger: Duration::ZERO, until }
    }

    /// From before the first trouble until after the last: whatever began is ended, also if something else could not
    /// begin, or if somebody wants to stop.
    pub async fn undergo(&self, ground: &Ground) -> Result<()> {
        // Found while everything can still be asked.
        let mut prepared = Vec::new();
        for trouble in &self.troubles {
            prepared.push(trouble.prepare(ground).await?);
        }
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut begun = Vec::new();
        let course = tokio::select! {
            course = self.take_its_course(ground, &prepared, &mut begun) => course,
            _ = interrupt.recv() => Err(anyhow!("interrupted")),
            _ = terminate.recv() => Err(anyhow!("terminated")),
        };
        let mut ended = Ok(());
        for trouble in begun.into_iter().rev() {
            ended = ended.and(trouble.end(ground).await);
        }
        course.and(ended)
    }

    async fn take_its_course<'a>(
        &self,
        ground: &Ground,
        prepared: &'a [Prepared],
        begun: &mut Vec<&'a Prepared>,
    ) -> Result<()> {
        let before = ground.database.primary().await?;
        for (index, trouble) in prepared.iter().enumerate() {
            if index > 0 {
                tokio::time::sleep(self.stagger).await;
            }
            begun.push(trouble);
            match trouble.begin(ground).await {
                // What the first one led to may have ended what the second one would hit.
                Err(error) if index > 0 => say(&format!("{error:#}")),
                done => done?,
            }
        }
        let longer = match self.until {
            Until::Passed(time) => time,
            Until::AnotherLeads(time) => {
                another_leads(&ground.database, &before).await?;
                time
            }
        };
        tokio::time::sleep(longer).await;
        Ok(())
    }
}

impl fmt::Display for Ordeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, trouble) in self.troubles.iter().enumerate() {
            match index {
                0 => write!(f, "{trouble}")?,
                _ => write!(f, "; {:.1} s later {trouble}", self.stagger.as_secs_f64())?,
            }
        }
        match self.until {
            Until::Passed(time) => write!(f, "; for {} s", time.as_secs()),
            Until::AnotherLeads(time) => write!(f, "; until {} s after another leads", time.as_secs()),
        }
    }
}
