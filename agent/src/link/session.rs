//! One connection to the supervisor: numbers requests, matches responses, keeps reports coming.

use std::collections::BTreeMap;

use futures::{SinkExt, StreamExt};
use proto::wire::supervisor::{Answer, Order, Refusal, Request, Response};
use tokio::{
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::codec::{FramedRead, FramedWrite, LinesCodec, LinesCodecError};

use super::{Call, Contact, ORDER_TIMEOUT, REPORT_EVERY, REPORT_EVERY_DURING_JOB};

/// A report with every setting pending a restart is a few kilobytes; anything near this is not ours.
const LONGEST_LINE: usize = 1 << 20;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// End of file: PID 1 is gone, or closed us.
    #[error("end of file")]
    Eof,
    /// All handles are gone.
    #[error("the agent stops")]
    NoCallers,
    /// The socket failed, or carried no lines.
    #[error("reading or writing the socket")]
    Line(#[from] LinesCodecError),
    /// A line was not a response.
    #[error("the supervisor answered something that is not a response")]
    Nonsense(#[source] serde_json::Error),
    /// An order could not be written as JSON.
    #[error("writing an order as JSON")]
    Order(#[source] serde_json::Error),
    /// The supervisor reads nothing.
    #[error("the supervisor took no order for {ORDER_TIMEOUT:?}")]
    Deaf,
}

type Reply = oneshot::Sender<Result<Answer, Refusal>>;

struct Session<'a> {
    reader: FramedRead<OwnedReadHalf, LinesCodec>,
    writer: FramedWrite<OwnedWriteHalf, LinesCodec>,
    contact: &'a watch::Sender<Contact>,
    next_id: u64,
    /// The report asked for and not yet answered: at most one, so that a slow supervisor is not flooded.
    report: Option<u64>,
    pending: BTreeMap<u64, Reply>,
    next_report: Instant,
}

/// Serves one connection until it ends.
pub(super) async fn serve(
    stream: UnixStream,
    calls: &mut mpsc::Receiver<Call>,
    contact: &watch::Sender<Contact>,
) -> Ended {
    let (reader, writer) = stream.into_split();
    let mut session = Session {
        reader: FramedRead::new(reader, LinesCodec::new_with_max_length(LONGEST_LINE)),
        writer: FramedWrite::new(writer, LinesCodec::new()),
        contact,
        next_id: 1,
        report: None,
        pending: BTreeMap::new(),
        next_report: Instant::now(),
    };
    loop {
        if let Err(ended) = session.step(calls).await {
            return ended;
        }
    }
}

impl Session<'_> {
    async fn step(&mut self, calls: &mut mpsc::Receiver<Call>) -> Result<(), Ended> {
        tokio::select! {
            biased;
            line = self.reader.next() => self.take(&line.ok_or(Ended::Eof)??),
            call = calls.recv() => {
                let call = call.ok_or(Ended::NoCallers)?;
                let id = self.send(call.order).await?;
                self.pending.insert(id, call.reply);
                Ok(())
            }
            () = sleep_until(self.next_report) => {
                self.next_report = Instant::now() + REPORT_EVERY;
                self.pending.retain(|_, reply| !reply.is_closed());
                if self.report.is_none() {
                    self.report = Some(self.send(Order::Report).await?);
                }
                Ok(())
            }
        }
    }

    async fn send(&mut self, order: Order) -> Result<u64, Ended> {
        let id = self.next_id;
        self.next_id += 1;
        let line = serde_json::to_string(&Request { id, order }).map_err(Ended::Order)?;
        timeout(ORDER_TIMEOUT, self.writer.send(line)).await.map_err(|_| Ended::Deaf)??;
        Ok(id)
    }

    fn take(&mut self, line: &str) -> Result<(), Ended> {
        let Response { id, result } = serde_json::from_str(line).map_err(Ended::Nonsense)?;
        if self.report == Some(id) {
            self.report = None;
            if let Ok(Answer::Report(report)) = result {
                if report.job.is_some() {
                    self.next_report = Instant::now() + REPORT_EVERY_DURING_JOB;
                }
                self.contact.send_replace(Contact::Up { report });
            }
        } else if let Some(reply) = self.pending.remove(&id) {
            // The caller may have given up; then nobody wants to know.
            let _ = reply.send(result);
        }
        Ok(())
    }
}
