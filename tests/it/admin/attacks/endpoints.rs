//! A row for each endpoint of the control API.

use std::{collections::BTreeSet, fs};

use crate::docs::root;

/// What the caller has to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Read,
    Change,
}

/// What a request sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    None,
    Json(&'static str),
    Archive,
}

/// An endpoint, and a request to it that would be granted.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    pub method: &'static str,
    /// As in docs/api.md.
    pub path: &'static str,
    pub query: &'static str,
    pub body: Body,
    pub need: Need,
}

const fn read(path: &'static str) -> Endpoint {
    Endpoint { method: "GET", path, query: "", body: Body::None, need: Need::Read }
}

const fn post(path: &'static str, body: Body) -> Endpoint {
    Endpoint { method: "POST", path, query: "", body, need: Need::Change }
}

pub const ALL: &[Endpoint] = &[
    read("config"),
    read("cluster"),
    read("status"),
    read("upstreams"),
    read("requests"),
    read("pulls"),
    read("events"),
    read("transfers"),
    read("images"),
    read("images/{NAME}"),
    read("pins"),
    read("du"),
    Endpoint { query: "?match=*", need: Need::Change, method: "DELETE", ..read("images") },
    post("images/pin", Body::Json(r#"{"match":"*"}"#)),
    post("images/unpin", Body::Json(r#"{"match":"*"}"#)),
    post("images/refresh", Body::Json(r#"{"match":"*"}"#)),
    post("images/verify", Body::Json("{}")),
    post("explain", Body::Json(r#"{"image":"fake.example/team/app:1"}"#)),
    post("warm", Body::Json(r#"{"images":["fake.example/team/other:1"]}"#)),
    post("export", Body::Json(r#"{"images":["fake.example/team/app:1"]}"#)),
    Endpoint { query: "?name=fake.example/team/app:1", need: Need::Change, ..read("export") },
    post("import", Body::Archive),
    post("upstreams/{name}/test", Body::None),
    post("upstreams/{name}/pause", Body::None),
    post("upstreams/{name}/resume", Body::None),
];

impl Endpoint {
    /// The method and the resource of the request.
    pub fn line(&self) -> String {
        let path = self.path.replace("{NAME}", "fake.example/team/app:1").replace("{name}", "fake.example");
        format!("{} {path}{}", self.method, self.query)
    }

    /// The body of the request, and the header that it needs.
    pub fn body(&self) -> (&'static [u8], Option<(&'static str, &'static str)>) {
        match self.body {
            Body::None => (b"", None),
            Body::Json(text) => (text.as_bytes(), Some(("content-type", "application/json"))),
            Body::Archive => (&[0; 10_240], Some(("content-type", "application/x-tar"))),
        }
    }
}

fn table() -> BTreeSet<(String, String)> {
    ALL.iter().map(|endpoint| (endpoint.method.to_owned(), endpoint.path.to_owned())).collect()
}

#[test]
fn each_endpoint_of_the_document_has_a_row() {
    let text = fs::read_to_string(root().join("docs/api.md")).unwrap();
    let mut named = BTreeSet::new();
    for heading in text.lines().filter(|line| line.starts_with("## `")) {
        let mut last = (String::new(), String::new());
        for code in heading.split('`').skip(1).step_by(2) {
            last = match code.strip_prefix("…/") {
                // The same but for its last part.
                Some(verb) => (last.0, format!("{}/{verb}", last.1.rsplit_once('/').unwrap().0)),
                None => {
                    let (method, path) = code.split_once(" /api/v1/").unwrap();
                    (method.to_owned(), path.to_owned())
                }
            };
            named.insert(last.clone());
        }
    }
    assert_eq!(named, table());
}

/// The program finds a resource by a `match` on the parts of the path: each arm has a row.
#[test]
fn each_endpoint_of_the_program_has_a_row() {
    let text = fs::read_to_string(root().join("src/admin/api.rs")).unwrap();
    let (_, rest) = text.split_once("match *parts {\n").unwrap();
    let (arms, _) = rest.split_once("            _ => {").unwrap();
    let mut named = BTreeSet::new();
    for arm in arms.lines().map(str::trim).filter(|line| line.starts_with("[\"")) {
        let (parts, _) = arm.trim_start_matches('[').split_once(']').unwrap();
        let mut paths = vec![String::new()];
        for part in parts.split(", ") {
            let words: Vec<&str> = match part {
                ".." => vec!["{NAME}"],
                part if part.contains('"') => part.split('"').skip(1).step_by(2).collect(),
                _ => vec!["{name}"],
            };
            let with = |path: &String| -> Vec<String> {
                words
                    .iter()
                    .map(|word| if path.is_empty() { (*word).to_owned() } else { format!("{path}/{word}") })
                    .collect()
            };
            paths = paths.iter().flat_map(with).collect();
        }
        named.extend(paths);
    }
    assert!(named.len() > 20, "{named:?}");
    assert_eq!(named, table().into_iter().map(|(_, path)| path).collect());
}
