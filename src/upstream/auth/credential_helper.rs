//! A run of `docker-credential-<helper> get`.
//!
//! What must hold: it is bounded in time and output, and a helper that is given up leaves no process of its group behind. What
//! it said counts once it has ended, also when a child still holds its output: some helpers start an agent that stays.

use std::{io, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{ChildStdout, Command},
};

/// How long a helper may run; `ecr-login` asks a cloud's API.
pub(in crate::upstream) const HELPER_TIMEOUT: Duration = Duration::from_secs(30);
/// The most that is read of a helper's output, in bytes.
const MAX_OUTPUT: usize = 1024 * 1024;
/// How long more of the output is waited for when the helper has ended and a child of it holds the other end.
const LEFT_OUTPUT_TIMEOUT: Duration = Duration::from_millis(250);

/// Whether it succeeded, and what it wrote.
pub(in crate::upstream) async fn run(program: &str, key: &str) -> io::Result<(bool, Vec<u8>)> {
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
        // A helper that does not read its input may still answer.
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
    Ok((status.success(), output))
}

/// Reads until the end, or what is too much. What was read is there also if this is given up.
async fn read(from: &mut Option<ChildStdout>, output: &mut Vec<u8>) -> io::Result<()> {
    let Some(from) = from else { return Ok(()) };
    while from.read_buf(output).await? > 0 {
        if output.len() > MAX_OUTPUT {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it says more than 1 MiB"));
        }
    }
    Ok(())
}

/// The helper and what it started, killed unless they are kept. While the helper has not been waited for, no other group can
/// have this number.
struct Group(Option<Pid>);

impl Group {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // All of it may have ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
