//! Reads what `cargo test` prints: which test binaries ran and how their tests ended.
//!
//! A binary that says how many tests it will run and then no result has crashed; that counts as a failure,
//! and so does one that ran nothing where tests were expected.

use std::collections::BTreeSet;

/// How checks ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Did what they should.
    pub passed: u32,
    /// Did not.
    pub failed: u32,
    /// Could not run here, and said why.
    pub skipped: u32,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)?;
        match self.skipped {
            0 => Ok(()),
            skipped => write!(formatter, ", {skipped} skipped"),
        }
    }
}

/// What a test prints, at the start of a line, when it cannot run here.
pub const SKIPPED: &str = "skipped: ";

/// Of what a failed test said last, as much as the summary repeats.
const REASON_LINES: usize = 12;

/// A failed test.
#[derive(Debug)]
struct Failure {
    name: String,
    reason: Vec<String>,
}

/// Takes the output line by line.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// What cargo said it starts last.
    binary: String,
    /// Whether `binary` announced tests and has not given its result yet.
    open: bool,
    ran: BTreeSet<String>,
    tally: Tally,
    crashed: Vec<String>,
    failures: Vec<Failure>,
    /// Whose output is being read, and whether it has come to why it failed.
    telling: Option<(usize, bool)>,
    skips: Vec<String>,
}

impl Reader {
    /// Takes one line.
    pub(super) fn line(&mut self, line: &str) {
        if let Some(name) = started_binary(line) {
            self.close();
            self.binary = name;
        } else if line.starts_with("running ") && (line.ends_with(" tests") || line.ends_with(" test")) {
            self.close();
            self.open = true;
        } else if let Some(counts) = self.open.then(|| result(line)).flatten() {
            self.open = false;
            self.tally += counts;
            if counts.passed + counts.failed > 0 {
                self.ran.insert(self.binary.clone());
            }
        } else if let Some(name) = failed_test(line) {
            self.failures.push(Failure { name: format!("{}: {name}", self.binary), reason: Vec::new() });
        } else if let Some(name) = output_of(line) {
            let name = format!("{}: {name}", self.binary);
            let failed = self.failures.iter().position(|failure| failure.name == name);
            self.telling = failed.map(|index| (index, false));
        } else if let Some(reason) = line.strip_prefix(SKIPPED) {
            self.skips.push(reason.to_owned());
        } else {
            self.reason(line);
        }
    }

    fn reason(&mut self, line: &str) {
        let Some((index, begun)) = &mut self.telling else { return };
        *begun |= line.starts_with("Error: ") || line.starts_with("thread '");
        if let Some(failure) = self.failures.get_mut(*index).filter(|_| *begun && !line.is_empty())
            && failure.reason.len() < REASON_LINES
        {
            failure.reason.push(line.to_owned());
        }
    }

    /// How it ended, given the binaries that must have run at least one test.
    pub(super) fn finish(mut self, expected: &[String]) -> Outcome {
        self.close();
        let silent = expected.iter().filter(|name| !self.ran.contains(*name));
        let mut problems: Vec<String> = silent.map(|name| format!("{name}: ran no test")).collect();
        problems.extend(self.crashed.iter().map(|name| format!("{name}: ended without a result")));
        let skipped = u32::try_from(self.skips.len()).unwrap_or(u32::MAX).min(self.tally.passed);
        let tally = Tally {
            passed: self.tally.passed - skipped,
            failed: self.tally.failed + u32::try_from(problems.len()).unwrap_or(u32::MAX),
            skipped,
        };
        problems.extend(self.failures.into_iter().map(|failure| {
            let lines = std::iter::once(failure.name).chain(failure.reason);
            lines.collect::<Vec<_>>().join("\n    ")
        }));
        Outcome { tally, problems, skips: self.skips }
    }

    fn close(&mut self) {
        self.telling = None;
        if std::mem::take(&mut self.open) {
            self.crashed.push(self.binary.clone());
        }
    }
}

/// What a run of `cargo test` came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Of all binaries together.
    pub(super) tally: Tally,
    /// Each failure, with its reason on further lines.
    pub(super) problems: Vec<String>,
    /// Why tests were skipped.
    pub(super) skips: Vec<String>,
}

/// `Running unittests src/lib.rs (target/debug/deps/e2e-0123)` gives `e2e`.
fn started_binary(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("documentation of {name}"));
    }
    let (_, path) = line.strip_prefix("Running ")?.split_once(" (")?;
    let file = path.strip_suffix(')')?.rsplit('/').next()?;
    Some(file.rsplit_once('-')?.0.to_owned())
}

/// `test result: ok. 11 passed; 0 failed; 1 ignored; ...`
fn result(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |what: &str| -> Option<u32> {
        counts.split("; ").find_map(|part| part.strip_suffix(what))?.trim().parse().ok()
    };
    Some(Tally { passed: count(" passed")?, failed: count(" failed")?, skipped: 0 })
}

/// `test lab::works ... FAILED`
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// `---- lab::works stdout ----`
fn output_of(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "     Running unittests src/lib.rs (/t/debug/deps/e2e-bfdaf51645ee4a86)\n\
        \nrunning 3 tests\ntest a ... ok\ntest b ... ok\ntest c ... ignored, needs a cluster\n\
        \ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.22s\n\
        \n   Doc-tests e2e\n\nrunning 0 tests\n\
        \ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";

    fn read(text: &str, expected: &[&str]) -> Outcome {
        let mut reader = Reader::default();
        text.lines().for_each(|line| reader.line(line));
        reader.finish(&expected.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn results_of_all_binaries_are_summed() {
        let twice = format!("{GOOD}{}", GOOD.replace("e2e", "proto"));
        let outcome = read(&twice, &["e2e", "proto"]);
        assert_eq!(outcome.tally, Tally { passed: 4, failed: 0, skipped: 0 });
        assert!(outcome.problems.is_empty(), "{outcome:?}");
    }

    #[test]
    fn a_failed_test_is_named() {
        let text = GOOD
            .replace("test b ... ok", "test b ... FAILED")
            .replace("ok. 2 passed; 0", "FAILED. 1 passed; 1");
        let outcome = read(&text, &["e2e"]);
        assert_eq!(outcome.tally, Tally { passed: 1, failed: 1, skipped: 0 });
        assert_eq!(outcome.problems, ["e2e: b"]);
    }

    #[test]
    fn a_failure_is_told_with_its_reason() {
        let said = "---- a stdout ----\nError: not this\n---- b stdout ----\nwork\nError: it broke\n\nCaused by:\n    \
            0: no\n\n";
        let text = GOOD.replace("test b ... ok", "test b ... FAILED").replace(
            "\ntest result: ok. 2 passed; 0",
            &format!("{said}failures:\n    b\n\ntest result: FAILED. 1 passed; 1"),
        );
        let outcome = read(&text, &["e2e"]);
        assert_eq!(outcome.tally, Tally { passed: 1, failed: 1, skipped: 0 });
        let lines: Vec<_> = outcome.problems[0].lines().map(str::trim).take(4).collect();
        assert_eq!(lines, ["e2e: b", "Error: it broke", "Caused by:", "0: no"]);
    }

    #[test]
    fn a_binary_that_dies_is_a_failure() {
        let text = GOOD.lines().take(4).collect::<Vec<_>>().join("\n");
        for text in [text.clone(), format!("{text}\n{}", GOOD.replace("e2e", "proto"))] {
            let outcome = read(&text, &[]);
            assert_eq!(outcome.tally.failed, 1);
            assert_eq!(outcome.problems, ["e2e: ended without a result"]);
        }
    }

    #[test]
    fn a_binary_that_ran_nothing_is_a_failure_where_tests_were_expected() {
        let outcome = read(GOOD, &["e2e", "failover"]);
        assert_eq!(outcome.tally, Tally { passed: 2, failed: 1, skipped: 0 });
        assert_eq!(outcome.problems, ["failover: ran no test"]);
        assert_eq!(read("", &["e2e"]).tally.failed, 1);
    }

    #[test]
    fn a_test_that_says_that_it_skips_has_not_passed() {
        let outcome = read(&format!("{GOOD}skipped: this cluster has no fault injection\n"), &["e2e"]);
        assert_eq!(outcome.tally, Tally { passed: 1, failed: 0, skipped: 1 });
        assert_eq!(outcome.skips, ["this cluster has no fault injection"]);
    }

    #[test]
    fn the_final_line_has_the_form_that_ci_reads() {
        assert_eq!(Tally { passed: 3, failed: 1, skipped: 0 }.to_string(), "3 passed, 1 failed");
        assert_eq!(Tally { passed: 3, failed: 0, skipped: 2 }.to_string(), "3 passed, 0 failed, 2 skipped");
    }
}
