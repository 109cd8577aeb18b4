//! Clients on a node: whatever runs here sends its packets from the node's network namespace, and so stands on the
//! node's side when that is cut off. Memory and clock are those of the test.

use std::{
    fs::File,
    os::fd::AsFd,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::lab::Node;

/// A thread on a node; ends when dropped.
#[derive(Debug)]
pub struct Inside {
    handle: Handle,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Inside {
    /// A runtime of one thread, whose sockets are the node's: a socket belongs to the namespace of the thread that
    /// makes it.
    pub fn enter(node: &Node) -> Result<Self> {
        let (name, file) = (node.name().to_owned(), node.namespace());
        let namespace = File::open(&file).with_context(|| format!("cannot open {}", file.display()))?;
        let stop = CancellationToken::new();
        let (entered_in, entered) = mpsc::sync_channel(1);
        let stopped = stop.clone();
        let thread = thread::Builder::new().name(name.clone()).spawn(move || {
            let runtime = match runtime_in(&namespace) {
                Ok(runtime) => runtime,
                Err(error) => return drop(entered_in.send(Err(error))),
            };
            drop(entered_in.send(Ok(runtime.handle().clone())));
            runtime.block_on(stopped.cancelled());
        })?;
        let handle = entered.recv()?.with_context(|| format!("cannot enter the network of {name}"))?;
        Ok(Self { handle, stop, thread: Some(thread) })
    }

    /// To spawn on.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

fn runtime_in(namespace: &File) -> Result<tokio::runtime::Runtime> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(Builder::new_current_thread().enable_all().build()?)
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // It has nothing to wait for but the token; that it panicked was told by its tasks.
            drop(thread.join());
        }
    }
}
