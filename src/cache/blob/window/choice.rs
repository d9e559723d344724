//! Which window a reader joins (pure).

/// How many transfers of one blob run at a time: one for the readers of usual speed, one for those that fall behind.
pub(super) const MAX_TRANSFERS: usize = 2;
/// How far ahead of a window a reader waits for it although another transfer may be begun, in bytes.
const NEAR: u64 = 64 * 1024 * 1024;

/// The bytes that a window has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub low: u64,
    pub high: u64,
    pub is_running: bool,
    pub has_failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The window with this index.
    Join(usize),
    /// Open another one.
    Open,
    /// A reader that waits at an earlier position opens it.
    Defer,
    /// Until a transfer ends.
    Wait,
}

/// What a reader at `position` does, while others wait at these positions.
pub(super) fn choose(windows: &[Span], waiting: &[u64], position: u64) -> Choice {
    let usable = || {
        windows.iter().enumerate().filter(|(_, window)| {
            let ends_before = !window.is_running && window.high < position;
            !window.has_failed && window.low <= position && !ends_before
        })
    };
    let near = usable().filter(|(_, window)| position.saturating_sub(window.high) <= NEAR);
    if let Some((index, _)) = near.max_by_key(|(_, window)| window.low) {
        return Choice::Join(index);
    }
    if windows.iter().filter(|window| window.is_running).count() < MAX_TRANSFERS {
        let is_first = waiting.iter().all(|other| *other >= position || position - other > NEAR);
        return if is_first { Choice::Open } else { Choice::Defer };
    }
    match usable().max_by_key(|(_, window)| window.high) {
        Some((index, _)) => Choice::Join(index),
        None => Choice::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn running(low: u64, high: u64) -> Span {
        Span { low, high, is_running: true, has_failed: false }
    }

    fn over(low: u64, high: u64) -> Span {
        Span { is_running: false, ..running(low, high) }
    }

    fn failed(low: u64, high: u64) -> Span {
        Span { has_failed: true, ..over(low, high) }
    }

    #[test]
    fn a_reader_joins_a_window_or_opens_the_second() {
        let far = NEAR + 9 * MIB;
        // Windows, waiting readers, the position, and what the reader does.
        let cases: [(&[Span], &[u64], u64, Choice); 18] = [
            (&[], &[], 0, Choice::Open),
            (&[running(0, 0)], &[], 0, Choice::Join(0)),
            (&[running(0, 9)], &[], 5, Choice::Join(0)),
            // The stream will come there.
            (&[running(0, 9)], &[], 9 + NEAR, Choice::Join(0)),
            (&[running(0, 9)], &[], 10 + NEAR, Choice::Open),
            // Its first bytes are gone.
            (&[running(5, 9)], &[], 4, Choice::Open),
            // The nearest of two; where neither is near, the one that is ahead.
            (&[running(0, 9), running(4, 7)], &[], 5, Choice::Join(1)),
            (&[running(0, 9), running(4, 7)], &[], 3, Choice::Join(0)),
            (&[running(0, 2 * MIB), running(MIB, 3 * MIB)], &[], far, Choice::Join(1)),
            (&[running(5, 9), running(4, 7)], &[], 3, Choice::Wait),
            // A transfer that is over takes no place, and its bytes are still there.
            (&[running(5, 9), over(4, 7)], &[], 3, Choice::Open),
            (&[running(5, 9), over(3, 7)], &[], 3, Choice::Join(1)),
            (&[over(0, 9)], &[], 9, Choice::Join(0)),
            (&[over(0, 9)], &[], 10, Choice::Open),
            (&[failed(0, 9)], &[], 3, Choice::Open),
            // Of two that wait, the first opens the window for both.
            (&[], &[3], 5, Choice::Defer),
            (&[running(9, 9)], &[5], 5, Choice::Open),
            (&[], &[3], 4 + NEAR, Choice::Open),
        ];
        for (windows, waiting, position, expected) in cases {
            assert_eq!(choose(windows, waiting, position), expected, "{windows:?} {waiting:?} {position}");
        }
    }
}
