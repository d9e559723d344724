//! The requests that a download is for, in the lines of the log about it (pure).

use std::fmt;

use crate::request_id::RequestId;

/// How many ids a line has; of the others it has the number.
const MAX_NAMED: usize = 3;

/// The requests that have joined a download: a hundred clients make no longer line.
#[derive(Debug, Default)]
pub(super) struct WaitingRequests {
    first: [Option<RequestId>; MAX_NAMED],
    others: u64,
}

impl WaitingRequests {
    pub(super) fn add(&mut self, request: RequestId) {
        match self.first.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(request),
            None => self.others = self.others.saturating_add(1),
        }
    }

    /// Those that have names in a line.
    pub(super) fn first(&self) -> impl Iterator<Item = RequestId> {
        self.first.iter().flatten().copied()
    }
}

impl fmt::Display for WaitingRequests {
    /// The ids, separated by spaces; empty for a prefetch that no client waits for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, request) in self.first.iter().flatten().enumerate() {
            write!(f, "{}{request}", if index > 0 { " " } else { "" })?;
        }
        if self.others > 0 { write!(f, " and {} more", self.others) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_first_requests_and_counts_the_others() {
        let mut requests = WaitingRequests::default();
        for (number, text) in [
            (1, "0000000a-1"),
            (2, "0000000a-1 0000000a-2"),
            (3, "0000000a-1 0000000a-2 0000000a-3"),
            (4, "0000000a-1 0000000a-2 0000000a-3 and 1 more"),
            (5, "0000000a-1 0000000a-2 0000000a-3 and 2 more"),
        ] {
            requests.add(RequestId { instance: 10, number });
            assert_eq!(requests.to_string(), text);
        }
        assert_eq!(WaitingRequests::default().to_string(), "");
    }
}
