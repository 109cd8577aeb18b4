//! What a test of a Database is made of: the Database, writers, what must hold, and faults.
//!
//! | module | role |
//! |---|---|
//! | [`kubectl`] | commands as people type them |
//! | [`wait`] | waiting with an end and a line of progress |
//! | [`database`] | one Database on the cluster: apply it, ask it, break it |
//! | [`fault`] | whatever leads just now breaks |
//! | [`switchover`] | asking for another primary |
//! | [`session`] | a connection that tells an acknowledged commit from one that was only finished |
//! | [`writer`] | an application that writes through `-rw` and remembers what was acknowledged |
//! | [`intruder`] | clients that try to write on every pod directly |
//! | [`verdict`] | what must hold after a fault |
//! | [`trial`] | one fault under load, from healthy to healthy |
//! | [`stage`] | the cluster, with the operator on it |

pub mod database;
pub mod fault;
pub mod intruder;
pub mod kubectl;
pub mod session;
pub mod stage;
pub mod switchover;
pub mod trial;
pub mod verdict;
pub mod wait;
pub mod writer;
