//! `agent run`, the sidecar: makes the parts, joins them, and ends the process when any of them ends.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{Api, Client};
use proto::{
    ha::view::Me,
    pod::{
        BACKUP_CREDENTIALS_DIR, CONFIG_DIR, HTTP_PORT, LOCK_FILE, PASSWORDS_DIR, PEER_PORT, RUN_DIR,
        SUPERVISOR_SOCKET, TLS_DIR,
    },
    wire::config::AgentConfig,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    archive, backup,
    chronicle::Chronicle,
    cluster,
    driver::{Driver, Hands, Inputs},
    environment, http, journal, lease, link,
    metrics::Metrics,
    passwords::PasswordsTask,
    peer, pods, serving, settings, sql,
    tls::Rotation,
};

/// Questions and requests waiting for the driver: eight other members and a few people.
const INCOMING_QUEUE: usize = 32;

/// Tasks by name. Each is meant to live as long as the process.
struct Tasks(JoinSet<&'static str>);

impl Tasks {
    fn add(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            task.await;
            name
        });
    }
}

/// Runs the sidecar until SIGTERM.
pub(crate) async fn run() -> anyhow::Result<()> {
    let me = Arc::new(environment::read()?);
    let config = settings::from_file(Path::new(CONFIG_DIR)).await?;
    anyhow::ensure!(config.profile.timing().is_safe(), "the failover profile breaks rule L1");
    let http = serving::bind(HTTP_PORT).await.with_context(|| format!("listening on port {HTTP_PORT}"))?;
    let peer = serving::bind(PEER_PORT).await.with_context(|| format!("listening on port {PEER_PORT}"))?;
    let clients =
        Clients { control: cluster::control()?, lease: cluster::control()?, watching: cluster::watching()? };
    tracing::info!(pod = %me.pod, database = %me.database, "the agent begins");
    let mut tasks = Tasks(JoinSet::new());
    let driver = assemble(me, config, &clients, Listeners { http, peer }, &mut tasks).await?;
    tokio::select! {
        reason = driver.run() => match reason {
            "terminated" => Ok(()),
            reason => Err(anyhow::anyhow!("the agent cannot go on: {reason}")),
        },
        Some(ended) = tasks.0.join_next() => {
            Err(anyhow::anyhow!("the agent cannot go on: task {:?} ended", ended.context("a task panicked")?))
        }
    }
}

/// One connection pool each, so that nothing shares the renewal's connection.
struct Clients {
    lease: Client,
    control: Client,
    watching: Client,
}

struct Listeners {
    http: TcpListener,
    peer: TcpListener,
}

async fn assemble(
    me: Arc<Me>,
    config: AgentConfig,
    clients: &Clients,
    listeners: Listeners,
    tasks: &mut Tasks,
) -> anyhow::Result<Driver> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("installing the handler of SIGTERM")?;
    let token = shutdown.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        token.cancel();
    });

    let (rotation, credentials) = Rotation::start(Path::new(TLS_DIR)).await?;
    tasks.add("certificates", rotation.run());
    let (passwords, verifiers) = PasswordsTask::start(Path::new(PASSWORDS_DIR)).await?;
    tasks.add("passwords", passwords.run());
    let (peers, peers_task) = peer::client::peers(&me.database, &me.namespace, credentials.clone())?;
    tasks.add("peers", peers_task.run());
    let (link, contact, link_task) = link::line(Path::new(SUPERVISOR_SOCKET), Path::new(LOCK_FILE));
    tasks.add("link", link_task.run());
    let (reading, hurry, facts) = sql::facts(RUN_DIR);
    tasks.add("facts", facts.run());
    let (pods, pod, pod_task) =
        pods::pods(Api::<Pod>::namespaced(clients.control.clone(), &me.namespace), Arc::clone(&me));
    tasks.add("own pod", pod_task.run());
    let (journal, journal_task) = journal::journal(clients.control.clone(), &me, &config.database_uid);
    tasks.add("journal", journal_task.run());

    let calls = |client: &Client| lease::calls::LeaseCalls::new(client.clone(), &me.namespace, &me.database);
    let pace = lease::Pace::of(&config.profile.timing());
    let (lease, lease_state, lease_task) = lease::lease(calls(&clients.lease), &config.database_uid, pace);
    tasks.add("lease", lease_task.run());
    tasks.add("watch", lease::Watching { calls: calls(&clients.watching), requests: lease.clone() }.run());

    let uid = config.database_uid.clone();
    let (config_in, config) = watch::channel(config);
    let settings = settings::SettingsTask {
        api: Api::<ConfigMap>::namespaced(clients.control.clone(), &me.namespace),
        name: format!("{}-config", me.database),
        config: config_in,
    };
    tasks.add("settings", settings.run());

    let archive_config = config.clone();
    let metrics = Arc::new(Metrics::new(&me.database, &me.namespace));
    let (incoming_in, incoming) = mpsc::channel(INCOMING_QUEUE);
    let inputs = Inputs { contact, lease: lease_state, reading, config, pod, verifiers, incoming, shutdown };
    let chronicle = Chronicle::new(&me.pod, &me.database);
    let hands = Hands {
        link,
        lease,
        relayer: lease::relay::Relayer::new(calls(&clients.control), &uid),
        peers: peers.clone(),
        pods,
        journal,
        metrics: Arc::clone(&metrics),
        chronicle: chronicle.clone(),
        socket_directory: RUN_DIR.into(),
        hurry,
    };
    let (database, namespace) = (me.database.clone(), me.namespace.clone());
    let (driver, published) = Driver::new(Arc::clone(&me), inputs, hands);
    let (archive, connection, upkeep) = archive::archive(archive::Parts {
        me,
        published: published.clone(),
        config: archive_config,
        peers: peers.clone(),
        credentials: Path::new(BACKUP_CREDENTIALS_DIR),
        socket_directory: RUN_DIR.into(),
    });
    tasks.add("archive's store", connection.run());
    tasks.add("archive's upkeep", upkeep.run());
    tasks.add("archive", archive::serve(archive.clone()));
    let (backups, backup_task) = backup::backups(archive.clone(), peers.clone(), RUN_DIR.into());
    tasks.add("backups", backup_task.run());
    let shared = http::Shared {
        published: published.clone(),
        metrics,
        backups: backups.clone(),
        peers,
        database,
        namespace,
    };
    tasks.add("http", serving::serve(listeners.http, http::routes(shared), None));
    let routes = peer::server::routes(incoming_in, published, chronicle, archive, backups);
    tasks.add("peer server", serving::serve(listeners.peer, routes, Some(credentials)));
    Ok(driver)
}
