//! `forebay version`: which forebay this is.

use std::env::consts::{ARCH, OS};

use forebay::transport;
use serde_json::{Value, json};

use super::{
    Failure,
    output::{print, print_json},
};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Those who build forebay from a commit may say so.
const COMMIT: Option<&str> = option_env!("FOREBAY_COMMIT");

/// What is known of this program and of the kernel below it.
struct Build {
    commit: Option<&'static str>,
    target: String,
    kernel_tls: bool,
}

pub(super) fn run(as_json: bool) -> Result<(), Failure> {
    let build = Build { commit: COMMIT, target: target(), kernel_tls: transport::has_kernel_tls() };
    if as_json { print_json(&build.to_json()) } else { print(&build.to_text()) }
}

impl Build {
    fn to_text(&self) -> String {
        let commit = self.commit.map(|commit| format!("commit      {commit}\n")).unwrap_or_default();
        let kernel_tls = if self.kernel_tls { "yes" } else { "no" };
        format!("forebay {VERSION}\n{commit}target      {}\nkernel TLS  {kernel_tls}\n", self.target)
    }

    fn to_json(&self) -> Value {
        let Self { commit, target, kernel_tls } = self;
        json!({ "version": VERSION, "commit": commit, "target": target, "kernel_tls": kernel_tls })
    }
}

/// The target as rustc names it.
fn target() -> String {
    let vendor = if cfg!(target_vendor = "unknown") { "unknown" } else { "other" };
    let environment = match () {
        () if cfg!(target_env = "gnu") => "-gnu",
        () if cfg!(target_env = "musl") => "-musl",
        () => "",
    };
    format!("{ARCH}-{vendor}-{OS}{environment}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_is_told_if_the_build_knows_it() {
        let build = |commit| Build { commit, target: "x86_64-unknown-linux-gnu".to_owned(), kernel_tls: true };
        assert_eq!(
            build(Some("4f2a")).to_text(),
            format!("forebay {VERSION}\ncommit      4f2a\ntarget      x86_64-unknown-linux-gnu\nkernel TLS  yes\n")
        );
        assert!(!build(None).to_text().contains("commit"));
        assert_eq!(build(Some("4f2a")).to_json()["commit"], "4f2a");
        assert!(build(None).to_json()["commit"].is_null());
    }
}
