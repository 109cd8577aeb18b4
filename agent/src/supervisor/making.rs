//! Making data directories: initdb, clone, rewind. Each job holds the turn throughout, so that nothing starts
//! meanwhile, and an interrupted one leaves nothing that could.

use std::{path::Path, sync::Arc};

use postgres_protocol::escape::{escape_identifier, escape_literal};
use proto::{
    identity::Epoch,
    postgres::SystemIdentifier,
    wire::supervisor::{Data, Initdb, Upstream},
};

use super::{
    Supervisor, conf,
    durable::{self, HaState},
    history,
    orders::OrderError,
    tools::{LONG, Programs, Run},
};

/// A tebibyte, in megabytes: more than any log.
const KEEP_ALL_WAL: &str = "wal_keep_size=1048576";

impl Supervisor {
    /// Job: a new, empty database cluster.
    pub(crate) async fn initdb(self: &Arc<Self>, initdb: Initdb) -> Result<(), OrderError> {
        let _turn = self.turn().await?;
        self.require_stopped()?;
        if self.facts.lock().data != Data::Empty {
            return Err(OrderError::Refused("there is data already, or it has not been read yet".to_owned()));
        }
        let roles = roles(&initdb)?;
        self.at_length(move |this| this.make_new(&roles)).await
    }

    fn make_new(&self, roles: &str) -> Result<(), OrderError> {
        let incoming = durable::clear_incoming(&self.layout)?;
        let programs = Programs::of(self.layout.bin_dir.as_deref(), None);
        let mut command = programs.command("initdb")?;
        command.arg("-D").arg(&incoming).args([
            "--username=postgres",
            "--data-checksums",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--auth-local=peer",
            "--auth-host=scram-sha-256",
            "--no-instructions",
            "--no-sync", // a crash discards the directory; one fsync of all of it follows at the end
        ]);
        self.run_long(command, Vec::new())?;
        let mut command = programs.command("postgres")?;
        // The verifiers come in through standard input and must not go out into the log.
        command.arg("--single").arg("-D").arg(&incoming).args([
            "-F", // no fsync yet
            "-c",
            "exit_on_error=on",
            "-c",
            "log_min_error_statement=panic",
            "-c",
            "log_statement=none",
            "postgres",
        ]);
        self.run_long(command, roles.as_bytes().to_vec())?;
        let mut command = programs.command("initdb")?;
        command.arg("-D").arg(&incoming).arg("--sync-only");
        self.run_long(command, Vec::new())?;
        self.swap_in(HaState::of_new_data(Epoch::default()))
    }

    /// Job: a copy of `upstream`'s data, in the place of what there was.
    pub(crate) async fn clone_from(
        self: &Arc<Self>,
        upstream: Upstream,
        identifier: SystemIdentifier,
        epoch: Epoch,
    ) -> Result<(), OrderError> {
        let _turn = self.turn().await?;
        self.require_stopped()?;
        if self.facts.lock().data == Data::Unread {
            return Err(OrderError::NotYet("the data volume has not been read yet".to_owned()));
        }
        self.refuse_below_sealed(epoch)?;
        self.at_length(move |this| this.make_copy(&upstream, identifier, epoch)).await
    }

    fn make_copy(
        &self,
        upstream: &Upstream,
        identifier: SystemIdentifier,
        epoch: Epoch,
    ) -> Result<(), OrderError> {
        super::certificates::refresh(&self.layout)?;
        let incoming = durable::clear_incoming(&self.layout)?;
        let mut command = Programs::of(self.layout.bin_dir.as_deref(), None).command("pg_basebackup")?;
        command.arg("-D").arg(&incoming).arg("-d").arg(self.conninfo(upstream, "clone"));
        command.args(["--wal-method=stream", "--checkpoint=fast", "--progress", "--no-password"]);
        if let Some(slot) = &upstream.slot {
            command.arg("--slot").arg(slot);
        }
        self.run_long(command, Vec::new())?;
        let found = durable::system_identifier(&incoming)?;
        if found != identifier {
            durable::clear_incoming(&self.layout)?;
            return Err(OrderError::Refused(format!(
                "{} has the system identifier {found}, not {identifier}: it is another database",
                upstream.host
            )));
        }
        self.swap_in(HaState::of_new_data(epoch))
    }

    fn swap_in(&self, state: HaState) -> Result<(), OrderError> {
        let _one_writer = self.disk.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        durable::swap_in(&self.layout, &state)?;
        let data = durable::read(&self.layout)?;
        self.facts.lock().data = data;
        Ok(())
    }

    /// Job: turns the data back to where it left `upstream`'s history.
    pub(crate) async fn rewind(self: &Arc<Self>, upstream: Upstream, epoch: Epoch) -> Result<(), OrderError> {
        let _turn = self.turn().await?;
        self.require_stopped()?;
        self.require_data()?;
        self.refuse_below_sealed(epoch)?;
        self.at_length(move |this| this.turn_back(&upstream, epoch)).await
    }

    fn turn_back(&self, upstream: &Upstream, epoch: Epoch) -> Result<(), OrderError> {
        super::certificates::refresh(&self.layout)?;
        self.raise_sealed(epoch)?;
        self.recover_alone()?;
        // Finds everything that can be found without a change, so that only what comes after it costs the data.
        self.run_rewind(upstream, true)?;
        durable::mark_rewind(&self.layout)?;
        let rewound = self.run_rewind(upstream, false);
        if rewound.is_ok() {
            durable::unmark_rewind(&self.layout)?;
        }
        let data = durable::read(&self.layout)?;
        self.facts.lock().data = data;
        rewound
    }

    /// Ends recovery in single-user mode: `pg_rewind` needs a clean end, and a standby's file would forbid it.
    fn recover_alone(&self) -> Result<(), OrderError> {
        let pgdata = self.layout.pgdata();
        history::prepare_start(&pgdata.join("pg_wal"))?;
        for name in ["standby.signal", "recovery.signal", "promote", "postmaster.pid"] {
            durable::remove_file(&pgdata.join(name))?;
        }
        let mut command = self.programs().command("postgres")?;
        // Its checkpoint must not take away the log that pg_rewind reads back to the fork.
        command.arg("--single").arg("-D").arg(&pgdata);
        command.args(["-c", "archive_mode=off", "-c", KEEP_ALL_WAL, "template1"]);
        self.run_long(command, Vec::new())
    }

    fn run_rewind(&self, upstream: &Upstream, dry: bool) -> Result<(), OrderError> {
        let mut command = self.programs().command("pg_rewind")?;
        command.arg("-D").arg(self.layout.pgdata()).args(["--progress", "--no-ensure-shutdown"]);
        command.arg("--source-server").arg(self.conninfo(upstream, "rewind") + " dbname=postgres");
        if dry {
            command.arg("--dry-run");
        }
        self.run_long(command, Vec::new())
    }

    fn conninfo(&self, upstream: &Upstream, purpose: &str) -> String {
        conf::replication_conninfo(upstream, &self.layout.own_tls_dir(), purpose)
    }

    /// Runs a program whose progress is the job's.
    fn run_long(&self, command: std::process::Command, input: Vec<u8>) -> Result<(), OrderError> {
        let program =
            Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut on_line = |line: &str| {
            tracing::info!(program, "{line}");
            if let Some(job) = &mut self.facts.lock().job {
                job.progress = Some(line.to_owned());
            }
        };
        Run { processes: &self.processes, command, input, timeout: LONG, on_line: &mut on_line }.output()?;
        Ok(())
    }
}

/// Statements for single-user mode, one a line.
fn roles(initdb: &Initdb) -> Result<String, OrderError> {
    let names = [&initdb.app_role, &initdb.app_database, &initdb.replication_role];
    if names.iter().any(|name| name.is_empty() || name.chars().any(char::is_control)) {
        return Err(OrderError::Refused("names of roles and databases must be printable".to_owned()));
    }
    let (superuser, app) = (verifier(&initdb.superuser_verifier)?, verifier(&initdb.app_verifier)?);
    let [role, database, replication] = names.map(|name| escape_identifier(name));
    let mut statements = vec![
        format!("ALTER ROLE postgres PASSWORD {superuser}"),
        format!("CREATE ROLE {role} LOGIN PASSWORD {app}"),
        format!("CREATE ROLE {replication} LOGIN REPLICATION"),
    ];
    if initdb.app_database != "postgres" {
        statements.push(format!("CREATE DATABASE {database} OWNER {role}"));
    }
    // What pg_rewind reads from its source.
    for function in [
        "pg_ls_dir(text, boolean, boolean)",
        "pg_stat_file(text, boolean)",
        "pg_read_binary_file(text)",
        "pg_read_binary_file(text, bigint, bigint, boolean)",
    ] {
        statements.push(format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {replication}"));
    }
    Ok(statements.join("\n") + "\n")
}

/// Only a verifier is stored as it is; anything else would be a password in clear text.
fn verifier(text: &str) -> Result<String, OrderError> {
    let base64 = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
    };
    let valid = || {
        let (iterations, rest) = text.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored, server) = keys.split_once(':')?;
        (iterations.parse::<u32>().is_ok() && [salt, stored, server].into_iter().all(base64)).then_some(())
    };
    match valid() {
        Some(()) => Ok(escape_literal(text)),
        None => Err(OrderError::Refused("a password was not given as a SCRAM-SHA-256 verifier".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initdb() -> Initdb {
        let verifier = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy".to_owned();
        Initdb {
            superuser_verifier: verifier.clone(),
            app_verifier: verifier,
            app_role: "app".to_owned(),
            app_database: "orders".to_owned(),
            replication_role: "replicator".to_owned(),
        }
    }

    #[test]
    fn makes_roles_and_database() {
        insta::assert_snapshot!(roles(&initdb()).unwrap());
    }

    #[test]
    fn names_are_quoted() {
        let statements = roles(&Initdb { app_role: "a\"; DROP ROLE x".to_owned(), ..initdb() }).unwrap();
        assert!(statements.contains("CREATE ROLE \"a\"\"; DROP ROLE x\" LOGIN"));
        assert!(roles(&Initdb { app_database: "a\nb".to_owned(), ..initdb() }).is_err());
    }

    #[test]
    fn clear_text_is_refused_and_not_repeated() {
        for text in ["secret", "md5abc", "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk", "SCRAM-SHA-256$x:a$b:c"] {
            let refused = roles(&Initdb { app_verifier: text.to_owned(), ..initdb() }).unwrap_err();
            assert!(!refused.sentence().contains(text));
        }
    }
}
