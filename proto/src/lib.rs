//! What operator and agent agree on, without I/O: the resources ([`api`]), the messages ([`wire`]) and the
//! decisions of the HA protocol ([`ha`]).
//!
//! Nothing here reads a clock, a file or a socket, so every rule can be tested and model-checked as it ships.

pub mod api;
pub mod clock;
pub mod ha;
pub mod identity;
pub mod pod;
pub mod postgres;
pub mod wire;
