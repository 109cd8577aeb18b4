//! Whether what clients saw of append-only lists can have happened one operation after the other, each at some
//! moment between its beginning and its end (linearizability), and with nothing acknowledged lost.
//!
//! Lists make that simple, as in Elle: every append adds a value that no other append adds, so that the last
//! reading of a key shows the order of all its appends, and each answer shows where in that order it stood. An
//! answer is a *version*: the number of values that it shows. A history is linearizable exactly if every answer
//! is a beginning of the last reading, and no operation shows less than one that had ended before it began.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// One operation of one client on one key.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Which list.
    pub key: i64,
    /// The value that it added; `None` for a read.
    pub append: Option<i64>,
    /// When it was sent.
    pub began: Instant,
    /// What was answered; `None`: an append that may have happened, and may happen yet.
    pub answer: Option<Answer>,
}

/// An answer: the whole list, after the append if it was one.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When it came.
    pub at: Instant,
    /// All values, in order.
    pub items: Vec<i64>,
}

/// How a history contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An acknowledged append is not there at the end.
    #[error("key {key}: the append of {value} was acknowledged and is lost")]
    Lost {
        /// Which list.
        key: i64,
        /// Which value.
        value: i64,
    },
    /// A value is there twice.
    #[error("key {key}: {value} was appended once and is there twice")]
    Twice {
        /// Which list.
        key: i64,
        /// Which value.
        value: i64,
    },
    /// A value that nobody appended.
    #[error("key {key}: nobody appended {value}")]
    Invented {
        /// Which list.
        key: i64,
        /// Which value.
        value: i64,
    },
    /// Somebody saw a list that is no beginning of what the list became: two histories, or an undone commit.
    #[error("key {key}: an answer of {length} values is no beginning of what the list became")]
    Forked {
        /// Which list.
        key: i64,
        /// Number of values in the answer.
        length: usize,
    },
    /// An acknowledged append was answered with a list that does not end with it.
    #[error("key {key}: the answer to the append of {value} does not end with it")]
    Misplaced {
        /// Which list.
        key: i64,
        /// Which value.
        value: i64,
    },
    /// An operation shows less than one that ended before it began.
    #[error("key {key}: an operation showed version {shown} after another had shown {earlier}")]
    Stale {
        /// Which list.
        key: i64,
        /// What was seen before.
        earlier: usize,
        /// What was seen after.
        shown: usize,
    },
}

/// Checks all keys. `last` are readings after everything has healed; a key that is absent is empty.
pub fn check(operations: &[Operation], last: &BTreeMap<i64, Vec<i64>>) -> Result<(), Violation> {
    let mut by_key: BTreeMap<i64, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        by_key.entry(operation.key).or_default().push(operation);
    }
    let nothing = Vec::new();
    by_key
        .iter()
        .try_for_each(|(key, operations)| check_key(*key, operations, last.get(key).unwrap_or(&nothing)))
}

fn check_key(key: i64, operations: &[&Operation], last: &[i64]) -> Result<(), Violation> {
    appended_once(key, operations, last)?;
    for operation in operations {
        answer_fits(key, operation, last)?;
    }
    in_real_time(key, operations, last)
}

fn appended_once(key: i64, operations: &[&Operation], last: &[i64]) -> Result<(), Violation> {
    let appended: BTreeSet<i64> = operations.iter().filter_map(|operation| operation.append).collect();
    let mut seen = BTreeSet::new();
    for value in last.iter().copied() {
        if !appended.contains(&value) {
            return Err(Violation::Invented { key, value });
        }
        if !seen.insert(value) {
            return Err(Violation::Twice { key, value });
        }
    }
    let acknowledged = operations.iter().filter(|operation| operation.answer.is_some());
    match acknowledged.filter_map(|operation| operation.append).find(|value| !seen.contains(value)) {
        Some(value) => Err(Violation::Lost { key, value }),
        None => Ok(()),
    }
}

fn answer_fits(key: i64, operation: &Operation, last: &[i64]) -> Result<(), Violation> {
    let Some(answer) = &operation.answer else { return Ok(()) };
    if !last.starts_with(&answer.items) {
        return Err(Violation::Forked { key, length: answer.items.len() });
    }
    match operation.append {
        Some(value) if answer.items.last() != Some(&value) => Err(Violation::Misplaced { key, value }),
        _ => Ok(()),
    }
}

/// Looks at operations in the order of their beginnings, with the highest version that had been shown by then.
fn in_real_time(key: i64, operations: &[&Operation], last: &[i64]) -> Result<(), Violation> {
    let mut begun: Vec<(Instant, usize, bool)> = operations.iter().filter_map(|o| version(o, last)).collect();
    begun.sort_unstable();
    let answers = operations.iter().filter_map(|operation| operation.answer.as_ref());
    let mut ended: Vec<(Instant, usize)> = answers.map(|answer| (answer.at, answer.items.len())).collect();
    ended.sort_unstable();
    let (mut ended, mut earlier) = (ended.into_iter().peekable(), 0);
    for (began, shown, appends) in begun {
        while let Some((_, version)) = ended.next_if(|(at, _)| *at < began) {
            earlier = earlier.max(version);
        }
        // An append makes a version of its own, a read may show one that others have shown.
        if shown < earlier + usize::from(appends) {
            return Err(Violation::Stale { key, earlier, shown });
        }
    }
    Ok(())
}

/// When an operation began, which version it made or showed, and whether it made it. An append without an answer
/// that is nowhere to be seen did not happen.
fn version(operation: &Operation, last: &[i64]) -> Option<(Instant, usize, bool)> {
    let shown = match (operation.append, &operation.answer) {
        (Some(value), _) => last.iter().position(|item| *item == value)? + 1,
        (None, answer) => answer.as_ref()?.items.len(),
    };
    Some((operation.began, shown, operation.append.is_some()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Story(Instant, Vec<Operation>);

    impl Story {
        fn new() -> Self {
            Self(Instant::now(), Vec::new())
        }

        fn tell(mut self, append: Option<i64>, began: u64, answer: Option<(u64, &[i64])>) -> Self {
            let at = |seconds| self.0 + Duration::from_secs(seconds);
            let answer = answer.map(|(ended, items)| Answer { at: at(ended), items: items.to_vec() });
            self.1.push(Operation { key: 7, append, began: at(began), answer });
            self
        }

        fn append(self, value: i64, began: u64, ended: u64, items: &[i64]) -> Self {
            self.tell(Some(value), began, Some((ended, items)))
        }

        fn unanswered(self, value: i64, began: u64) -> Self {
            self.tell(Some(value), began, None)
        }

        fn read(self, began: u64, ended: u64, items: &[i64]) -> Self {
            self.tell(None, began, Some((ended, items)))
        }

        fn ends(self, last: &[i64]) -> Result<(), Violation> {
            check(&self.1, &BTreeMap::from([(7, last.to_vec())]))
        }
    }

    #[test]
    fn what_one_server_does_is_accepted() {
        Story::new()
            .append(1, 0, 2, &[1])
            .append(2, 1, 4, &[1, 2])
            .read(1, 3, &[1])
            .read(5, 6, &[1, 2])
            .ends(&[1, 2])
            .unwrap();
        check(&[], &BTreeMap::new()).unwrap();
    }

    #[test]
    fn an_append_without_an_answer_may_have_happened_or_not_or_late() {
        Story::new().unanswered(1, 0).append(2, 1, 2, &[2]).ends(&[2]).unwrap();
        Story::new().unanswered(1, 0).append(2, 1, 2, &[1, 2]).ends(&[1, 2]).unwrap();
        Story::new().unanswered(1, 0).append(2, 1, 2, &[2]).ends(&[2, 1]).unwrap();
    }

    #[test]
    fn overlapping_operations_may_go_either_way() {
        Story::new().append(1, 0, 9, &[1]).read(1, 2, &[]).read(3, 4, &[1]).ends(&[1]).unwrap();
        Story::new().append(1, 0, 9, &[2, 1]).append(2, 0, 9, &[2]).ends(&[2, 1]).unwrap();
    }

    #[test]
    fn a_lost_commit_is_found() {
        let story = Story::new().append(1, 0, 1, &[1]).append(2, 2, 3, &[1, 2]);
        assert_eq!(story.ends(&[1]), Err(Violation::Lost { key: 7, value: 2 }));
        let whole_key = Story::new().append(1, 0, 1, &[1]);
        assert_eq!(check(&whole_key.1, &BTreeMap::new()), Err(Violation::Lost { key: 7, value: 1 }));
    }

    #[test]
    fn a_split_brain_is_found() {
        // Both sides acknowledge; one side's history is what remains.
        let story = Story::new().append(1, 0, 1, &[1]).read(2, 3, &[1]).append(2, 2, 3, &[2]);
        assert_eq!(story.ends(&[2]), Err(Violation::Lost { key: 7, value: 1 }));
        let merged = Story::new().append(1, 0, 1, &[1]).append(2, 0, 1, &[2]);
        assert_eq!(merged.ends(&[1, 2]), Err(Violation::Forked { key: 7, length: 1 }));
    }

    #[test]
    fn a_commit_that_somebody_saw_and_that_is_gone_is_found() {
        let story = Story::new().unanswered(1, 0).read(1, 2, &[1]).append(2, 3, 4, &[2]);
        assert_eq!(story.ends(&[2]), Err(Violation::Forked { key: 7, length: 1 }));
    }

    #[test]
    fn a_stale_read_of_a_fenced_primary_is_found() {
        let story = Story::new().append(1, 0, 1, &[1]).append(2, 2, 3, &[1, 2]).read(4, 5, &[1]);
        assert_eq!(story.ends(&[1, 2]), Err(Violation::Stale { key: 7, earlier: 2, shown: 1 }));
        let two_reads = Story::new().append(1, 0, 9, &[1]).read(1, 2, &[1]).read(3, 4, &[]);
        assert_eq!(two_reads.ends(&[1]), Err(Violation::Stale { key: 7, earlier: 1, shown: 0 }));
    }

    #[test]
    fn an_append_that_goes_back_in_time_is_found() {
        let story = Story::new().append(1, 0, 1, &[2, 1]).append(2, 2, 3, &[2]);
        assert_eq!(story.ends(&[2, 1]), Err(Violation::Stale { key: 7, earlier: 2, shown: 1 }));
        let before_it_was_sent = Story::new().append(1, 0, 1, &[2, 1]).unanswered(2, 2);
        assert_eq!(before_it_was_sent.ends(&[2, 1]), Err(Violation::Stale { key: 7, earlier: 2, shown: 1 }));
    }

    #[test]
    fn nonsense_is_found() {
        assert_eq!(
            Story::new().append(1, 0, 1, &[1]).ends(&[1, 1]),
            Err(Violation::Twice { key: 7, value: 1 })
        );
        assert_eq!(Story::new().read(0, 1, &[]).ends(&[3]), Err(Violation::Invented { key: 7, value: 3 }));
        let story = Story::new().append(1, 0, 1, &[1]).append(2, 0, 1, &[1]);
        assert_eq!(story.ends(&[1, 2]), Err(Violation::Misplaced { key: 7, value: 2 }));
    }

    /// Against the definition: tries every order that keeps real time, on small random histories.
    #[test]
    fn agrees_with_a_search_of_all_orders() {
        let mut dice = crate::chaos::dice::Dice::new(1);
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..4_000 {
            let (story, last) = random_story(&mut dice);
            let verdict = check(&story, &BTreeMap::from([(7, last.clone())])).is_ok();
            assert_eq!(verdict, some_order_explains(&story, &last), "{story:?} {last:?}");
            *if verdict { &mut accepted } else { &mut refused } += 1;
        }
        assert!(accepted > 100 && refused > 100, "{accepted} accepted, {refused} refused");
    }

    fn random_story(dice: &mut crate::chaos::dice::Dice) -> (Vec<Operation>, Vec<i64>) {
        let values: Vec<i64> = (1..=i64::try_from(1 + dice.below(3)).unwrap()).collect();
        let mut last = values.clone();
        if dice.percent(30) {
            last.reverse();
        }
        last.truncate(values.len() - usize::from(dice.percent(20)));
        let mut story = Story::new();
        for value in &values {
            let began = dice.below(6);
            let shown = last.iter().position(|item| item == value).map_or(0, |index| index + 1);
            let answered = dice.percent(70).then(|| (began + 1 + dice.below(4), &last[..shown]));
            story = story.tell(Some(*value), began, answered);
        }
        for _ in 0..dice.below(3) {
            let began = dice.below(8);
            let shown = usize::try_from(dice.below(last.len() as u64 + 1)).unwrap();
            story = story.tell(None, began, Some((began + 1 + dice.below(2), &last[..shown])));
        }
        (story.1, last)
    }

    /// Linearizability by its definition: some order of the operations, those without an answer at will, in
    /// which each begins after those that ended before it, gives every answer and the last reading.
    fn some_order_explains(story: &[Operation], last: &[i64]) -> bool {
        search(story, &mut vec![false; story.len()], &mut Vec::new(), last)
    }

    fn search(story: &[Operation], done: &mut Vec<bool>, now: &mut Vec<i64>, last: &[i64]) -> bool {
        if *now == last && story.iter().zip(&*done).all(|(o, done)| *done || o.answer.is_none()) {
            return true;
        }
        for next in 0..story.len() {
            let too_early =
                |other: &Operation| other.answer.as_ref().is_some_and(|a| a.at < story[next].began);
            if done[next] || story.iter().zip(&*done).any(|(other, done)| !*done && too_early(other)) {
                continue;
            }
            done[next] = true;
            now.extend(story[next].append);
            let fits = story[next].answer.as_ref().is_none_or(|answer| answer.items == *now);
            if fits && search(story, done, now, last) {
                return true;
            }
            done[next] = false;
            if story[next].append.is_some() {
                now.pop();
            }
        }
        false
    }
}
