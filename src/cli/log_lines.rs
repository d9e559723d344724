//! Formats events of the log as lines of JSON.
//!
//! What must hold: a line has the bytes that the formatter of `tracing-subscriber` writes. That one takes a quarter of
//! the time of a cached manifest's request, mostly for calls of one byte or one word each. This one fills a buffer of
//! the thread and escapes only text that needs it. Two differences are meant: a line within the span of a request has
//! the request's `id` beside its own fields, as the line of the request itself has it; and letters that a client sends
//! to move a terminal's cursor, or to hide or break a line, are escaped.

use std::{
    cell::Cell,
    fmt::{self, Debug, Write},
    time::{Duration, SystemTime},
};

use forebay::{request_trace, visible};
use serde::Serialize;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::{Format, Json, Writer},
    },
    registry::{LookupSpan, SpanRef},
};

/// A buffer that a longer line has enlarged is not kept.
const MAX_KEPT: usize = 16 * 1024;

thread_local! {
    /// Taken while a line is formatted: a value that logs while it is formatted finds an empty buffer.
    static LINE: Cell<String> = const { Cell::new(String::new()) };
}

/// The formatter of lines.
pub(super) struct LogLines {
    /// For events within spans of libraries, which are only in logs of more than `info`.
    within_spans: Format<Json>,
}

impl Default for LogLines {
    fn default() -> Self {
        Self { within_spans: Format::default().json().flatten_event(true) }
    }
}

impl<S, N> FormatEvent<S, N> for LogLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let scope = match context.event_scope() {
            Some(scope) => scope.fold(Scope::Nothing, Scope::with::<S, N>),
            None => Scope::Nothing,
        };
        let request = match &scope {
            Scope::Nothing => "",
            Scope::Request(fields) => fields.as_str(),
            Scope::Others => return self.within_spans.format_event(context, writer, event),
        };
        let mut line = LINE.take();
        line.clear();
        let now = SystemTime::now();
        let result = write_line(&mut line, event, request, now).and_then(|()| writer.write_str(&line));
        if line.capacity() <= MAX_KEPT {
            LINE.set(line);
        }
        result
    }
}

/// The spans that an event is in.
enum Scope {
    Nothing,
    /// Those of one request, with its formatted fields: `"id":"…"`.
    Request(String),
    Others,
}

impl Scope {
    fn with<S, N>(self, span: SpanRef<'_, S>) -> Self
    where
        S: for<'a> LookupSpan<'a>,
        N: 'static,
    {
        match self {
            _ if span.name() != request_trace::SPAN || !span.metadata().target().starts_with("forebay") => Self::Others,
            Self::Nothing => {
                let extensions = span.extensions();
                let fields = extensions.get::<FormattedFields<N>>().map_or("", |fields| fields.fields.as_str());
                let fields = fields.strip_prefix('{').and_then(|fields| fields.strip_suffix('}')).unwrap_or_default();
                Self::Request(fields.to_owned())
            }
            // The innermost comes first.
            Self::Request(_) | Self::Others => self,
        }
    }
}

/// `request`: fields of the request that the event belongs to.
fn write_line(line: &mut String, event: &Event<'_>, request: &str, now: SystemTime) -> fmt::Result {
    let metadata = event.metadata();
    // A clock before 1970 would be an error, and one after 9999 a longer date.
    let now = now.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799));
    write!(line, "{{\"timestamp\":\"{}\"", humantime::format_rfc3339_micros(now))?;
    for part in [",\"level\":\"", metadata.level().as_str(), "\""] {
        line.push_str(part);
    }
    if !request.is_empty() {
        line.push(',');
        line.push_str(request);
    }
    event.record(&mut Fields(line));
    line.push_str(",\"target\":\"");
    push_escaped(line, metadata.target());
    line.push_str("\"}\n");
    Ok(())
}

/// Appends fields to an object.
struct Fields<'a>(&'a mut String);

impl Fields<'_> {
    fn key(&mut self, field: &Field) {
        self.0.push_str(",\"");
        push_escaped(self.0, field.name());
        self.0.push_str("\":");
    }

    /// A number or a truth value: no longer than 24 characters.
    fn plain(&mut self, field: &Field, value: impl Serialize) {
        self.key(field);
        let mut text = [0; 32];
        let mut rest = &mut text[..];
        let written = serde_json::to_writer(&mut rest, &value);
        let left = rest.len();
        let text = str::from_utf8(&text[..32 - left]).ok().filter(|_| written.is_ok());
        self.0.push_str(text.unwrap_or("null"));
    }
}

impl Visit for Fields<'_> {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.plain(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.key(field);
        self.0.push('"');
        push_escaped(self.0, value);
        self.0.push('"');
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.key(field);
        self.0.push('"');
        let _ = write!(Escaping(self.0), "{value:?}");
        self.0.push('"');
    }
}

/// Escapes what is written for a JSON string.
struct Escaping<'a>(&'a mut String);

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        push_escaped(self.0, text);
        Ok(())
    }
}

fn push_escaped(line: &mut String, text: &str) {
    // Eight bytes at a time without an early end, so that the compiler compares them at once.
    let needs_escape = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(false, |needs, byte| needs | (*byte < b' ') | (*byte >= b'\x7f') | (*byte == b'"') | (*byte == b'\\'))
    };
    let (chunks, rest) = text.as_bytes().as_chunks::<8>();
    if !chunks.iter().any(|chunk| needs_escape(chunk)) && !needs_escape(rest) {
        line.push_str(text);
    } else if let Ok(quoted) = serde_json::to_string(text) {
        let inner = quoted.strip_prefix('"').and_then(|quoted| quoted.strip_suffix('"'));
        visible::push_json(line, inner.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use parking_lot::Mutex;
    use proptest::prelude::*;
    use tracing_subscriber::fmt::{MakeWriter, format::JsonFields};

    use super::*;
    use forebay::visible::is_deceptive;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    impl Lines {
        /// The lines, each without its timestamp.
        fn text(&self) -> String {
            let text = String::from_utf8(self.0.lock().clone()).unwrap();
            let is_stamped = |line: &str| line.starts_with(r#"{"timestamp":""#) && &line[41..43] == "\",";
            assert!(text.lines().all(is_stamped), "{text}");
            text.lines().map(|line| format!("{}\n", &line[42..])).collect()
        }
    }

    /// What both formatters make of the same events: this one, and that of the library.
    fn both(log: impl Fn()) -> (String, String) {
        let (own, library) = (Lines::default(), Lines::default());
        let builder = || tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
        let lines = builder().event_format(LogLines::default()).fmt_fields(JsonFields::new());
        tracing::subscriber::with_default(lines.with_writer(own.clone()).finish(), &log);
        let lines = builder().json().flatten_event(true);
        tracing::subscriber::with_default(lines.with_writer(library.clone()).finish(), &log);
        (own.text(), library.text())
    }

    #[test]
    fn a_line_has_the_bytes_of_the_library() {
        let (own, library) = both(|| {
            tracing::info!("nothing but words");
            tracing::error!(error = &io::Error::other("a \"b\"\n") as &dyn std::error::Error, "failed: {}", "a\\b");
            tracing::warn!(
                yes = true,
                no = false,
                least = i64::MIN,
                most = u64::MAX,
                wide = u128::MAX,
                absent = None::<u64>
            );
            tracing::debug!(shown = %"a\tb", debugged = ?"a\u{1}b\u{7f}é", "quoted.key" = 1, text = "\u{8}\u{c}\r\u{1f}/");
            tracing::trace!(target: "an\"other", parent: None, many = ?[1, 2, 3]);
            for seconds in [0.0, 1.0, 1.5e-7, 0.000_123, 12.5, 1e15, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                tracing::info!(seconds);
            }
        });
        assert_eq!(own, library);
        assert_eq!(own.lines().count(), 14);
    }

    #[test]
    fn an_event_within_a_span_names_the_span() {
        let (own, library) = both(|| {
            let span = tracing::info_span!("outer", number = 7);
            tracing::info!(parent: &span, "by its parent");
            span.in_scope(|| tracing::info!("by its scope"));
        });
        assert_eq!(own, library);
        assert_eq!(own.matches(r#""span":{"number":7,"name":"outer"}"#).count(), 2, "{own}");
    }

    #[test]
    fn an_event_within_the_span_of_a_request_has_its_id() {
        let (own, _) = both(|| {
            let span = tracing::debug_span!(target: "forebay::request_trace", "request", id = "00beef-1");
            let inner = tracing::debug_span!(target: "forebay::request_trace", "request", id = "00beef-2");
            span.in_scope(|| tracing::info!(host = "a.example", "within it"));
            inner.in_scope(|| span.in_scope(|| tracing::info!("within two")));
            tracing::info_span!(target: "h2", "connection").in_scope(|| {
                let span = tracing::debug_span!(target: "forebay::request_trace", "request", id = "00beef-1");
                span.in_scope(|| tracing::info!("within another's"));
            });
            tracing::debug_span!(target: "hyper", "request", id = "x")
                .in_scope(|| tracing::info!("within a library's"));
        });
        let parsed =
            |line: &str| serde_json::from_str::<serde_json::Value>(&format!("{{\"timestamp\":0{line}")).unwrap();
        let lines: Vec<_> = own.lines().map(parsed).collect();
        assert_eq!((&lines[0]["id"], &lines[0]["host"]), (&"00beef-1".into(), &"a.example".into()), "{own}");
        assert_eq!((&lines[1]["id"], &lines[1]["span"]), (&"00beef-1".into(), &serde_json::Value::Null), "{own}");
        assert_eq!((&lines[2]["id"], &lines[2]["span"]["id"]), (&serde_json::Value::Null, &"00beef-1".into()), "{own}");
        assert_eq!(lines[3]["span"]["id"], "x", "{own}");
    }

    #[test]
    fn no_text_of_a_client_moves_a_terminal() {
        let agent = "a\u{9b}31m\u{7f}b\u{85}c\u{2028}d\u{202e}e \u{e9}";
        let (own, _) = both(|| tracing::info!(agent, shown = %agent));
        let escaped = r#"a\u009b31m\u007fb\u0085c\u2028d\u202ee é"#;
        assert_eq!(own.matches(&format!("\"{escaped}\"")).count(), 2, "{own}");
        let line: serde_json::Value = serde_json::from_str(&format!("{{\"timestamp\":0{own}")).unwrap();
        assert_eq!((&line["agent"], &line["shown"]), (&agent.into(), &agent.into()));
    }

    /// Has another line formatted while it is formatted itself.
    struct Talkative;

    impl Debug for Talkative {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut other = LINE.take();
            other.push_str("other");
            LINE.set(other);
            f.write_str("done")
        }
    }

    #[test]
    fn a_value_that_logs_spoils_no_line() {
        let (own, library) = both(|| tracing::info!(before = 1, value = ?Talkative, after = 2));
        assert_eq!(own, library);
    }

    #[test]
    fn a_timestamp_is_the_time_in_microseconds() {
        for (seconds, text) in [
            (0.0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400.25, "2000-02-29T00:00:00.250000Z"),
            (-1.0, "1970-01-01T00:00:00.000000Z"),
            (1e12, "9999-12-31T23:59:59.000000Z"),
        ] {
            let far = Duration::from_secs_f64(f64::abs(seconds));
            let now = if seconds < 0.0 { SystemTime::UNIX_EPOCH - far } else { SystemTime::UNIX_EPOCH + far };
            let lines = Lines::default();
            let subscriber = tracing_subscriber::fmt().event_format(At(now)).with_writer(lines.clone()).finish();
            tracing::subscriber::with_default(subscriber, || tracing::info!("now"));
            let line = String::from_utf8(lines.0.lock().clone()).unwrap();
            assert!(line.starts_with(&format!(r#"{{"timestamp":"{text}","level":"INFO","#)), "{line}");
        }
    }

    /// Formats all events as if they were of one time.
    struct At(SystemTime);

    impl<S, N> FormatEvent<S, N> for At
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        N: for<'a> FormatFields<'a> + 'static,
    {
        fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
            let mut line = String::new();
            write_line(&mut line, event, "", self.0)?;
            writer.write_str(&line)
        }
    }

    proptest! {
        #[test]
        fn any_text_is_escaped_as_the_library_does(text in any::<String>(), control in "[\u{0}-\u{20}\"\\\\]{0,4}") {
            let text = format!("{control}{text}{control}");
            let mut line = String::new();
            push_escaped(&mut line, &text);
            let (line, library) = (format!("\"{line}\""), serde_json::to_string(&text).unwrap());
            if !library.contains(is_deceptive) {
                prop_assert_eq!(&line, &library);
            }
            prop_assert!(!line.contains(is_deceptive));
            prop_assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
        }
    }
}
