//! The environment over the file: which variable sets which key (pure, but for reading them).
//!
//! `FOREBAY_SERVER__LISTEN` is `server.listen`: two underscores stand between the names of a path. An upstream is named
//! by its own name in upper case, with `_` for every character but A to Z and 0 to 9. An empty variable counts as unset.
//!
//! What must hold: a variable that forebay does not know is warned of, never refused; one that could mean two upstreams is
//! refused, since it may carry a user name.

mod kubernetes;

use std::{collections::BTreeMap, ffi::OsString, fmt};

use self::kubernetes::is_of_kubernetes;
use super::{
    error::{Mistake, Place},
    node::{Node, Value},
    schema::{Kind, Schema},
    suggest::closest,
};

const PREFIX: &str = "FOREBAY_";
/// Names after the prefix that are no keys of the file.
const OTHER: [&str; 2] = ["LOG", "TOKEN_FILE"];

/// The variables that begin with `FOREBAY_`, in the order of their names.
#[derive(Clone, Default)]
pub struct Variables(BTreeMap<String, Result<String, NotUtf8>>);

/// A value that is no text.
#[derive(Clone, Copy, Debug)]
struct NotUtf8;

impl Variables {
    /// Those of this process.
    pub fn of_process() -> Self {
        Self::new(std::env::vars_os())
    }

    /// Of these variables, those that are forebay's.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let texts = variables.into_iter().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with(PREFIX))?;
            Some((name, value.into_string().map_err(|_| NotUtf8)))
        });
        Self(texts.filter(|(_, value)| !matches!(value, Ok(text) if text.is_empty())).collect())
    }
}

impl fmt::Debug for Variables {
    /// The names only: an operator may have written a password into a value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// What was found in the variables, beside the values that are set now.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub mistakes: Vec<Mistake>,
    pub warnings: Vec<Mistake>,
}

/// Sets the values of variables in the tree. `built_in` are the names of the upstreams of a file without upstreams.
pub(super) fn amend(root: &mut Node, variables: &Variables, schema: &Schema, built_in: &[&str]) -> Findings {
    let mut findings = Findings::default();
    let mut upstreams = Upstreams::of(root, built_in);
    let mut of_upstreams: BTreeMap<&str, Vec<Variable<'_>>> = BTreeMap::new();
    for (full, value) in &variables.0 {
        let name = full.strip_prefix(PREFIX).unwrap_or(full);
        if OTHER.contains(&name) || is_of_kubernetes(name, value.as_deref().unwrap_or_default()) {
            continue;
        }
        let (upstream, key) = match name.strip_prefix("UPSTREAM__").and_then(|rest| rest.rsplit_once("__")) {
            Some((upstream, key)) => (Some(upstream), format!("upstream.{}", key.to_ascii_lowercase())),
            None => (None, name.split("__").collect::<Vec<_>>().join(".").to_ascii_lowercase()),
        };
        let kind = schema.kind(&key).filter(|kind| !matches!(kind, Kind::Section | Kind::Sections));
        let (Some(kind), true) = (kind, upstream.is_some() || !is_in_list(&key, schema)) else {
            findings.warnings.push(warning(full, unknown(full, schema, &upstreams)));
            continue;
        };
        let Ok(text) = value else {
            findings.mistakes.push(warning(full, "its value is not UTF-8 text".to_owned()));
            continue;
        };
        let place = Place::Variable(full.as_str().into());
        let variable = Variable { full, key, text: text.trim(), node: Node { value: read(kind, text, &place), place } };
        match upstream {
            Some(upstream) => of_upstreams.entry(upstream).or_default().push(variable),
            None => root.set(&variable.key.split('.').collect::<Vec<_>>(), variable.node),
        }
    }
    for (name, group) in of_upstreams {
        upstreams.amend(name, group, &mut findings);
    }
    upstreams.store(root);
    findings
}

/// A variable that sets a known key.
struct Variable<'v> {
    full: &'v str,
    key: String,
    text: &'v str,
    node: Node,
}

/// The upstreams that variables amend.
struct Upstreams {
    /// `None`: what stands in the file is no list of upstreams, and is refused elsewhere.
    sections: Option<Vec<Node>>,
    amended: bool,
}

impl Upstreams {
    fn of(root: &Node, built_in: &[&str]) -> Self {
        let named = |name: &&str| {
            let name = ("name".to_owned(), Node::text(*name, Place::Default));
            Node { value: Value::Table(vec![name]), place: Place::Default }
        };
        let sections = match root.field("upstream").map(|node| &node.value) {
            None => Some(built_in.iter().map(named).collect()),
            Some(Value::List(items)) if items.is_empty() => Some(built_in.iter().map(named).collect()),
            Some(Value::List(items)) if items.iter().all(|item| matches!(item.value, Value::Table(_))) => {
                Some(items.clone())
            }
            Some(_) => None,
        };
        Self { sections, amended: false }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().flatten().map(|section| match section.field("name").map(|name| &name.value) {
            Some(Value::Text(name)) => name.as_str(),
            _ => "",
        })
    }

    /// Sets the values of the variables that begin with the name of one upstream.
    fn amend(&mut self, name: &str, variables: Vec<Variable<'_>>, findings: &mut Findings) {
        let same: Vec<usize> =
            self.names().enumerate().filter(|(_, known)| in_variable(known) == name).map(|(i, _)| i).collect();
        let names_itself =
            |variable: &Variable<'_>| variable.key == "upstream.name" && in_variable(variable.text) == name;
        let adds = variables.iter().any(names_itself);
        let index = match *same {
            [index] => index,
            [] if adds => {
                let Some(sections) = &mut self.sections else { return };
                sections.push(Node::empty(
                    variables.first().map_or(Place::Default, |variable| variable.node.place.clone()),
                ));
                sections.len() - 1
            }
            [] => {
                let known = self.sections.is_some();
                let unknown = variables.iter().filter(|_| known);
                findings.warnings.extend(
                    unknown.map(|variable| warning(variable.full, unknown_upstream(variable.full, name, self))),
                );
                return;
            }
            _ => {
                let both: Vec<&str> = same.iter().filter_map(|index| self.names().nth(*index)).collect();
                let problem = format!("could mean {}: set this in the file", both.join(" or "));
                findings.mistakes.extend(variables.iter().map(|variable| warning(variable.full, problem.clone())));
                return;
            }
        };
        self.amended = true;
        for variable in variables {
            if variable.key == "upstream.name" && in_variable(variable.text) != name {
                let problem = format!("{:?} is another upstream than that of this variable's name", variable.text);
                findings.mistakes.push(warning(variable.full, problem));
                continue;
            }
            let path: Vec<&str> = variable.key.split('.').skip(1).collect();
            if let Some(section) = self.sections.as_mut().and_then(|sections| sections.get_mut(index)) {
                section.set(&path, variable.node);
            }
        }
    }

    fn store(self, root: &mut Node) {
        let Some(sections) = self.sections.filter(|_| self.amended) else { return };
        let place = root.field("upstream").map_or(Place::Default, |node| node.place.clone());
        root.set(&["upstream"], Node { value: Value::List(sections), place });
    }
}

/// Also used for mistakes: a variable's name says the key.
fn warning(name: &str, problem: String) -> Mistake {
    Mistake { place: Place::Variable(name.into()), key: None, problem }
}

/// The value of a variable. What is no value of its kind stays text, which the key refuses.
fn read(kind: Kind, text: &str, place: &Place) -> Value {
    let text = text.trim();
    match kind {
        Kind::Boolean => text.parse().map_or_else(|_| Value::Text(text.to_owned()), Value::Boolean),
        Kind::Number => match text.parse::<i128>() {
            Ok(number) => Value::Integer(text.to_owned(), Some(number)),
            Err(_) => Value::Text(text.to_owned()),
        },
        Kind::List => Value::List(text.split(',').map(|item| Node::text(item.trim(), place.clone())).collect()),
        Kind::Text | Kind::Section | Kind::Sections => Value::Text(text.to_owned()),
    }
}

/// Whether a key is in a section of which there may be several: no variable says which one.
fn is_in_list(key: &str, schema: &Schema) -> bool {
    let sections = key.match_indices('.').filter_map(|(end, _)| key.get(..end));
    sections.into_iter().any(|section| schema.kind(section) == Some(Kind::Sections))
}

/// An upstream's name as variables have it.
fn in_variable(name: &str) -> String {
    let upper = |character: char| match character.to_ascii_uppercase() {
        upper @ ('A'..='Z' | '0'..='9') => upper,
        _ => '_',
    };
    name.chars().map(upper).collect()
}

fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

fn unknown(full: &str, schema: &Schema, upstreams: &Upstreams) -> String {
    let fixed = schema.keys().filter(|key| !is_in_list(key, schema)).map(variable_of);
    let of_upstreams = upstreams.names().flat_map(|name| upstream_variables(&in_variable(name), schema));
    let other = OTHER.iter().map(|name| format!("{PREFIX}{name}"));
    let known: Vec<String> = fixed.chain(of_upstreams).chain(other).collect();
    if let Some(upstream) = full.strip_suffix("__PASSWORD") {
        return format!("has no effect: put the password into a file, and its path into {upstream}__PASSWORD_FILE");
    }
    let section = full.strip_prefix(PREFIX).and_then(|name| name.split("__").next()).unwrap_or_default();
    match closest(full, known.iter().map(String::as_str)).filter(|meant| is_near(full, meant)) {
        Some(meant) => format!("unknown variable, which has no effect; did you mean {meant}?"),
        None if section != "UPSTREAM" && schema.kind(&section.to_ascii_lowercase()) == Some(Kind::Sections) => {
            format!("has no effect: variables cannot set {}", schema.header(&section.to_ascii_lowercase()))
        }
        None => "unknown variable, which has no effect".to_owned(),
    }
}

/// Long names have much in common; what differs has to be short, or only underscores.
fn is_near(name: &str, meant: &str) -> bool {
    let plain = |text: &str| text.replace('_', "");
    strsim::osa_distance(name, meant) <= 3 || plain(name) == plain(meant)
}

fn unknown_upstream(full: &str, name: &str, upstreams: &Upstreams) -> String {
    let key = full.rsplit_once("__").map_or("", |(_, key)| key);
    let known: Vec<String> = upstreams.names().map(in_variable).collect();
    let add = format!("to add one, set {PREFIX}UPSTREAM__{name}__NAME");
    match closest(name, known.iter().map(String::as_str)) {
        Some(meant) => format!("no upstream has this name; did you mean {PREFIX}UPSTREAM__{meant}__{key}? {add}"),
        None => format!("no upstream has this name; {add}"),
    }
}

fn upstream_variables(name: &str, schema: &Schema) -> Vec<String> {
    let keys = schema.keys().filter_map(|key| key.strip_prefix("upstream.")).filter(|key| !key.contains('.'));
    keys.map(|key| format!("{PREFIX}UPSTREAM__{name}__{}", key.to_ascii_uppercase())).collect()
}

#[cfg(test)]
mod tests;
