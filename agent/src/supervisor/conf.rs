//! Renders `postgresql.conf`, `pg_hba.conf` and `pg_ident.conf`. Nothing that a user sets can reach past its
//! own line or override what the protocol relies on.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use proto::{
    identity::DataId,
    pod::REPLICATION_ROLE,
    wire::supervisor::{ServerConfig, Upstream},
};

use super::layout::Layout;

/// Waits for nobody that exists: a standby that is promoted by accident acknowledges nothing.
pub(crate) const CLOSED: &str = "ANY 1 (\"-\")";

/// How long a standby pauses before it connects again. The default of 5 s would dominate every failover.
const RETRY_INTERVAL: &str = "200ms";

/// Given on the command line, where neither file nor ALTER SYSTEM overrides them.
const FIXED: [(&str, &str); 7] = [
    ("listen_addresses", "*"),
    // The socket is for this user alone: whoever can open it is the superuser.
    ("unix_socket_permissions", "0700"),
    // A crash ends the server, so that it becomes writable again only through open (S4).
    ("restart_after_crash", "off"),
    ("hot_standby", "on"),
    // A change needs a restart; without an archive the agent acknowledges and forgets.
    ("archive_mode", "on"),
    ("logging_collector", "off"),
    // Process titles, by which the WAL receiver is found, begin with it.
    ("cluster_name", ""),
];

/// Also on the command line, with values that depend on the pod.
const PLACES: [&str; 8] = [
    "config_file",
    "data_directory",
    "hba_file",
    "ident_file",
    "port",
    "unix_socket_directories",
    "external_pid_file",
    "unix_socket_group",
];

/// Written only by the supervisor; removed from `postgresql.auto.conf` at every start and reload.
const OWNED: [&str; 18] = [
    "primary_conninfo",
    "primary_slot_name",
    "synchronous_standby_names",
    "wal_retrieve_retry_interval",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "promote_trigger_file",
    "recovery_end_command",
    "archive_command",
    "archive_library",
    "archive_cleanup_command",
    "restore_command",
];

/// Certificates, written only by the supervisor.
const TLS: [&str; 4] = ["ssl", "ssl_ca_file", "ssl_cert_file", "ssl_key_file"];

/// What the user may override. `initdb` would choose the first ones by itself, in a file that is not used.
const DEFAULTS: [(&str, &str); 16] = [
    ("datestyle", "iso, mdy"),
    ("default_text_search_config", "pg_catalog.english"),
    ("lc_messages", "C"),
    ("log_line_prefix", "%m [%p] %q%u@%d "),
    ("log_timezone", "UTC"),
    ("timezone", "UTC"),
    ("max_connections", "100"),
    ("shared_buffers", "128MB"),
    ("password_encryption", "scram-sha-256"),
    ("wal_level", "replica"),
    ("wal_log_hints", "on"),
    // Nine members, clones and backups, with room for logical consumers.
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    // For a rewind: a little of what slots no longer hold.
    ("wal_keep_size", "128MB"),
    // A dead peer is noticed well within a lease.
    ("wal_receiver_timeout", "5s"),
    ("wal_sender_timeout", "5s"),
];

/// Why a configuration is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfError {
    /// Not the form of a setting's name.
    #[error("{0:?} is not the name of a setting")]
    Name(String),
    /// The protocol relies on it.
    #[error("{0} is set by the cluster itself; remove it from the parameters")]
    Reserved(String),
    /// A value that no configuration file can hold.
    #[error("the value of {0} contains a zero byte")]
    Value(String),
    /// A line that is not one rule.
    #[error("pg_hba line {line:?}: {reason}")]
    Hba {
        /// The line.
        line: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// A value as it stands in `postgresql.conf`, quotes included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quoted(String);

impl Quoted {
    /// Quotes `value`; `None` if it contains a zero byte.
    pub(crate) fn new(value: &str) -> Option<Self> {
        let mut quoted = String::with_capacity(value.len() + 2);
        quoted.push('\'');
        for character in value.chars() {
            match character {
                '\0' => return None,
                '\'' => quoted.push_str("''"),
                '\\' => quoted.push_str("\\\\"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                other => quoted.push(other),
            }
        }
        quoted.push('\'');
        Some(Self(quoted))
    }
}

/// Where a standby streams from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// The leader.
    pub(crate) upstream: Upstream,
    /// Directory with this attachment's own links to the certificates. Removing it keeps every WAL receiver
    /// that has not been started yet from connecting (see [`super::standby`]).
    pub(crate) credentials: std::path::PathBuf,
}

/// Everything that `postgresql.conf` depends on.
pub(crate) struct ServerFile<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) config: &'a ServerConfig,
    pub(crate) attachment: Option<&'a Attachment>,
    pub(crate) data_id: Option<DataId>,
    /// Least values of some settings, from `pg_control`: a standby does not run below its primary's.
    pub(crate) minimums: &'a BTreeMap<&'static str, u64>,
}

impl ServerFile<'_> {
    /// Renders `postgresql.conf`.
    pub(crate) fn render(&self) -> Result<String, ConfError> {
        let mut file =
            "# Written by the supervisor at every change; edit spec.postgresql.parameters instead.\n"
                .to_owned();
        for (name, value) in self.settings()? {
            let Some(quoted) = Quoted::new(&value) else { return Err(ConfError::Value(name)) };
            let Quoted(quoted) = quoted;
            // Writing to a String cannot fail.
            let _infallible = writeln!(file, "{name} = {quoted}");
        }
        Ok(file)
    }

    fn settings(&self) -> Result<BTreeMap<String, String>, ConfError> {
        let mut settings: BTreeMap<String, String> = pairs(&DEFAULTS).collect();
        for (name, value) in &self.config.parameters {
            settings.insert(checked_name(name)?, value.clone());
        }
        for (name, minimum) in self.minimums {
            let wanted = settings.get(*name).map(|value| value.parse::<u64>());
            if !matches!(wanted, Some(Ok(wanted)) if wanted >= *minimum) && !matches!(wanted, Some(Err(_))) {
                settings.insert((*name).to_owned(), minimum.to_string());
            }
        }
        settings.extend(self.owned());
        Ok(settings)
    }

    /// This very program, which hands the file to the agent.
    fn archive_command(&self) -> String {
        match (self.config.archive, std::env::current_exe()) {
            (true, Ok(program)) => {
                // The kernel says so of a program whose file was replaced; the new file has the same path.
                let program = program.display().to_string();
                let program = program.trim_end_matches(" (deleted)");
                let socket = self.layout.archive_socket();
                format!("\"{program}\" wal push --socket \"{}\" \"%p\"", socket.display())
            }
            _ => String::new(),
        }
    }

    fn owned(&self) -> Vec<(String, String)> {
        let tls = self.layout.own_tls_dir();
        let (conninfo, slot) = match (self.attachment, self.data_id) {
            (Some(attachment), Some(data_id)) => (
                replication_conninfo(&attachment.upstream, &attachment.credentials, &data_id.to_string()),
                attachment.upstream.slot.clone().unwrap_or_default(),
            ),
            _ => (String::new(), String::new()),
        };
        let names = self.config.synchronous_standby_names.clone().unwrap_or_else(|| CLOSED.to_owned());
        [
            ("primary_conninfo", conninfo),
            ("primary_slot_name", slot),
            ("synchronous_standby_names", names),
            ("archive_command", self.archive_command()),
            ("wal_retrieve_retry_interval", RETRY_INTERVAL.to_owned()),
            ("ssl", "on".to_owned()),
            ("ssl_ca_file", tls.join("ca.crt").display().to_string()),
            ("ssl_cert_file", tls.join("tls.crt").display().to_string()),
            ("ssl_key_file", tls.join("tls.key").display().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// Arguments of `postgres` that fix what nothing may override.
pub(crate) fn fixed_arguments(layout: &Layout, config_file: &Path) -> Vec<String> {
    let places = [
        ("config_file", config_file.display().to_string()),
        ("hba_file", layout.hba_file().display().to_string()),
        ("ident_file", layout.ident_file().display().to_string()),
        ("port", layout.port.to_string()),
        ("unix_socket_directories", layout.run_dir.display().to_string()),
    ];
    let places = places.map(|(name, value)| (name.to_owned(), value));
    let arguments =
        pairs(&FIXED).chain(places).map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]);
    arguments.flatten().collect()
}

/// A connection string for a member's own tools or its WAL receiver.
pub(crate) fn replication_conninfo(upstream: &Upstream, tls: &Path, application_name: &str) -> String {
    let file = |name: &str| tls.join(name).display().to_string();
    let port = upstream.port.to_string();
    let settings = [
        ("host", upstream.host.as_str()),
        ("port", &port),
        ("user", REPLICATION_ROLE),
        ("application_name", application_name),
        ("sslmode", "verify-ca"),
        ("sslrootcert", &file("ca.crt")),
        ("sslcert", &file("tls.crt")),
        ("sslkey", &file("tls.key")),
        // A dead leader is given up well within a lease.
        ("connect_timeout", "3"),
        ("keepalives_idle", "2"),
        ("keepalives_interval", "1"),
        ("keepalives_count", "3"),
        ("tcp_user_timeout", "5000"),
    ];
    settings.map(|(name, value)| format!("{name}={}", conninfo_value(value))).join(" ")
}

fn conninfo_value(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Renders `pg_hba.conf`: what the cluster itself needs comes first.
pub(crate) fn hba(lines: &[String]) -> Result<String, ConfError> {
    let own = format!(
        "local all postgres peer map=supervisor\n\
         local replication postgres peer map=supervisor\n\
         hostssl replication {REPLICATION_ROLE} all cert map=member\n\
         hostssl postgres {REPLICATION_ROLE} all cert map=member\n\
         host replication {REPLICATION_ROLE} all reject\n\
         host all {REPLICATION_ROLE} all reject\n"
    );
    lines.iter().try_fold(own, |file, line| Ok(file + checked_rule(line)? + "\n"))
}

/// `pg_ident.conf`: only this user can open the socket, and the Database's CA signs members alone.
pub(crate) fn ident() -> String {
    format!("supervisor /^.*$ postgres\nmember /^.*$ {REPLICATION_ROLE}\n")
}

fn checked_rule(line: &str) -> Result<&str, ConfError> {
    let refused = |reason| Err(ConfError::Hba { line: line.to_owned(), reason });
    if line.contains(['\n', '\r', '\0']) || line.trim_end().ends_with('\\') {
        return refused("one rule must be one line");
    }
    if line.contains('@') {
        return refused("rules must not include files");
    }
    match line.split_whitespace().next() {
        None | Some("local" | "host" | "hostssl" | "hostnossl" | "hostgssenc" | "hostnogssenc") => Ok(line),
        Some(word) if word.starts_with('#') => Ok(line),
        Some(_) => refused("expected local, host, hostssl, hostnossl, hostgssenc or hostnogssenc first"),
    }
}

fn checked_name(name: &str) -> Result<String, ConfError> {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    let part = |part: &str| {
        part.starts_with(letter) && part.chars().all(|c| letter(c) || c.is_ascii_digit() || c == '$')
    };
    let lower = name.to_ascii_lowercase();
    if !lower.split('.').all(part) || lower.split('.').count() > 2 {
        return Err(ConfError::Name(name.to_owned()));
    }
    match is_reserved(&lower) || lower.starts_with("include") {
        true => Err(ConfError::Reserved(lower)),
        false => Ok(lower),
    }
}

fn is_reserved(name: &str) -> bool {
    FIXED.iter().any(|(fixed, _)| *fixed == name)
        || [&PLACES[..], &OWNED[..], &TLS[..]].iter().any(|names| names.contains(&name))
}

/// `postgresql.auto.conf` without what the supervisor owns; `None` if nothing is to be removed.
pub(crate) fn without_owned(auto_conf: &str) -> Option<String> {
    let owned = |line: &&str| {
        let name = line.split(['=', ' ', '\t']).next().unwrap_or_default().to_ascii_lowercase();
        is_reserved(&name)
    };
    let kept: String =
        auto_conf.lines().filter(|line| !owned(&line.trim_start())).flat_map(|line| [line, "\n"]).collect();
    (kept.lines().count() != auto_conf.lines().count()).then_some(kept)
}

fn pairs(settings: &'static [(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What PostgreSQL's scanner makes of a quoted string.
    fn unquote(quoted: &str) -> String {
        let inner = quoted.strip_prefix('\'').unwrap().strip_suffix('\'').unwrap();
        let mut value = String::new();
        let mut characters = inner.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => value.push(match characters.next().unwrap() {
                    'n' => '\n',
                    'r' => '\r',
                    other => other,
                }),
                '\'' => {
                    assert_eq!(characters.next(), Some('\''));
                    value.push('\'');
                }
                other => value.push(other),
            }
        }
        value
    }

    fn layout() -> Layout {
        let path = std::path::PathBuf::from;
        Layout {
            data_dir: path("/data"),
            run_dir: path("/run"),
            tls_dir: path("/tls"),
            port: 5432,
            bin_dir: None,
        }
    }

    fn render(parameters: &[(&str, &str)], minimums: &[(&'static str, u64)]) -> Result<String, ConfError> {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let config =
            ServerConfig { parameters: parameters.iter().map(pair).collect(), ..ServerConfig::default() };
        let minimums = minimums.iter().copied().collect();
        ServerFile {
            layout: &layout(),
            config: &config,
            attachment: None,
            data_id: None,
            minimums: &minimums,
        }
        .render()
    }

    proptest! {
        #[test]
        fn no_value_leaves_its_line(value in "[^\0]*") {
            let Quoted(quoted) = Quoted::new(&value).unwrap();
            prop_assert!(!quoted.contains(['\n', '\r']));
            prop_assert_eq!(unquote(&quoted), value);
        }

        #[test]
        fn no_rule_adds_a_line(line in ".*") {
            if let Ok(file) = hba(std::slice::from_ref(&line)) {
                prop_assert_eq!(file.lines().count(), hba(&[]).unwrap().lines().count() + 1);
            }
        }
    }

    #[test]
    fn a_closed_standby_without_parameters() {
        insta::assert_snapshot!(render(&[], &[]).unwrap());
    }

    #[test]
    fn an_attached_standby_names_its_data() {
        let upstream = Upstream { host: "db-0.db".to_owned(), port: 5432, slot: Some("d1".to_owned()) };
        let attachment = Attachment { upstream, credentials: "/run/upstream-1".into() };
        let config = ServerConfig::default();
        let file = ServerFile {
            layout: &layout(),
            config: &config,
            attachment: Some(&attachment),
            data_id: Some(DataId(7)),
            minimums: &BTreeMap::new(),
        };
        let owned = file.owned().into_iter().take(2).map(|(name, value)| format!("{name}: {value}\n"));
        insta::assert_snapshot!(owned.collect::<String>());
    }

    #[test]
    fn reserved_and_malformed_names_are_refused() {
        for name in ["primary_conninfo", "Port", "ssl", "hba_file", "include_dir", "restart_after_crash"] {
            assert!(matches!(render(&[(name, "x")], &[]), Err(ConfError::Reserved(_))), "{name}");
        }
        for name in ["", "a b", "x=1", "a\nb", "1a", "a.b.c", "a.", "#x"] {
            assert!(matches!(render(&[(name, "x")], &[]), Err(ConfError::Name(_))), "{name}");
        }
        assert_eq!(render(&[("work_mem", "a\0")], &[]), Err(ConfError::Value("work_mem".to_owned())));
        assert!(render(&[("auto_explain.log_min_duration", "1s")], &[]).is_ok());
    }

    #[test]
    fn a_standby_keeps_at_least_its_primarys_limits() {
        let file = render(&[("max_connections", "50")], &[("max_connections", 200)]).unwrap();
        assert!(file.contains("max_connections = '200'"));
        let file = render(&[("max_connections", "300")], &[("max_connections", 200)]).unwrap();
        assert!(file.contains("max_connections = '300'"));
    }

    #[test]
    fn rules_that_are_not_one_rule_are_refused() {
        for line in
            ["include /etc/passwd", "host all all all trust\nhost x", "host @/x all all trust", "host all \\"]
        {
            assert!(hba(&[line.to_owned()]).is_err(), "{line}");
        }
        for line in ["", "# comment", "hostssl all all all scram-sha-256", "local all all peer"] {
            assert!(hba(&[line.to_owned()]).is_ok(), "{line}");
        }
    }

    #[test]
    fn alter_system_cannot_keep_what_is_owned() {
        let auto = "# Do not edit\nwork_mem = '1MB'\nprimary_conninfo = 'host=evil'\n synchronous_standby_names='*'\n";
        assert_eq!(without_owned(auto).unwrap(), "# Do not edit\nwork_mem = '1MB'\n");
        assert_eq!(without_owned("work_mem = '1MB'\n"), None);
    }
}
