//! `forebay config …`: warnings, the effective configuration, and what differs from the running one.

use super::*;

const UPSTREAM: &str = "[[upstream]]\nname = \"a.example\"\nurls = [\"http://127.0.0.1:9\"]\n";

/// A self-signed certificate for this name and these years, in the directory.
fn write_certificate(directory: &TempDir, name: &str, years: (i32, i32)) {
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(directory.path().join("tls.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    let path = directory.path().join("tls.key");
    fs::write(&path, key.serialize_pem()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn what_cannot_work_is_warned_of_with_its_place() {
    let directory =
        directory("\n[server.tls]\ncertificate = \"tls.crt\"\nkey = \"tls.key\"\n[cache]\ndirectory = \"${HOME}/c\"\n");
    write_certificate(&directory, "mirror.lan", (2020, 2021));
    for command in [&["config", "check"][..], &["check"]] {
        let with = |more: &[&str]| run(&directory, &[command, &["--config", "forebay.toml"], more].concat());
        let (code, stdout, stderr) = with(&[]);
        assert_eq!((code, &*stdout), (Some(0), "forebay.toml: ok, 10 upstreams, 2 warnings\n"), "{stderr}");
        let lines: Vec<_> = stderr.lines().collect();
        assert!(
            lines[0].starts_with("warning: forebay.toml:3:1: server.tls.certificate: tls.crt expired on 2021-01-01"),
            "{stderr}"
        );
        assert!(
            lines[1].starts_with("warning: forebay.toml:6:1: cache.directory: ${HOME} is not expanded"),
            "{stderr}"
        );
        assert_eq!(lines.len(), 2);
        let (code, _, stderr) = with(&["--strict"]);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.ends_with("forebay: 2 warnings, which --strict does not let pass\n"), "{stderr}");
    }
}

#[test]
fn a_good_configuration_passes_also_strictly() {
    let directory = directory(UPSTREAM);
    let (code, stdout, stderr) = run(&directory, &["config", "check", "--strict", "--config", "forebay.toml"]);
    assert_eq!((code, &*stdout, &*stderr), (Some(0), "forebay.toml: ok, 1 upstream\n", ""));
}

#[test]
fn a_check_in_json_is_one_document_whatever_it_finds() {
    for (text, code, ok, errors, warnings) in [
        (UPSTREAM.to_owned(), 0, true, 0, 0),
        (format!("state_directory = \"~/x\"\n{UPSTREAM}"), 0, true, 0, 1),
        (format!("{UPSTREAM}nonsense = 1\n"), 2, false, 1, 0),
        (format!("{UPSTREAM}username = \"me\"\npassword_file = \"empty\"\n"), 2, false, 1, 0),
    ] {
        let directory = directory(&text);
        fs::write(directory.path().join("empty"), "").unwrap();
        let (found, stdout, stderr) = run(&directory, &["config", "check", "--json", "--config", "forebay.toml"]);
        assert_eq!(found, Some(code), "{text}{stderr}");
        let report = json(&stdout);
        let count = |name: &str| report[name].as_array().map(Vec::len);
        assert_eq!(
            (report["ok"].as_bool(), count("errors"), count("warnings")),
            (Some(ok), Some(errors), Some(warnings)),
            "{report}"
        );
        for mistake in report["errors"].as_array().unwrap().iter().chain(report["warnings"].as_array().unwrap()) {
            assert_eq!(mistake["place"]["from"], "file", "{report}");
            assert!(mistake["place"]["line"].is_u64() && mistake["problem"].is_string(), "{report}");
        }
    }
}

/// What the warnings are decided from is really looked at.
#[test]
fn the_machine_is_looked_at_for_what_cannot_work() {
    let directory = directory(
        "[server]\nlisten = \"192.0.2.1:5000\"\n[cache]\nmax_size = \"1 EiB\"\n[access]\nhtpasswd = \"users\"\n\
         [[upstream]]\nname = \"a.example\"\ncredential_helper = \"forebay-test-none\"\n",
    );
    fs::write(directory.path().join("users"), "# none yet\n").unwrap();
    fs::set_permissions(directory.path().join("users"), fs::Permissions::from_mode(0o644)).unwrap();
    let arguments = ["config", "check", "--admin", "127.0.0.1:0", "--config", "forebay.toml"];
    let (code, stdout, stderr) = run(&directory, &arguments);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    for expected in [
        "forebay.toml:2:1: server.listen: 192.0.2.1 is no address of this machine",
        "forebay.toml:4:1: cache.max_size: ",
        "forebay.toml:6:1: access.htpasswd: every user of this machine may use users (mode 644)",
        "forebay.toml:6:1: access.htpasswd: users has no user",
        "forebay.toml:6:1: access.htpasswd: no client of another machine can log in",
        "forebay.toml:9:1: upstream[0].credential_helper: docker-credential-forebay-test-none is not in PATH",
    ] {
        assert!(stderr.lines().any(|line| line.starts_with(&format!("warning: {expected}"))), "{expected}\n{stderr}");
    }
}

#[test]
fn a_program_that_is_no_forebay_is_told_apart() {
    let directory = directory(&format!("[admin]\nsocket = \"control.sock\"\n{UPSTREAM}"));
    let path = directory.path().join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let serving = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        assert!(client.read(&mut head).unwrap() > 0);
        io::Write::write_all(&mut client, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    });
    let (code, stdout, stderr) = run(&directory, &["config", "diff", "--config", "forebay.toml"]);
    assert_eq!((code, &*stdout), (Some(1), ""));
    assert!(stderr.contains("does not answer as it should: the answer has no configuration"), "{stderr}");
    serving.join().unwrap();
}

#[test]
fn a_port_of_another_program_is_warned_of_and_ours_is_not() {
    let directory = directory(&format!("[admin]\nsocket = \"control.sock\"\n{UPSTREAM}"));
    let file = ["--config", "forebay.toml"];
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let check = |address: SocketAddr| {
        let address = address.to_string();
        run(&directory, &[&["config", "check", "--admin", "127.0.0.1:0", "--listen", &address][..], &file].concat())
    };
    let (code, _, stderr) = check(other.local_addr().unwrap());
    assert_eq!(code, Some(0));
    assert!(stderr.contains("another program listens on"), "{stderr}");
    let serving = Serving::start(forebay(&directory).args(ON_ANY_PORT).args(file));
    let registry = serving.registry;
    let (code, stdout, stderr) = check(registry);
    assert_eq!((code, &*stderr), (Some(0), ""), "{stdout}");
    assert!(stdout.contains(&format!("{registry} is in use by the forebay that runs here\n")), "{stdout}");
    serving.signal(Signal::TERM);
    serving.end();
}

/// Sockets of a service manager are not in the configuration.
#[test]
fn a_check_counts_the_addresses_of_the_running_forebay() {
    let directory = directory(&format!("[admin]\nsocket = \"control.sock\"\n{UPSTREAM}"));
    let file = ["--config", "forebay.toml"];
    let any = ["serve", "--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"];
    let serving = Serving::start(forebay(&directory).args(any).args(file));
    let port = serving.registry.port();
    let text = format!("[admin]\nsocket = \"control.sock\"\n{UPSTREAM}hosts = [\"*:{port}\"]\n");
    fs::write(directory.path().join("forebay.toml"), text).unwrap();
    let check = |address: &str| {
        let command = ["config", "check", "--strict", "--admin", "127.0.0.1:0", "--listen", address];
        run(&directory, &[&command[..], &file].concat())
    };
    let below = format!("127.0.0.1:{port}");
    let (code, stdout, stderr) = check(&below);
    assert_eq!((code, &*stderr), (Some(0), ""), "{stdout}");
    assert!(stdout.contains(&format!("{below} is in use by the forebay that runs here\n")), "{stdout}");
    let (code, stdout, stderr) = check("127.0.0.1:0");
    assert_eq!((code, &*stderr), (Some(0), ""), "{stdout}");
    serving.signal(Signal::TERM);
    serving.end();
    let (code, stdout, stderr) = check("127.0.0.2:1");
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stderr.contains(&format!("no listener has port {port}")), "{stderr}");
}

#[test]
fn the_log_has_each_warning_once() {
    let text = format!("[[upstream]]\nname = \"index.docker.io\"\nurls = [\"http://127.0.0.1:9\"]\n{UPSTREAM}");
    let directory = directory(&text);
    let serving = Serving::start(forebay(&directory).args(ON_ANY_PORT).args(["--config", "forebay.toml"]));
    serving.signal(Signal::TERM);
    let (code, log) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    let told: Vec<_> = log.lines().filter(|line| line.contains("write name =")).collect();
    assert_eq!(told.len(), 1, "{log}");
    assert!(told[0].contains("\"place\":\"forebay.toml:2:1\"") && told[0].contains("\"level\":\"WARN\""), "{log}");
}

#[test]
fn what_is_shown_is_a_file_that_can_be_used() {
    let directory = directory(&format!("[cache]\ntag_ttl = \"90s\"\n{UPSTREAM}"));
    let show = |more: &[&str]| {
        let (code, stdout, stderr) = run(&directory, &[&["config", "show", "--max-size", "7 GiB"], more].concat());
        assert_eq!((code, &*stderr), (Some(0), ""), "{stdout}");
        stdout
    };
    let shown = show(&["--config", "forebay.toml"]);
    assert!(shown.contains("max_size = \"7 GiB\"\n") && shown.contains("tag_ttl = \"90s\"\n"), "{shown}");
    fs::write(directory.path().join("shown.toml"), &shown).unwrap();
    assert_eq!(show(&["--config", "shown.toml"]), shown);
    let origins = show(&["--config", "forebay.toml", "--origin"]);
    for line in [
        "max_size = \"7 GiB\"  # --max-size",
        "tag_ttl = \"90s\"  # forebay.toml:2:1",
        "negative_ttl = \"10s\"  # default",
        "name = \"a.example\"  # forebay.toml:4:1",
    ] {
        assert!(origins.lines().any(|found| found == line), "{line}\n{origins}");
    }
    let document = json(&show(&["--config", "forebay.toml", "--json", "--origin"]));
    assert_eq!(document["config"]["cache"]["tag_ttl"], "90s");
    assert_eq!(document["origins"]["cache.tag_ttl"]["line"], 2);
}

#[test]
fn the_example_is_printed_and_passes() {
    let directory = directory("");
    let (code, stdout, _) = run(&directory, &["config", "example"]);
    assert_eq!(code, Some(0));
    assert_eq!(stdout, fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml")).unwrap());
    fs::write(directory.path().join("forebay.toml"), stdout).unwrap();
    let (code, _, stderr) = run(&directory, &["config", "check", "--config", "forebay.toml"]);
    assert_eq!(code, Some(0), "{stderr}");
}

#[test]
fn a_file_that_came_after_the_start_is_compared() {
    let directory = directory("");
    let serving = Serving::start(forebay(&directory).args(ON_ANY_PORT));
    let diff = || run(&directory, &["config", "diff"]);
    assert_eq!(diff(), (Some(0), "the defaults: as the running forebay\n".to_owned(), String::new()));
    for form in [&[][..], &["--json"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = forebay(&directory).args(["config", "diff"]).args(form).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{form:?}");
    }
    fs::create_dir(directory.path().join("etc")).unwrap();
    fs::write(directory.path().join("etc/forebay.toml"), "[cache]\ntag_ttl = \"5m\"\n").unwrap();
    let (code, stdout, stderr) = diff();
    assert_eq!((code, &*stderr), (Some(1), "forebay: 1 key differs\n"), "{stdout}");
    assert!(stdout.starts_with("cache.tag_ttl: running \"1m\", file \"5m\" ("), "{stdout}");
    serving.signal(Signal::TERM);
    serving.end();
}

#[test]
fn the_file_is_compared_with_the_running_forebay() {
    let text = |cache: &str| format!("[admin]\nsocket = \"control.sock\"\n[cache]\n{cache}{UPSTREAM}");
    let directory = directory(&text(""));
    let diff = |more: &[&str]| run(&directory, &[&["config", "diff", "--config", "forebay.toml"], more].concat());
    let (code, stdout, stderr) = diff(&[]);
    assert_eq!((code, &*stdout), (Some(1), ""));
    assert!(
        stderr.starts_with("forebay: no forebay runs here: nothing listens on ") && stderr.contains("control.sock"),
        "{stderr}"
    );

    let serving = Serving::start(forebay(&directory).args(ON_ANY_PORT).args(["--config", "forebay.toml"]));
    let (code, stdout, stderr) = diff(&[]);
    assert_eq!((code, &*stdout, &*stderr), (Some(0), "forebay.toml: as the running forebay\n", ""));

    fs::write(directory.path().join("forebay.toml"), text("tag_ttl = \"5m\"\nmanifest_memory = \"1 MiB\"\n")).unwrap();
    let (code, stdout, stderr) = diff(&[]);
    assert_eq!((code, &*stderr), (Some(1), "forebay: 2 keys differ\n"), "{stdout}");
    let expected = "cache.manifest_memory: running \"64 MiB\", file \"1 MiB\" (forebay.toml:5:1), taken at the next start\n\
                    cache.tag_ttl: running \"1m\", file \"5m\" (forebay.toml:4:1), taken at a reload\n";
    assert_eq!(stdout, expected);
    let document = json(&diff(&["--json"]).1);
    assert_eq!(document["differences"][1]["key"], "cache.tag_ttl");
    assert_eq!(document["differences"][1]["taken"], "reload");

    serving.signal(Signal::HUP);
    let deadline = Instant::now() + PATIENCE;
    while diff(&[]).1.contains("tag_ttl") {
        assert!(Instant::now() < deadline, "the reload is not told");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(diff(&[]).2, "forebay: 1 key differs\n");
    // From anywhere else, the flag says which forebay is meant, and that says which file it read.
    let socket = directory.path().join("control.sock");
    let output = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .args(["config", "diff", "--control"])
        .arg(&socket)
        .current_dir("/")
        .env_clear()
        .env("HOME", directory.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "forebay: 1 key differs\n");
    serving.signal(Signal::TERM);
    serving.end();
    assert!(!socket.exists());
}
