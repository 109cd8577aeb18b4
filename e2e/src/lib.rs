//! A real Kubernetes on one machine, faults for it, and the cluster tests of Matriarch.

pub mod bench;
pub mod cargo;
pub mod chaos;
pub mod csi;
pub mod demo;
pub mod fault;
pub mod figures;
pub mod images;
pub mod lab;
pub mod s3;
pub mod scenario;
pub mod suite;
