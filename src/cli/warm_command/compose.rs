//! The images of the services of a compose file (pure).
//!
//! The events of a YAML parser are followed, and no tree is built: an alias costs no more than its name, however much it stands
//! for. Merges (`<<: *common`) are followed as far as they bring an image.
//!
//! What must hold: depth and memory are bounded by the length of the text; an image that cannot be told is an error or a
//! remark.
//!
//! Source: Compose specification, "Services" and "Fragments"; YAML 1.2.

use std::{collections::HashMap, rc::Rc};

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::variables::{self, VariableError};

/// How deep a file may be nested.
const MAX_DEPTH: usize = 64;
/// A longer text is no name, in bytes.
const MAX_TEXT: usize = 4096;
/// How many mappings one merge may name.
const MAX_MERGED: usize = 64;

/// Why a file cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ComposeError {
    #[error("it is no compose file: {0}")]
    Yaml(String),
    #[error("service {service}: {error}")]
    Variable { service: String, error: VariableError },
}

/// What a file names.
#[derive(Debug, Default)]
pub(super) struct Compose {
    pub images: Vec<String>,
    /// What was left out, in sentences.
    pub remarks: Vec<String>,
}

/// What a mapping says of a service.
#[derive(Clone, Debug, Default)]
struct Service {
    image: Option<Rc<str>>,
    is_built: bool,
}

/// A node, as far as it matters.
#[derive(Clone, Debug)]
enum Node {
    Text(Rc<str>),
    Mapping(Service),
    /// The mappings of a list.
    List(Vec<Service>),
    /// Nothing, or what is too long.
    Other,
}

/// A mapping or a list that has not ended.
#[derive(Debug)]
enum Open {
    Mapping {
        role: Role,
        /// The key whose value comes next.
        key: Option<Rc<str>>,
        own: Service,
        merged: Service,
    },
    List(Vec<Service>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Root,
    Services,
    Other,
}

/// Reads the events of a file.
#[derive(Debug, Default)]
struct Reader {
    open: Vec<(usize, Open)>,
    /// The nodes with anchors, by the numbers of these.
    anchors: HashMap<usize, Node>,
    services: Vec<(Rc<str>, Service)>,
    has_includes: bool,
}

/// Whether a text looks like a compose file: it has the key `services`.
pub(super) fn has_services(text: &str) -> bool {
    let begins = |line: &str| {
        let keys = ["services:", "\"services\":", "'services':"];
        let rest = keys.iter().find_map(|key| line.strip_prefix(key));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']))
    };
    text.lines().any(begins)
}

/// Reads a compose file; `variable`: the value of a variable of the environment.
pub(super) fn read(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Compose, ComposeError> {
    let mut reader = Reader::default();
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|error| ComposeError::Yaml(error.to_string()))?;
        reader.event(event)?;
    }
    let mut names = Compose::default();
    if reader.has_includes {
        names.remarks.push("the files of include are not read: name them one by one".to_owned());
    }
    for (service, Service { image, is_built }) in reader.services {
        match image {
            // What is built has its name for a push.
            Some(image) if !is_built => {
                let image = variables::replaced(&image, &variable);
                let image = image.map_err(|error| ComposeError::Variable { service: service.to_string(), error })?;
                names.images.push(image);
            }
            Some(_) => names.remarks.push(format!("service {service} is built here: its image is left out")),
            None => names.remarks.push(format!("service {service} names no image of its own: it is left out")),
        }
    }
    Ok(names)
}

impl Reader {
    fn event(&mut self, event: Event<'_>) -> Result<(), ComposeError> {
        match event {
            Event::MappingStart(anchor, _) => {
                let role = match self.open.last() {
                    None => Role::Root,
                    Some((_, Open::Mapping { role: Role::Root, key: Some(key), .. })) if **key == *"services" => {
                        Role::Services
                    }
                    Some(_) => Role::Other,
                };
                let (key, own, merged) = Default::default();
                self.begin(anchor, Open::Mapping { role, key, own, merged })
            }
            Event::SequenceStart(anchor, _) => self.begin(anchor, Open::List(Vec::new())),
            Event::MappingEnd | Event::SequenceEnd => {
                let Some((anchor, open)) = self.open.pop() else { return Ok(()) };
                let node = match open {
                    Open::Mapping { own, merged, .. } => Node::Mapping(Service {
                        image: own.image.or(merged.image),
                        is_built: own.is_built || merged.is_built,
                    }),
                    Open::List(mappings) => Node::List(mappings),
                };
                self.node(anchor, node)
            }
            Event::Scalar(text, style, anchor, _) => {
                let is_none = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let node = if is_none || text.len() > MAX_TEXT { Node::Other } else { Node::Text((&*text).into()) };
                self.node(anchor, node)
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().unwrap_or(Node::Other);
                self.node(0, node)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
        }
    }

    fn begin(&mut self, anchor: usize, open: Open) -> Result<(), ComposeError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(ComposeError::Yaml(format!("it is nested more than {MAX_DEPTH} levels deep")));
        }
        self.open.push((anchor, open));
        Ok(())
    }

    /// A node is complete: it belongs to what is open.
    fn node(&mut self, anchor: usize, node: Node) -> Result<(), ComposeError> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some((_, open)) = self.open.last_mut() else { return Ok(()) };
        let (role, key, own, merged) = match open {
            Open::List(mappings) => {
                if let Node::Mapping(mapping) = node
                    && mappings.len() < MAX_MERGED
                {
                    mappings.push(mapping);
                }
                return Ok(());
            }
            Open::Mapping { role, key, own, merged } => (*role, key, own, merged),
        };
        let Some(key) = key.take() else {
            *key = Some(match node {
                Node::Text(text) => text,
                _ => "".into(),
            });
            return Ok(());
        };
        match (role, &*key, node) {
            (Role::Services, "<<", _) => {
                return Err(ComposeError::Yaml(
                    "its services are merged from elsewhere, which is not read here".to_owned(),
                ));
            }
            (Role::Services, _, Node::Mapping(service)) => self.services.push((key, service)),
            (Role::Services, ..) => self.services.push((key, Service::default())),
            (Role::Root, "services", node) if !matches!(node, Node::Mapping(_) | Node::Other) => {
                return Err(ComposeError::Yaml("services is no mapping".to_owned()));
            }
            (Role::Root, "include", _) => self.has_includes = true,
            (Role::Other, "image", Node::Text(image)) => own.image = Some(image),
            (Role::Other, "build", Node::Text(_) | Node::Mapping(_)) => own.is_built = true,
            (Role::Other, "<<", Node::Mapping(mapping)) => merged.merge(mapping),
            (Role::Other, "<<", Node::List(mappings)) => {
                mappings.into_iter().for_each(|mapping| merged.merge(mapping));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Service {
    /// What was merged earlier counts.
    fn merge(&mut self, other: Self) {
        self.image = self.image.take().or(other.image);
        self.is_built |= other.is_built;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(text: &str) -> Result<(Vec<String>, Vec<String>), String> {
        let variable = |name: &str| (name == "TAG").then(|| "22".to_owned());
        let names = read(text, variable).map_err(|error| error.to_string())?;
        Ok((names.images, names.remarks))
    }

    #[test]
    fn the_images_of_services_are_read() {
        let text = r#"
# A project.
name: shop
x-common: &common
  image: "ghcr.io/o/app:${TAG:-1}"
  environment: { image: not-this }
x-image: &image redis:7
services:
  web: { <<: *common, ports: ["80:80"] }
  worker:
    <<: [*common]
    image: ghcr.io/o/worker:$TAG
  cache:
    image: *image
    labels:
      image: nor-this
      build: nor-this
  copy: *common
  db:
    image: |-
      postgres:17
  built:
    build: .
    image: ghcr.io/o/built
  other:
    extends: { file: other.yaml, service: web }
  none: ~
volumes:
  data: { image: nor-this }
"#;
        let (images, remarks) = read_all(text).unwrap();
        let expected = ["ghcr.io/o/app:22", "ghcr.io/o/worker:22", "redis:7", "ghcr.io/o/app:22", "postgres:17"];
        assert_eq!(images, expected);
        assert_eq!(
            remarks,
            [
                "service built is built here: its image is left out",
                "service other names no image of its own: it is left out",
                "service none names no image of its own: it is left out",
            ]
        );
        assert_eq!(read_all("include: [a.yaml]\nservices:\n").unwrap().1.len(), 1);
    }

    #[test]
    fn a_list_is_no_compose_file() {
        for (text, expected) in [
            ("services:\n", true),
            ("a: 1\nservices: {}\n", true),
            ("\"services\":\r\n", true),
            ("services:1\n", false),
            ("  services:\n", false),
            ("node:22\n", false),
        ] {
            assert_eq!(has_services(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_an_error() {
        for (text, expected) in [
            ("services:\n  a: [", "it is no compose file"),
            ("services:\n  - a\n", "services is no mapping"),
            ("x: &x {}\nservices:\n  <<: *x\n", "merged from elsewhere"),
            ("services:\n  a:\n    image: x:$NONE\n", "service a: the variable NONE is not set"),
            ("services:\n  a: *none\n", "it is no compose file"),
            ("services:\n\ta:\n", "it is no compose file"),
        ] {
            let error = read_all(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let deep = format!("services:\n  a: {}", "[".repeat(100_000));
        assert!(read_all(&deep).is_err());
    }

    #[test]
    fn a_bomb_of_aliases_costs_nothing() {
        let mut text = "a0: &a0 {image: x}\n".to_owned();
        for level in 1..40 {
            let below = level - 1;
            text += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{below}"); 50].join(","));
            text += &format!("b{level}: &b{level} {{<<: [{}]}}\n", vec![format!("*a{below}"); 50].join(","));
        }
        let long = "y".repeat(MAX_TEXT + 1);
        text += &format!("services:\n  one: *a0\n  two: *a39\n  three: {{image: {long}}}\n");
        let (images, remarks) = read_all(&text).unwrap();
        assert_eq!((images.as_slice(), remarks.len()), (&["x".to_owned()][..], 2));
    }
}
