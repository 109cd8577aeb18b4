//! What members ask each other, over mutual TLS (`proto::wire::peer`).
//!
//! Asking and answering are independent: [`client`] asks with a deadline per call and from cached addresses,
//! [`server`] hands questions to the driver and waits for its reply.

mod addresses;
pub(crate) mod client;
pub(crate) mod server;

#[cfg(test)]
mod tests;
