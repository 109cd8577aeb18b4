//! The decision core of docs/ha.md: pure, deterministic, model-checked.

pub mod profile;
