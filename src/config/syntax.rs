//! What is said of text that is no TOML (pure).
//!
//! The parser finds the lines; what is wrong in a line is judged from the line, since the parser's words are about its
//! grammar and not about what the operator meant.

use std::collections::{HashMap, HashSet};

use super::{
    error::{Key, MAX_MISTAKES, Mistake, Place, Position},
    node::{Node, Text, Value},
    unknown_key::{NO_PASSWORD, is_secret},
    wanted::truth,
};

/// How many lines a list may have and still be found unclosed.
const MAX_LIST: usize = 200;

/// A line that the parser could not read.
pub(super) struct Unread {
    pub line: usize,
    pub mistake: Mistake,
    /// Whether the parser may also have taken the lines behind it for something else.
    pub misleads: bool,
}

/// The lines that the parser could not read; `tree` is what it could.
pub(super) fn explain(text: &Text<'_>, errors: &[toml::de::Error], tree: &Node) -> Vec<Unread> {
    let offset = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    let Some(first) = errors.iter().map(offset).min() else { return Vec::new() };
    if let Some((line, problem)) = other_language(text, text.line_at(first)) {
        let position = Position { line, column: 1 };
        let place = Place::File { file: text.file.clone(), position: Some(position) };
        return vec![Unread { line: 0, mistake: Mistake { place, key: None, problem }, misleads: true }];
    }
    let mut seen = HashSet::new();
    let lines = errors.iter().map(|error| (text.line_at(offset(error)), error));
    let lines: Vec<_> = lines.filter(|(line, _)| seen.insert(*line)).take(MAX_MISTAKES).collect();
    if let Some(open) = lines.iter().find_map(|(line, _)| open_list(text, *line)) {
        return vec![unclosed_list(text, open)];
    }
    let keys = keys_of_lines(text.text);
    lines
        .into_iter()
        .map(|(line, error)| {
            let key = keys.get(line - 1).cloned().flatten();
            let misleads = text.line(line).trim().starts_with('[') || error.message().starts_with("unclosed");
            let problem = match error.message() {
                "duplicate key" => twice(&keys, line, text.line(line)),
                message if message.starts_with("cannot extend") => taken(tree, key.as_ref()),
                message => line_problem(text.line(line), message),
            };
            Unread { line, mistake: Mistake { place: text.place(offset(error)), key, problem }, misleads }
        })
        .collect()
}

/// The list that a line with a header or an assignment seems to be in: the one above was not closed.
fn open_list(text: &Text<'_>, line: usize) -> Option<usize> {
    let is_item = !text.line(line).trim().starts_with('[') && !text.line(line).contains('=');
    let begins =
        |above: &usize| text.line(*above).split_once('=').is_some_and(|(_, value)| value.trim().starts_with('['));
    let is_other = |above: &usize| text.line(*above).contains('=') || text.line(*above).starts_with('[');
    let above = (line.saturating_sub(MAX_LIST)..line).rev().find(is_other).filter(begins).filter(|_| !is_item)?;
    let count = |bracket: char| (above..line).map(|line| text.line(line).matches(bracket).count()).sum::<usize>();
    (count('[') > count(']')).then_some(above)
}

fn unclosed_list(text: &Text<'_>, line: usize) -> Unread {
    let column = text.line(line).chars().take_while(|character| character.is_whitespace()).count() + 1;
    let place = Place::File { file: text.file.clone(), position: Some(Position { line, column }) };
    let key = keys_of_lines(text.text).get(line - 1).cloned().flatten();
    let problem = "this list has no end: write ] behind it".to_owned();
    Unread { line: 0, mistake: Mistake { place, key, problem }, misleads: true }
}

/// The key that each line sets, if it has the form of a line that does: the name before `=`, in the table of the last
/// header above; or the table whose header the line is.
fn keys_of_lines(text: &str) -> Vec<Option<Key>> {
    let mut table = Key::new("");
    let mut headers: HashMap<&str, usize> = HashMap::new();
    let mut keys = Vec::new();
    for line in text.lines() {
        let content = line.split('#').next().unwrap_or(line).trim();
        if content.starts_with('[') {
            let name = content.trim_matches(['[', ']', ' ']);
            let before = headers.entry(name).or_default();
            table = if content.starts_with("[[") { Key::new(name).item(*before) } else { Key::new(name) };
            *before += 1;
            keys.push(Some(table.clone()));
        } else {
            keys.push(content.split_once('=').map(|(name, _)| table.field(name.trim())));
        }
    }
    keys
}

/// What is said of a whole text in another language, and of which line.
fn other_language(text: &Text<'_>, line: usize) -> Option<(usize, String)> {
    if text.text.trim_start().starts_with('{') {
        return Some((1, "this looks like JSON; forebay reads TOML: [cache] / max_size = \"10 GiB\"".to_owned()));
    }
    is_yaml(text.line(line)).then(|| {
        let lines: Vec<&str> = text.text.lines().skip(line - 1).collect();
        (line, format!("this looks like YAML; forebay reads TOML: {}", as_toml(&lines)))
    })
}

/// `key: value`, `key:`, `- item` or `---`.
fn is_yaml(line: &str) -> bool {
    let line = line.trim();
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    line == "---"
        || line.starts_with("- ")
        || line.split_once(':').is_some_and(|(name, rest)| is_name(name) && (rest.is_empty() || rest.starts_with(' ')))
}

/// The first setting of lines in YAML, as TOML: `[cache] / max_size = "10 GiB"`.
fn as_toml(lines: &[&str]) -> String {
    let mut significant = lines
        .iter()
        .map(|line| line.trim())
        .filter(|line| !line.is_empty() && *line != "---" && !line.starts_with('#'));
    let mut header = String::new();
    while let Some(line) = significant.next() {
        let Some((name, value)) = line.split_once(':') else { break };
        match value.trim() {
            "" => header = format!("[{}] / ", name.trim_start_matches("- ")),
            _ if is_secret(name.trim_start_matches("- ")) => {
                return format!("{header}password_file = \"hub.password\"");
            }
            value => return format!("{header}{} = {}", name.trim_start_matches("- "), as_value(value)),
        }
        if let Some(item) = significant.clone().next().and_then(|next| next.strip_prefix("- "))
            && !item.contains(": ")
        {
            return format!("{} = [{}]", name, as_value(item));
        }
    }
    "[cache] / max_size = \"10 GiB\"".to_owned()
}

/// A bare word as a value of TOML.
fn as_value(word: &str) -> String {
    let is_plain = word.parse::<u64>().is_ok() || word.starts_with(['"', '\'', '[', '{']);
    match (word, is_plain) {
        ("true" | "false", _) | (_, true) => word.to_owned(),
        _ => format!("{word:?}"),
    }
}

/// A key or a section that stands there a second time.
fn twice(keys: &[Option<Key>], line: usize, text: &str) -> String {
    let above = keys.get(..line - 1).unwrap_or_default();
    let key = keys.get(line - 1).and_then(Option::as_ref);
    let first = |is_same: &dyn Fn(&Key) -> bool| above.iter().position(|known| known.as_ref().is_some_and(is_same));
    let is_header = text.trim().starts_with('[');
    if let Some(key) = key {
        if is_header && let Some(index) = first(&|known| known.list() == *key && known != key) {
            return format!("write [[{key}]], with two brackets, as at line {}: there may be several", index + 1);
        }
        if let Some(index) = first(&|known| known == key) {
            let what = if is_header { "this section is there" } else { "this key is set" };
            let keep = if is_header { "write all its keys below one header" } else { "keep one of them" };
            return format!("{what} already, at line {}; {keep}", index + 1);
        }
    }
    "this is there already, above; keep one of them".to_owned()
}

/// A section below a key that has a value, or one bracket where two were before.
fn taken(tree: &Node, key: Option<&Key>) -> String {
    let mut above = key.map(Key::list);
    while let Some(key) = above {
        match tree.at(&key).map(|node| &node.value) {
            Some(Value::List(items)) if items.iter().any(|item| matches!(item.value, Value::Table(_))) => {
                return format!("write [[{key}]], with two brackets, as above: there may be several");
            }
            Some(_) => return format!("{key} has a value already, above; it cannot be a section too"),
            None => above = key.parent(),
        }
    }
    "this has a value already, above".to_owned()
}

/// What is wrong in a line; `message` is the parser's.
fn line_problem(line: &str, message: &str) -> String {
    let line = line.trim();
    if line.starts_with('[') && !line.contains('=') {
        let name = line.trim_matches(['[', ']', ' ']);
        let header = if line.starts_with("[[") { format!("[[{name}]]") } else { format!("[{name}]") };
        return format!("a section begins with its name in brackets: write {header}");
    }
    let Some((name, value)) = line.split_once('=') else { return no_assignment(line) };
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() || name.contains(' ') && !name.starts_with(['"', '\'']) {
        return "this is no key: a line is KEY = VALUE".to_owned();
    }
    if is_secret(name) { NO_PASSWORD.to_owned() } else { value_problem(name, value, message) }
}

/// A line without `=`.
fn no_assignment(line: &str) -> String {
    match line.split_once(char::is_whitespace) {
        Some((name, _)) if is_secret(name) => NO_PASSWORD.to_owned(),
        Some((name, value)) => {
            format!("there is no = in this line: write {} = {}", name.trim_end_matches(':'), as_value(value.trim()))
        }
        None if line.ends_with([']', '}', ',']) => "this line belongs to no key".to_owned(),
        None => format!("there is no value: write {line} = …"),
    }
}

fn value_problem(name: &str, value: &str, message: &str) -> String {
    let typographic = ['“', '”', '„', '‘', '’', '«', '»'];
    if value.starts_with(typographic) {
        let text = value.trim_matches(typographic);
        return format!("these are typographic quotes: write {name} = {text:?}");
    }
    match value.chars().next() {
        None => return format!("there is no value: write {name} = …"),
        Some('#') => return format!("there is no value in front of the comment: write {name} = …"),
        Some('=') => return format!("one = is enough: write {name} = …"),
        Some('[') if message.starts_with("missing comma") => {
            return "there is a comma missing between two items".to_owned();
        }
        Some('[') if message.starts_with("extra comma") => return "there is one comma too many".to_owned(),
        Some('[') if message.starts_with("unclosed") => return "this list has no end: write ] behind it".to_owned(),
        Some('{') if message.starts_with("unclosed") => return "this table has no end: write } behind it".to_owned(),
        Some('[' | '{') => return format!("this is no list and no table of TOML: write {name} = [\"…\", \"…\"]"),
        Some(quote @ ('"' | '\'')) => return quote_problem(name, value, quote),
        Some(_) => {}
    }
    let word = value.split(" #").next().unwrap_or(value).trim_end();
    match truth(word) {
        Some(meant) if word.parse::<u64>().is_err() => format!("write {name} = {meant}"),
        _ => format!("text stands in quotes: write {name} = {:?}", word.trim_end_matches(['"', '\'', ','])),
    }
}

/// A quoted value that does not end, has more behind it, or has a backslash in it.
fn quote_problem(name: &str, value: &str, quote: char) -> String {
    let inner = value.get(1..).unwrap_or_default();
    if quote == '"' && inner.contains('\\') {
        return "a backslash has a meaning in double quotes; write the text in single quotes".to_owned();
    }
    match inner.split_once(quote) {
        None => format!("the quote is not closed: write {quote} behind the text"),
        Some((text, rest)) if rest.trim_start().starts_with(',') => {
            format!("several values are a list: write {name} = [{quote}{text}{quote}, …]")
        }
        Some(_) => "there is more behind the closing quote: each key has a line of its own".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_explained_without_the_parsers_words() {
        for (line, message, said) in [
            ("max_size = 50 GiB", "", "text stands in quotes: write max_size = \"50 GiB\""),
            ("name = docker.io # the hub", "", "text stands in quotes: write name = \"docker.io\""),
            ("clear_http = yes", "", "write clear_http = true"),
            ("clear_http = False", "", "write clear_http = false"),
            ("max_size =", "", "there is no value: write max_size = …"),
            ("max_size = # 1", "", "there is no value in front of the comment: write max_size = …"),
            ("max_size", "", "there is no value: write max_size = …"),
            ("max_size 10 GiB", "", "there is no = in this line: write max_size = \"10 GiB\""),
            ("name = “docker.io”", "", "these are typographic quotes: write name = \"docker.io\""),
            ("name = \"docker.io", "", "the quote is not closed: write \" behind the text"),
            ("name = 'docker.io", "", "the quote is not closed: write ' behind the text"),
            ("ca = \"C:\\ca.crt\"", "", "a backslash has a meaning in double quotes; write the text in single quotes"),
            ("urls = \"a\", \"b\"", "", "several values are a list: write urls = [\"a\", …]"),
            ("a = \"b\" c = \"d\"", "", "there is more behind the closing quote: each key has a line of its own"),
            (
                "urls = [\"a\" \"b\"]",
                "missing comma between array elements",
                "there is a comma missing between two items",
            ),
            ("urls = [\"a\"", "unclosed array", "this list has no end: write ] behind it"),
            ("[server", "unclosed table", "a section begins with its name in brackets: write [server]"),
            ("[[upstream]", "", "a section begins with its name in brackets: write [[upstream]]"),
            ("a == 1", "", "one = is enough: write a = …"),
            ("password = hunter2", "", NO_PASSWORD),
            ("Token \"hunter2\"", "", NO_PASSWORD),
            ("secret = “hunter2”", "", NO_PASSWORD),
            ("= 1", "", "this is no key: a line is KEY = VALUE"),
            ("]", "", "this line belongs to no key"),
        ] {
            assert_eq!(line_problem(line, message), said, "{line}");
        }
    }

    #[test]
    fn yaml_is_known_and_shown_as_toml() {
        for (text, toml) in [
            ("cache:\n  max_size: 10 GiB\n", "[cache] / max_size = \"10 GiB\""),
            ("---\n# mine\nserver:\n  clear_http: true", "[server] / clear_http = true"),
            ("upstream:\n- password: hunter2\n", "[upstream] / password_file = \"hub.password\""),
            ("listen:\n- 127.0.0.1:5000\n", "listen = [\"127.0.0.1:5000\"]"),
            ("cache:\n", "[cache] / max_size = \"10 GiB\""),
        ] {
            assert!(text.lines().next().is_some_and(is_yaml), "{text}");
            assert_eq!(as_toml(&text.lines().collect::<Vec<_>>()), toml, "{text}");
        }
        for line in ["max_size = 1", "urls = [\"https://a\"]", "https://a", "max_size", "[server]", "a b: c"] {
            assert!(!is_yaml(line), "{line}");
        }
    }

    #[test]
    fn the_key_of_a_line_is_that_of_its_table() {
        let keys = keys_of_lines("a = 1\n[b] # x\nc = 2\n[[d]]\n e = 3\n[[d]]\nf = 4\n\ng");
        let keys: Vec<_> = keys.iter().map(|key| key.as_ref().map(Key::as_str)).collect();
        let expected = ["a", "b", "b.c", "d[0]", "d[0].e", "d[1]", "d[1].f"].map(Some);
        assert_eq!(keys, [&expected[..], &[None, None]].concat());
    }

    #[test]
    fn a_list_without_an_end_is_found_above() {
        for (text, line, open) in [
            ("a = ['x'\n[b]", 2, Some(1)),
            ("a = [\n 'x',\nb = 1", 3, Some(1)),
            ("a = ['x']\nb == 1", 2, None),
            ("a = [\n 'x'\n 'y'\n]", 3, None),
            ("a = 1\nb", 2, None),
            ("[a", 1, None),
        ] {
            assert_eq!(open_list(&Text::new(std::path::Path::new("f"), text), line), open, "{text}");
        }
    }
}
