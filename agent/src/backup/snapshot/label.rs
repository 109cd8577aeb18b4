//! `backup_label`: what the server says about a backup that somebody else copied, in its own form. Pure.

use proto::postgres::{Lsn, Timeline, WalPosition};

/// What of it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    /// Where recovery begins.
    pub(crate) start: WalPosition,
    /// Whether the server was a standby.
    pub(crate) from_standby: bool,
}

impl Label {
    /// Reads it; `None` if it is no label of a backup that was taken while the server ran.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let lsn: Lsn = field("START WAL LOCATION:")?.split(' ').next()?.parse().ok()?;
        let timeline = Timeline::new(field("START TIMELINE:")?.parse().ok()?)?;
        let from_standby = match field("BACKUP FROM:")? {
            "standby" => true,
            "primary" | "master" => false,
            _ => return None,
        };
        Some(Self { start: WalPosition { timeline, lsn }, from_standby })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const LABEL: &str = "START WAL LOCATION: 16/B3000028 (file 0000000300000016000000B3)\n\
        CHECKPOINT LOCATION: 16/B3000080\nBACKUP METHOD: streamed\nBACKUP FROM: standby\n\
        START TIME: 2026-11-26 16:00:00 UTC\nLABEL: b\nSTART TIMELINE: 3\n";

    #[test]
    fn a_label_says_where_recovery_begins() {
        let label = Label::parse(LABEL).unwrap();
        assert_eq!((label.start.to_string().as_str(), label.from_standby), ("16/B3000028@3", true));
        let primary = Label::parse(&LABEL.replace("standby", "primary")).unwrap();
        assert!(!primary.from_standby);
    }

    #[test]
    fn half_a_label_is_none() {
        for (what, instead) in [("TIMELINE: 3", "TIMELINE: 0"), ("16/B3000028", "x"), ("standby", "?")] {
            assert_eq!(Label::parse(&LABEL.replace(what, instead)), None, "{what}");
        }
        assert_eq!(Label::parse(""), None);
    }
}
