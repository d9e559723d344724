//! Credential helpers: programs that docker runs as `docker-credential-<helper> get`.
//!
//! What must hold: a run is bounded in time and output, and a cancelled run leaves no process of its group behind. The
//! output is complete when the helper has ended, even if a child process keeps the pipe open: some helpers start an
//! agent that keeps running.
//!
//! Source: github.com/docker/docker-credential-helpers, "Development".

use std::{io, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{ChildStdout, Command},
};

use super::{
    credential::{Credential, Secret},
    docker_config::null_is_absent,
};

/// How long a helper may run; `ecr-login` asks a cloud's API.
pub(super) const HELPER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest output of a helper, in bytes.
const MAX_OUTPUT: usize = 1024 * 1024;
/// How long forebay reads on after the helper has ended, while a child process keeps the pipe open.
const LEFT_OUTPUT_TIMEOUT: Duration = Duration::from_millis(250);
/// The output of a helper that fails only because it has no credential; docker's own helpers agree on it.
const NOT_FOUND: &str = "credentials not found";

/// Whether this may be a helper's name. It becomes a part of a program's name, and must not become a path.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// The output of a run.
pub(super) struct Output {
    success: bool,
    stdout: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Response {
    #[serde(deserialize_with = "null_is_absent")]
    username: String,
    #[serde(deserialize_with = "null_is_absent")]
    secret: String,
}

impl Output {
    pub(super) fn is_success(&self) -> bool {
        self.success
    }

    /// Whether a helper failed only because it has no credential.
    pub(super) fn is_not_found(&self) -> bool {
        !self.success && String::from_utf8_lossy(&self.stdout).contains(NOT_FOUND)
    }

    /// The credential in the output of a helper that succeeded.
    pub(super) fn credential(&self) -> serde_json::Result<Option<Credential>> {
        let Response { username, secret } = serde_json::from_slice(&self.stdout)?;
        let secret = Secret::new(secret);
        Ok(match username.as_str() {
            "<token>" => Some(Credential::IdentityToken { username: String::new(), token: secret }),
            // Some helpers send empty values when they have no credential.
            "" => None,
            _ => Some(Credential::Password { username, password: secret }),
        })
    }
}

/// Runs `program get` with `key` as its input.
pub(super) async fn run(program: &str, key: &str) -> io::Result<Output> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)));
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input may still send a credential.
        let _ = stdin.write_all(key.as_bytes()).await;
    }
    let mut output = Vec::new();
    let mut stdout = child.stdout.take();
    let status = {
        let reading = read(&mut stdout, &mut output);
        tokio::select! {
            status = child.wait() => status?,
            read = reading => {
                read?;
                child.wait().await?
            }
        }
    };
    if let Ok(read) = tokio::time::timeout(LEFT_OUTPUT_TIMEOUT, read(&mut stdout, &mut output)).await {
        read?;
    }
    group.keep();
    Ok(Output { success: status.success(), stdout: output })
}

/// Reads to the end, or to [`MAX_OUTPUT`]. Cancelling this loses no output that was read.
async fn read(from: &mut Option<ChildStdout>, output: &mut Vec<u8>) -> io::Result<()> {
    let Some(from) = from else { return Ok(()) };
    while from.read_buf(output).await? > 0 {
        if output.len() > MAX_OUTPUT {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "its output is longer than 1 MiB"));
        }
    }
    Ok(())
}

/// The helper and the processes that it started, killed on drop unless `keep` was called. No other group can have this
/// number until forebay has waited for the helper.
struct Group(Option<Pid>);

impl Group {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It fails if all processes have ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_response_is_no_credential() {
        for (stdout, expected) in [
            (r#"{"Username":null,"Secret":null}"#, None),
            (r#"{"Username":"","Secret":""}"#, None),
            (
                r#"{"Username":"<token>","Secret":"t"}"#,
                Some(Credential::IdentityToken { username: String::new(), token: Secret::new("t".to_owned()) }),
            ),
        ] {
            let output = Output { success: true, stdout: stdout.into() };
            assert_eq!(output.credential().unwrap(), expected, "{stdout}");
        }
    }

    #[test]
    fn a_helpers_name_is_no_path() {
        for name in ["../evil", "/bin/sh", "", "a b", "a;b"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
