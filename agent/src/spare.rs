//! Large buffers that are used again: of a new one the kernel has to clear every page, which costs as much as filling it.

use std::sync::{Arc, Mutex, PoisonError};

/// Those that nobody uses now; cheap to clone. It holds as many as were in use at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spare(Arc<Mutex<Vec<Vec<u8>>>>);

impl Spare {
    /// An empty buffer, which may have room.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Whoever takes one next gets this.
    pub(crate) fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_back_is_taken_again_and_empty() {
        let spare = Spare::default();
        let mut buffer = spare.take();
        buffer.extend_from_slice(&[7; 1000]);
        let there = buffer.as_ptr();
        spare.give_back(buffer);
        let again = spare.take();
        assert_eq!((again.as_ptr(), again.len()), (there, 0));
        assert_eq!(spare.take().capacity(), 0);
    }
}
