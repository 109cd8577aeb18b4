//! One connection: settings that keep it harmless, and a deadline on each call.

use std::time::Duration;

use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, config::SslMode};

use super::CALL_TIMEOUT;

/// Sent with the connection itself, so that nothing runs without them: the server ends our statements before we
/// give up on them, our commits never wait for a standby, and no user's object shadows a function.
const OPTIONS: &str = "-c statement_timeout=1500 -c lock_timeout=1000 -c synchronous_commit=local \
     -c search_path= -c log_statement=none -c log_min_duration_statement=-1";
/// The same without a limit, for the calls that may take long and have a deadline of their own.
const PATIENT_OPTIONS: &str = "-c statement_timeout=0 -c synchronous_commit=local -c search_path= \
     -c log_statement=none -c log_min_duration_statement=-1";
/// The same with commits that wait as an application's would.
const WAITING_OPTIONS: &str = "-c statement_timeout=0 -c synchronous_commit=on -c search_path= \
     -c log_statement=none -c log_min_duration_statement=-1";
/// How the agent shows in `pg_stat_activity`.
const APPLICATION_NAME: &str = "matriarch-agent";

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SqlError {
    /// The server does not take connections.
    #[error("cannot connect to the local server")]
    Connect(#[source] tokio_postgres::Error),
    /// The server answered with an error.
    #[error("the local server refused")]
    Refused(#[source] tokio_postgres::Error),
    /// The connection broke.
    #[error("the connection to the local server broke")]
    Broken(#[source] tokio_postgres::Error),
    /// No answer in time; whether it took effect is unknown.
    #[error("the local server did not answer within {0:?}")]
    Timeout(Duration),
    /// An answer was not what the query returns.
    #[error("the local server answered {0:?}, which is not what was asked")]
    Unexpected(String),
    /// Facts of the wrong shape.
    #[error("the local server described itself in an unexpected form")]
    Shape(#[source] serde_json::Error),
}

impl SqlError {
    fn of_call(error: tokio_postgres::Error) -> Self {
        if error.code().is_some() && !error.is_closed() { Self::Refused(error) } else { Self::Broken(error) }
    }
}

/// A connection to the local server as its superuser.
pub(super) struct Session {
    client: Client,
    connection: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Session {
    /// Connects; statements are short and commits wait for nobody.
    pub(super) async fn connect(socket_directory: &str) -> Result<Self, SqlError> {
        within_limit(Self::connect_with(socket_directory, OPTIONS)).await
    }

    /// Connects for statements that may take long. The caller has a deadline.
    pub(super) async fn connect_patiently(socket_directory: &str) -> Result<Self, SqlError> {
        Self::connect_with(socket_directory, PATIENT_OPTIONS).await
    }

    /// Connects; commits wait as an application's do.
    pub(super) async fn connect_waiting(socket_directory: &str) -> Result<Self, SqlError> {
        within_limit(Self::connect_with(socket_directory, WAITING_OPTIONS)).await
    }

    async fn connect_with(socket_directory: &str, options: &str) -> Result<Self, SqlError> {
        let mut config = Config::new();
        config
            .host_path(socket_directory)
            .port(proto::pod::POSTGRES_PORT)
            .user("postgres")
            .dbname("postgres")
            .application_name(APPLICATION_NAME)
            .ssl_mode(SslMode::Disable)
            .options(options);
        let (client, connection) = config.connect(NoTls).await.map_err(SqlError::Connect)?;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %crate::chain::Chain(&error), "the local server closed the connection");
            }
        });
        Ok(Self { client, connection })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// One statement, within [`CALL_TIMEOUT`].
    pub(super) async fn execute(&self, statement: &str) -> Result<(), SqlError> {
        self.query(statement).await.map(|_| ())
    }

    /// First column of the first row, if there is one, within [`CALL_TIMEOUT`].
    pub(super) async fn query(&self, statement: &str) -> Result<Option<String>, SqlError> {
        let messages =
            within_limit(async { self.client.simple_query(statement).await.map_err(SqlError::of_call) })
                .await?;
        Ok(first_column(&messages))
    }

    /// As [`Session::query`], without a limit. The caller has a deadline.
    pub(super) async fn query_patiently(&self, statement: &str) -> Result<Option<String>, SqlError> {
        let messages = self.client.simple_query(statement).await.map_err(SqlError::of_call)?;
        Ok(first_column(&messages))
    }
}

fn first_column(messages: &[SimpleQueryMessage]) -> Option<String> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

async fn within_limit<T>(call: impl Future<Output = Result<T, SqlError>>) -> Result<T, SqlError> {
    timeout(CALL_TIMEOUT, call).await.unwrap_or(Err(SqlError::Timeout(CALL_TIMEOUT)))
}
