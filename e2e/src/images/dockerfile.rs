//! Reads the Dockerfiles of the project, so that the images of the lab are the images that ship.
//!
//! Only what a single static program needs is understood; anything else is refused, not skipped.

use anyhow::{Context, Result, bail, ensure};

/// What a Dockerfile of the project says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dockerfile {
    /// From the build context to the absolute path in the image.
    pub(super) copies: Vec<(String, String)>,
    pub(super) user: String,
    pub(super) entrypoint: Vec<String>,
}

pub(super) fn parse(text: &str) -> Result<Dockerfile> {
    let mut file = Dockerfile::default();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    ensure!(lines.next() == Some("FROM scratch"), "the first instruction must be FROM scratch");
    for line in lines {
        let (instruction, rest) = line.split_once(' ').with_context(|| format!("{line:?} says nothing"))?;
        match instruction {
            "COPY" => file.copies.push(copy(rest)?),
            "USER" => rest.clone_into(&mut file.user),
            "ENTRYPOINT" => {
                let form = || format!("ENTRYPOINT must be a JSON list, not {rest}");
                file.entrypoint = serde_json::from_str(rest).with_context(form)?;
            }
            _ => bail!("{instruction} is not understood here: only COPY, USER and ENTRYPOINT are"),
        }
    }
    Ok(file)
}

fn copy(rest: &str) -> Result<(String, String)> {
    match rest.split_whitespace().collect::<Vec<_>>()[..] {
        [from, to] if to.starts_with('/') => Ok((from.to_owned(), to.to_owned())),
        _ => bail!("COPY must name one file and an absolute path, not {rest:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dockerfile_says_is_understood() {
        let file =
            parse("# why\nFROM scratch\n\nCOPY agent /agent\nUSER 1:1\nENTRYPOINT [\"/agent\"]\n").unwrap();
        assert_eq!(file.copies, [("agent".to_owned(), "/agent".to_owned())]);
        assert_eq!((file.user.as_str(), file.entrypoint), ("1:1", vec!["/agent".to_owned()]));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, reason) in [
            ("FROM debian\n", "FROM scratch"),
            ("FROM scratch\nRUN true\n", "RUN"),
            ("FROM scratch\nCOPY a b c\n", "COPY"),
            ("FROM scratch\nENTRYPOINT /agent\n", "JSON"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
