//! A file of `age` as text, for a field of a JSON object. `age -d` reads it as well.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

const BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const END: &str = "-----END AGE ENCRYPTED FILE-----";
/// Of a line.
const COLUMNS: usize = 64;

/// Whether it is one.
pub(crate) fn is_armored(text: &str) -> bool {
    text.starts_with(BEGIN)
}

/// As text.
pub(crate) fn armor(file: &[u8]) -> String {
    let text = BASE64.encode(file);
    let mut lines = vec![BEGIN];
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(COLUMNS));
        lines.push(line);
        rest = after;
    }
    lines.push(END);
    lines.join("\n") + "\n"
}

/// As bytes; `None` if it is no such text.
pub(crate) fn dearmor(text: &str) -> Option<Vec<u8>> {
    let inner = text.trim().strip_prefix(BEGIN)?.strip_suffix(END)?;
    BASE64.decode(inner.lines().collect::<String>()).ok()
}
