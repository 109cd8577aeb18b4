//! Values of `synchronous_standby_names` (ha.md sections 1 and 10).

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::identity::DataId;

/// What a primary waits for before it acknowledges.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SyncNames {
    /// Commits wait for nobody.
    Off,
    /// Commits wait for ever: how everything starts, and the step between "off" and a real list.
    Closed,
    /// Commits wait for `k` of `standbys`.
    Any {
        /// How many.
        k: u8,
        /// Of whom, by `application_name`.
        standbys: BTreeSet<DataId>,
    },
}

impl SyncNames {
    /// `k` of `standbys`; [`SyncNames::Closed`] if there are none, since PostgreSQL has no other way to say it.
    pub fn any(k: u8, standbys: &BTreeSet<DataId>) -> Self {
        match standbys.is_empty() {
            true => Self::Closed,
            false => Self::Any { k, standbys: standbys.clone() },
        }
    }

    /// What a server shows, if it is one of ours.
    pub fn shown(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::Off);
        }
        if text == NOBODY {
            return Some(Self::Closed);
        }
        let (k, list) = text.strip_prefix("ANY ")?.strip_suffix(')')?.split_once(" (")?;
        let id = |name: &str| name.strip_prefix('"')?.strip_suffix('"')?.parse().ok();
        let standbys = list.split(", ").map(id).collect::<Option<_>>()?;
        Some(Self::Any { k: k.parse().ok()?, standbys })
    }

    /// For [`crate::wire::supervisor::ServerConfig::synchronous_standby_names`], where `None` is closed.
    pub fn setting(&self) -> Option<String> {
        (*self != Self::Closed).then(|| self.to_string())
    }
}

/// A name that no member bears: a data id is never a single dash.
const NOBODY: &str = "ANY 1 (\"-\")";

impl fmt::Display for SyncNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => Ok(()),
            Self::Closed => f.write_str(NOBODY),
            Self::Any { k, standbys } => {
                let names: Vec<_> = standbys.iter().map(|id| format!("\"{id}\"")).collect();
                write!(f, "ANY {k} ({})", names.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_as_postgresql_reads_it() {
        let two = BTreeSet::from([DataId(1), DataId(2)]);
        assert_eq!(
            SyncNames::any(1, &two).to_string(),
            "ANY 1 (\"d0000000000000001\", \"d0000000000000002\")"
        );
        assert_eq!(SyncNames::Off.setting().as_deref(), Some(""));
        assert_eq!(SyncNames::Closed.setting(), None);
        assert_eq!(SyncNames::any(1, &BTreeSet::new()), SyncNames::Closed);
    }

    #[test]
    fn what_a_server_shows_is_recognised_if_it_is_ours() {
        let two = SyncNames::any(2, &BTreeSet::from([DataId(1), DataId(2)]));
        for names in [SyncNames::Off, SyncNames::Closed, two] {
            assert_eq!(SyncNames::shown(&names.to_string()), Some(names));
        }
        for foreign in ["*", "FIRST 1 (a)", "ANY 1 (\"a b\")", "ANY x (\"d0000000000000001\")", "ANY 1 ("] {
            assert_eq!(SyncNames::shown(foreign), None, "{foreign}");
        }
    }
}
