//! `agent timeline`, for whoever is called at night: `kubectl exec <pod> -c agent -- /agent timeline`.

use std::{io::Write, path::Path, time::Duration};

use anyhow::Context;
use clap::Args;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use proto::{
    identity::Ordinal,
    pod::{CONFIG_DIR, TLS_DIR},
};

use super::table::{self, Account};
use crate::{environment, peer, settings, tls::Rotation};

/// What to show.
#[derive(Args)]
pub(crate) struct Options {
    /// Only what happened within this: `90s`, `15m`, `2h`
    #[arg(long, default_value = "1h")]
    last: SignedDuration,
}

/// Asks all members and prints one table.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let me = environment::read()?;
    let config = settings::from_file(Path::new(CONFIG_DIR)).await?;
    let (_rotation, credentials) = Rotation::start(Path::new(TLS_DIR)).await?;
    let (peers, _task) = peer::client::peers(&me.database, &me.namespace, credentials)?;
    let asked = (0..config.replicas).map(Ordinal).map(|ordinal| {
        let (peers, name) = (peers.clone(), format!("{}-{ordinal}", me.database));
        async move { peers.chronicle(ordinal).await.map(received_now).map_err(|_| name) }
    });
    let (mut accounts, mut silent) = (Vec::new(), Vec::new());
    for answer in join_all(asked).await {
        match answer {
            Ok(account) => accounts.push(account),
            Err(name) => silent.push(name),
        }
    }
    let last = Duration::try_from(options.last).context("--last must not be negative")?;
    let text = table::print(&accounts, &silent, Timestamp::now(), last);
    std::io::stdout().write_all(text.as_bytes()).context("printing")
}

fn received_now(chronicle: proto::wire::chronicle::Chronicle) -> Account {
    Account { received: Timestamp::now(), chronicle }
}
