//! Calls cargo from within a program that cargo itself may have started.

use std::path::Path;

use tokio::process::Command;

/// What `cargo run` and `cargo test` tell the program that they start. Handed on, build scripts that look
/// at them (ring's does) would run again, and everything above them would be compiled again.
const SET_FOR_PROGRAMS: &[&str] =
    &["CARGO_BIN_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PRIMARY_"];

/// The folder of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// `cargo` in the workspace, as a shell would start it.
pub fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(workspace());
    for (name, _) in std::env::vars_os() {
        if SET_FOR_PROGRAMS.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_tells_this_test_is_not_handed_on() {
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "cargo no longer sets what is removed here");
        let command = cargo();
        let removed =
            command.as_std().get_envs().any(|(name, value)| name == "CARGO_PKG_NAME" && value.is_none());
        assert!(removed);
    }
}
