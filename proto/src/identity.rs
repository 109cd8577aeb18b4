//! Who is who in the HA protocol: members, data directories, supervisor runs, epochs (ha.md section 2).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The ordinal of a pod in its `StatefulSet`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ordinal(pub u8);

impl fmt::Display for Ordinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Term of leadership: `spec.leaseTransitions` of the Lease. Unique and growing (S3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch after this one; saturates, which no cluster can reach.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// A [`DataId`] is `d` and 16 lower-case hexadecimal digits.
    #[error("{0:?} is not a data id: expected 'd' and 16 hexadecimal digits")]
    DataId(String),
    /// A [`Holder`] is `<pod name>/<pod UID>/<supervisor run id>`.
    #[error("{0:?} is not a lease holder: expected <pod name>/<pod UID>/<supervisor run id>")]
    Holder(String),
}

/// Random name of one data directory, made by initdb or clone and kept beside PGDATA. It is the member's
/// `application_name` and its name in synchronous sets: a re-cloned member is somebody else (review S-3).
///
/// Text form: `d` and 16 hexadecimal digits, so that it needs no quoting in `synchronous_standby_names`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DataId(pub u64);

impl fmt::Display for DataId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{:016x}", self.0)
    }
}

impl FromStr for DataId {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix('d').filter(|digits| {
            digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        });
        digits
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| InvalidIdentity::DataId(text.to_owned()))
    }
}

impl TryFrom<String> for DataId {
    type Error = InvalidIdentity;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DataId> for String {
    fn from(id: DataId) -> Self {
        id.to_string()
    }
}

/// Random name of one run of the supervisor, that is of one life of the `postgres` container. An agent's
/// restart does not change it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub String);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `spec.holderIdentity` of the Lease: `<pod name>/<pod UID>/<supervisor run id>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Holder {
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod: a pod made again under the same name is another holder.
    pub pod_uid: String,
    /// Life of the `postgres` container.
    pub run: RunId,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.pod, self.pod_uid, self.run)
    }
}

impl FromStr for Holder {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split('/').collect::<Vec<_>>()[..] {
            [pod, uid, run] if ![pod, uid, run].contains(&"") => {
                Ok(Self { pod: pod.to_owned(), pod_uid: uid.to_owned(), run: RunId(run.to_owned()) })
            }
            _ => Err(InvalidIdentity::Holder(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Holder {
    type Error = InvalidIdentity;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Holder> for String {
    fn from(holder: Holder) -> Self {
        holder.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_id_round_trips() {
        let id = DataId(0xfeed);
        assert_eq!(id.to_string(), "d000000000000feed");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "d", "000000000000feed", "d00000000000FEED", "d000000000000feedd"] {
            assert!(text.parse::<DataId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn holder_round_trips() {
        let text = "orders-db-0/4bd1/run7";
        assert_eq!(text.parse::<Holder>().unwrap().to_string(), text);
        for text in ["", "a/b", "a//c", "a/b/c/d"] {
            assert!(text.parse::<Holder>().is_err(), "{text:?}");
        }
    }
}
