//! One operation at a time on each volume and snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// Hands out turns by name. Sidecars and kubelets retry calls that they gave up on, so a second call for
/// the same volume can arrive while the first is still at work.
#[derive(Debug, Default)]
pub struct Turns {
    by_name: std::sync::Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
}

/// The right to work on what was asked for, until dropped.
#[derive(Debug)]
pub struct Turn {
    _held: Vec<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the turn on all of `names`. They are taken in order, so two callers cannot wait for each other.
    pub async fn take(&self, names: &[&str]) -> Turn {
        let mut held = Vec::new();
        for name in names.iter().collect::<BTreeSet<_>>() {
            held.push(self.lock_of(name).lock_owned().await);
        }
        Turn { _held: held }
    }

    /// The lock of `name`; those that nobody holds or waits for are forgotten on the way.
    fn lock_of(&self, name: &str) -> Arc<Mutex<()>> {
        let mut by_name = self.by_name.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        by_name.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(by_name.entry(name.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_same_name_waits_and_another_does_not() {
        let turns = Turns::default();
        let first = turns.take(&["b", "a", "a"]).await;
        let _other = turns.take(&["c"]).await;
        assert!(tokio::time::timeout(Duration::from_millis(20), turns.take(&["a"])).await.is_err());
        drop(first);
        let _second = turns.take(&["a", "b"]).await;
        assert_eq!(turns.by_name.lock().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn names_that_nobody_holds_are_forgotten() {
        let turns = Turns::default();
        for n in 0..100 {
            drop(turns.take(&[&n.to_string()]).await);
        }
        assert_eq!(turns.by_name.lock().unwrap().len(), 1);
    }
}
