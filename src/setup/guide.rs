//! What to do on one client, step by step.

use std::fmt::Write as _;

use super::{
    Login, Setup, buildkit, containerd, docker, k3s, podman,
    step::{Step, note},
};

/// A program that pulls images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    Docker,
    Containerd,
    K3s,
    Podman,
    Buildkit,
}

impl Client {
    pub const ALL: [Self; 5] = [Self::Docker, Self::Containerd, Self::K3s, Self::Podman, Self::Buildkit];

    /// The name in paths.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::K3s => "k3s",
            Self::Podman => "podman",
            Self::Buildkit => "buildkit",
        }
    }

    /// The name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::Containerd => "containerd",
            Self::K3s => "k3s",
            Self::Podman => "podman, CRI-O, skopeo",
            Self::Buildkit => "BuildKit",
        }
    }
}

/// What to do on a client.
#[derive(Clone, Debug)]
pub struct Guide {
    pub client: Client,
    pub steps: Vec<Step>,
}

impl Guide {
    pub fn new(client: Client, setup: &Setup<'_>) -> Self {
        let steps = match setup.login {
            Login::NeedsTls => vec![note(
                "This registry needs a login, and takes passwords over TLS only: reach it by https://, or ask the operator.",
            )],
            Login::NotNeeded | Login::Needed | Login::Certificate => steps(client, setup),
        };
        Self { client, steps }
    }

    /// The guide as plain text. All but the content of files is a comment of TOML, YAML and shells.
    pub fn text(&self) -> String {
        let mut text = format!("# {}\n", self.client.title());
        // Writing to a String cannot fail.
        for step in &self.steps {
            let _ = match step {
                Step::Note(note) => writeln!(text, "\n# {note}"),
                Step::File { path, content } => writeln!(text, "\n# {path}:\n{}", content.trim_end()),
                Step::Command(command) => writeln!(text, "\n# $ {command}"),
            };
        }
        text
    }
}

fn steps(client: Client, setup: &Setup<'_>) -> Vec<Step> {
    let mut steps = match client {
        Client::Docker => docker::steps(setup),
        Client::Containerd => containerd::steps(setup),
        Client::K3s => k3s::steps(setup),
        Client::Podman => podman::steps(setup),
        Client::Buildkit => buildkit::steps(setup),
    };
    if setup.login == Login::Certificate {
        steps.insert(0, note("This registry needs a client certificate: ask the operator for one."));
    }
    steps
}
