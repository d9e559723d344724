//! Chromium without a window, by the DevTools protocol over two pipes.
//!
//! What must hold: it reaches nothing but this machine, and everything it has to complain about fails a test.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout},
};

use crate::until::{soon, until};

use super::program;

/// Has the browser's pipes where it looks for them, as descriptors 3 and 4.
const PIPES: &str = "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >&2";

/// What Chromium answers to a question about a page that is just left for another.
const LEAVING: [&str; 3] = [
    "Inspected target navigated or closed",
    "Execution context was destroyed",
    "Cannot find context with specified id",
];

/// A browser with one tab; it ends with this value.
pub struct Browser {
    process: Child,
    _folder: TempDir,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    commands: u64,
    /// The tab.
    session: String,
    complaints: Vec<String>,
}

impl Browser {
    pub async fn start() -> Browser {
        let folder = TempDir::with_prefix("chromium-").expect("a folder can be made");
        let log = fs::File::create(folder.path().join("log")).expect("a log can be made");
        let mut command = program::command("sh", "dash");
        command.arg("-c").arg(PIPES).arg(program::find("chromium", "chromium"));
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args(["--no-first-run", "--disable-background-networking", "--disable-component-update"]);
        command.args(["--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]);
        command.arg(format!("--user-data-dir={}", folder.path().join("profile").display()));
        command.args(["--remote-debugging-pipe", "about:blank"]).env("HOME", folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).process_group(0);
        let mut process = tokio::process::Command::from(command).kill_on_drop(true).spawn().expect("chromium starts");
        let input = process.stdin.take().expect("its input is a pipe");
        let output = BufReader::new(process.stdout.take().expect("its output is a pipe"));
        let (session, complaints) = (String::new(), Vec::new());
        let mut browser = Browser { process, _folder: folder, input, output, commands: 0, session, complaints };
        let tab = browser.command("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": tab["targetId"], "flatten": true });
        let attached = browser.command("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.command(domain, json!({})).await;
        }
        browser
    }

    /// Opens a page, and waits until it is loaded.
    pub async fn open(&mut self, url: &str) {
        let went = self.command("Page.navigate", json!({ "url": url })).await;
        assert!(went.get("errorText").is_none(), "{url}: {went}");
        let loaded = format!("document.readyState === 'complete' && location.href === new URL({}).href", json!(url));
        self.until(&loaded).await;
    }

    /// The value of an expression in the page.
    pub async fn value(&mut self, expression: &str) -> Value {
        self.evaluate(expression).await.unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// Waits until an expression is true in the page. A page that is being left has no value yet.
    pub async fn until(&mut self, expression: &str) {
        let what = format!("{expression} is true in the page");
        let look = async || match self.evaluate(expression).await {
            Ok(value) => (value == true).then_some(()),
            Err(error) if LEAVING.iter().any(|words| error.contains(words)) => None,
            Err(error) => panic!("{expression}: {error}"),
        };
        until(&what, look).await;
    }

    async fn evaluate(&mut self, expression: &str) -> Result<Value, String> {
        let wanted =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true });
        let told = self.try_command("Runtime.evaluate", wanted).await?;
        match told.get("exceptionDetails") {
            Some(_) => Err(told.to_string()),
            None => Ok(told["result"]["value"].clone()),
        }
    }

    /// Types a text into the element that has the focus.
    pub async fn insert(&mut self, text: &str) {
        self.command("Input.insertText", json!({ "text": text })).await;
    }

    /// Shows pages as on a phone in the dark, or as on a desk by day.
    pub async fn show_as_phone(&mut self, is_phone: bool) {
        let (width, height) = if is_phone { (360, 740) } else { (1000, 700) };
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone });
        self.command("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = if is_phone { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.command("Emulation.setEmulatedMedia", features).await;
    }

    /// A picture of what is visible, as PNG.
    pub async fn picture(&mut self) -> Vec<u8> {
        let told = self.command("Page.captureScreenshot", json!({ "format": "png" })).await;
        STANDARD.decode(told["data"].as_str().expect("a picture")).expect("it is Base64")
    }

    /// What axe finds in the page that is serious or worse.
    pub async fn barriers(&mut self) -> Vec<String> {
        self.value(&format!("{}; true", axe())).await;
        let found = self.value("axe.run().then((told) => told.violations)").await;
        let found = found.as_array().expect("a list").iter();
        let grave = found.filter(|one| one["impact"] == "serious" || one["impact"] == "critical");
        grave.map(|one| format!("{}: {} at {}", one["id"], one["help"], one["nodes"][0]["html"])).collect()
    }

    /// What the browser has complained about since the last time.
    pub fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    async fn command(&mut self, method: &str, params: Value) -> Value {
        self.try_command(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    async fn try_command(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.commands += 1;
        let mut message = json!({ "id": self.commands, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        self.input.write_all(format!("{message}\0").as_bytes()).await.expect("chromium reads");
        let id = self.commands;
        let answered = async {
            loop {
                let message = self.next().await;
                if message["id"] == id {
                    return message;
                }
                self.note(&message);
            }
        };
        let mut answer = soon(&format!("the answer to {method}"), answered).await;
        match answer.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(answer["result"].take()),
        }
    }

    async fn next(&mut self) -> Value {
        let mut message = Vec::new();
        self.output.read_until(0, &mut message).await.expect("chromium writes");
        assert_eq!(message.pop(), Some(0), "chromium has ended");
        serde_json::from_slice(&message).expect("a message is JSON")
    }

    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        let is_error = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => params["type"] == "error",
            Some("Log.entryAdded") => params["entry"]["level"] == "error",
            _ => false,
        };
        if is_error {
            self.complaints.push(params.to_string());
        }
    }
}

impl Drop for Browser {
    /// Ends all of its processes: they must be gone when the files of its folder are removed.
    fn drop(&mut self) {
        let group = self.process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        // It may have ended by itself.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        let patience = Instant::now() + Duration::from_secs(5);
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The script of axe-core.
fn axe() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path: PathBuf = root.join("target/npm/node_modules/axe-core/axe.min.js");
    fs::read_to_string(&path).unwrap_or_else(|_| panic!("axe-core is missing: tests/run installs it by `npm ci`"))
}
