//! Reads server-sent events as the control API sends them: a name, and JSON in one line.
//!
//! Source: HTML Living Standard, section 9.2.6, "Interpreting an event stream".

use serde_json::Value;

/// The longest event, in bytes.
const MAX_EVENT: usize = 1024 * 1024;

/// Why a stream of events cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum EventError {
    #[error("an event is longer than {MAX_EVENT} bytes")]
    TooLong,
    #[error("an event is no JSON")]
    NotJson(#[from] serde_json::Error),
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    pub name: String,
    pub data: Value,
}

/// Makes events of bytes, however these are divided.
#[derive(Debug, Default)]
pub(super) struct EventParser {
    /// What came of the next line.
    line: Vec<u8>,
    name: String,
    data: String,
}

impl EventParser {
    /// The events that are whole with these bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, EventError> {
        let mut events = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.len() + self.data.len() > MAX_EVENT {
                return Err(EventError::TooLong);
            }
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                events.extend(self.end_line(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']))?);
            }
        }
        Ok(events)
    }

    fn end_line(&mut self, line: &str) -> Result<Option<Event>, EventError> {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => self.data.push_str(value),
            "" if line.is_empty() && !self.data.is_empty() => {
                let data = serde_json::from_str(&std::mem::take(&mut self.data))?;
                return Ok(Some(Event { name: std::mem::take(&mut self.name), data }));
            }
            // A comment, which keeps the connection alive, or a field that is not used here.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const STREAM: &str = ": alive\n\nevent: request\ndata: {\"id\":\"1\",\ndata: \"n\":2}\nretry: 1\n\nevent: done\r\ndata: null\r\n\r\ndata: 7\n";

    proptest! {
        #[test]
        fn events_are_read_however_the_bytes_are_divided(cuts in proptest::collection::vec(0..STREAM.len(), 0..8)) {
            let mut cuts = cuts;
            cuts.extend([0, STREAM.len()]);
            cuts.sort_unstable();
            let (mut parser, mut events) = (EventParser::default(), Vec::new());
            for cut in cuts.windows(2) {
                events.extend(parser.push(&STREAM.as_bytes()[cut[0]..cut[1]]).unwrap());
            }
            let expected = [("request", json!({ "id": "1", "n": 2 })), ("done", json!(null))];
            prop_assert_eq!(events, expected.map(|(name, data)| Event { name: name.to_owned(), data }));
        }
    }

    #[test]
    fn a_stream_that_makes_no_sense_is_an_error_and_never_grows() {
        assert!(matches!(EventParser::default().push(b"data: {\n\n"), Err(EventError::NotJson(_))));
        let mut parser = EventParser::default();
        let endless = [b'x'; 1000];
        assert!(std::iter::repeat_with(|| parser.push(&endless)).take(2000).any(|pushed| pushed.is_err()));
        let mut parser = EventParser::default();
        assert!(
            std::iter::repeat_with(|| parser.push(b"data: 1111111111\n")).take(200_000).any(|pushed| pushed.is_err())
        );
    }
}
