//! The resources that people write: [`database::Database`], its rules for `kubectl apply`, its status.
//!
//! | module | holds |
//! |---|---|
//! | [`database`] | the spec as the API server stores it, defaults included |
//! | [`rules`] | CEL rules with which the API server itself refuses a bad spec, no webhook needed |
//! | [`reserved`] | PostgreSQL settings that belong to the operator or the agent, and why |
//! | [`valid`] | the spec parsed once into types that cannot be wrong |
//! | [`status`] | what was observed |
//! | [`repository`] | the parts of the spec that concern backups |
//! | [`backup`] | `Backup`, one run |
//! | [`backup_rules`] | CEL rules of both |
//! | [`schedule`] | when backups are taken |
//! | [`crd`] | the CustomResourceDefinitions, generated into `manifests/crds/` |
//!
//! The rules and [`valid`] say the same thing twice on purpose: an object stored before a rule existed never
//! passes through it again until somebody edits it.

pub mod backup;
pub mod backup_rules;
pub mod crd;
pub mod database;
pub mod quantity;
pub mod repository;
pub mod reserved;
pub mod rules;
pub mod schedule;
pub mod status;
pub mod valid;
pub mod version;
