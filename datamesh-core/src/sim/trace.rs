//! Everything that happens, as a hash over all of it and, if that is asked for, as text.

use std::collections::VecDeque;
use std::fmt::Write;

/// Lines that are kept: the end of a run tells why it failed, and its beginning seldom does.
const MAX_LINES: usize = 4000;

/// Bytes of an event's content that its line shows.
const SHOWN_BYTES: usize = 6;

/// The record of one simulated run.
#[derive(Debug)]
pub(crate) struct Trace {
    hasher: blake3::Hasher,
    lines: Option<VecDeque<String>>,
    events: u64,
}

/// One event: what happened, where, with which numbers and bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) at: u64,
    pub(crate) kind: &'static str,
    pub(crate) node: u64,
    pub(crate) numbers: [u64; 2],
    pub(crate) bytes: &'a [u8],
}

impl Trace {
    pub(crate) fn new(keep_lines: bool) -> Self {
        let hasher = blake3::Hasher::new_derive_key("datamesh/v1/simulator-trace");
        Self { hasher, lines: keep_lines.then(VecDeque::new), events: 0 }
    }

    pub(crate) fn note(&mut self, entry: Entry<'_>) {
        self.events += 1;
        let [first, second] = entry.numbers;
        let mut fixed = [0; 40];
        let numbers = [entry.at, entry.node, first, second, entry.bytes.len() as u64];
        for (slot, number) in fixed.chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        self.hasher.update(entry.kind.as_bytes());
        self.hasher.update(&fixed);
        self.hasher.update(entry.bytes);
        if let Some(lines) = &mut self.lines {
            if lines.len() >= MAX_LINES {
                lines.pop_front();
            }
            lines.push_back(line(&entry));
        }
    }

    /// The hash over all events so far.
    pub(crate) fn hash(&self) -> blake3::Hash {
        self.hasher.finalize()
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// The last lines; none where they were not asked for.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.iter().flatten().cloned().collect()
    }
}

fn line(entry: &Entry<'_>) -> String {
    let micros = entry.at / 1000;
    let [first, second] = entry.numbers;
    let mut text = format!(
        "{:>6}.{:06} node {:<3} {:<16} {first} {second}",
        micros / 1_000_000,
        micros % 1_000_000,
        entry.node,
        entry.kind,
    );
    if !entry.bytes.is_empty() {
        text.push_str(" [");
        for byte in entry.bytes.iter().take(SHOWN_BYTES) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push(']');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_an_event_is_in_the_hash() {
        let entry = Entry { at: 1, kind: "x", node: 2, numbers: [3, 4], bytes: b"5" };
        let hash = |entry: Entry<'_>| {
            let mut trace = Trace::new(true);
            trace.note(entry);
            assert_eq!(trace.lines().len(), 1);
            trace.hash()
        };
        let changed = [
            Entry { at: 9, ..entry },
            Entry { kind: "y", ..entry },
            Entry { node: 9, ..entry },
            Entry { numbers: [9, 4], ..entry },
            Entry { numbers: [3, 9], ..entry },
            Entry { bytes: b"9", ..entry },
        ];
        assert_eq!(hash(entry), hash(entry));
        assert!(changed.into_iter().all(|other| hash(other) != hash(entry)));
    }
}
