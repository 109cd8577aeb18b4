//! What a test of a Database is made of: the Database, writers, what must hold, and faults.
//!
//! | module | role |
//! |---|---|
//! | [`kubectl`] | commands as people type them |
//! | [`wait`] | waiting with an end and a line of progress |
//! | [`database`] | one Database on the cluster: apply it, ask it, break it |
//! | [`chronicle`] | what the members say that they saw and did |
//! | [`fault`] | whatever leads just now breaks |
//! | [`trouble`] | what may go wrong, and its end |
//! | [`ordeal`] | one or two of them at a time |
//! | [`peer`] | the port of a pod that wants a certificate |
//! | [`switchover`] | asking for another primary |
//! | [`session`] | a connection that tells an acknowledged commit from one that was only finished |
//! | [`writer`] | an application that writes through `-rw` and remembers what was acknowledged |
//! | [`intruder`] | clients that try to write on every pod directly, from outside and from inside the nodes |
//! | [`inside`] | where clients inside a node run |
//! | [`appender`] | clients that append to lists and read them, and remember every answer |
//! | [`history`] | whether those answers can be true |
//! | [`load`] | all of these clients at work, and what must hold of what they saw |
//! | [`verdict`] | what must hold after a fault |
//! | [`trial`] | one fault under load, from healthy to healthy |
//! | [`stage`] | the cluster, with the operator on it |

pub mod appender;
pub mod chronicle;
pub mod database;
pub mod fault;
pub mod history;
pub mod inside;
pub mod intruder;
pub mod kubectl;
pub mod load;
pub mod ordeal;
pub mod peer;
pub mod session;
pub mod stage;
pub mod switchover;
pub mod trial;
pub mod trouble;
pub mod verdict;
pub mod wait;
pub mod writer;
