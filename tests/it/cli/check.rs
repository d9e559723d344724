//! `forebay check`: what it accepts, and how it reports what it does not.

use super::*;

#[test]
fn a_bad_configuration_is_exit_code_2_with_file_line_and_key() {
    let directory = directory("[cache]\n\nmax_size = \"much\"\n");
    for command in ["check", "serve"] {
        let (code, stdout, stderr) = run(&directory, &[command, "--config", "forebay.toml"]);
        assert_eq!((code, &*stdout), (Some(2), ""), "{command}: {stderr}");
        assert!(stderr.starts_with("forebay: forebay.toml:3:1: cache.max_size: must be a size"), "{command}: {stderr}");
    }
    let (code, _, stderr) = run(&directory, &["check", "--config", "other.toml"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("other.toml: cannot read"), "{stderr}");
}

#[test]
fn a_good_configuration_is_exit_code_0() {
    let directory = directory("[[upstream]]\nname = \"ghcr.io\"\n");
    let (code, stdout, stderr) = run(&directory, &["check", "--config", "forebay.toml"]);
    assert_eq!((code, &*stdout), (Some(0), "forebay.toml: ok, 1 upstream\n"), "{stderr}");
    let (code, stdout, stderr) = run(&directory, &["check"]);
    assert_eq!((code, &*stdout), (Some(0), "the built-in configuration: ok, 10 upstreams\n"), "{stderr}");
}

/// A restart cannot mend a file: the unit does not try again after exit code 2.
#[test]
fn a_named_file_with_bad_contents_is_exit_code_2_with_its_key() {
    for (place, configuration) in [
        ("2:1: server.tls.certificate", "[server.tls]\ncertificate = \"bad\"\nkey = \"bad\"\n"),
        ("2:1: access.htpasswd", "[access]\nhtpasswd = \"bad\"\n"),
        // It could be guessed.
        ("2:1: push.key_file", "[push]\nkey_file = \"bad\"\n"),
        (
            "5:1: upstream[1].ca",
            "[[upstream]]\nname = \"a.example\"\n[[upstream]]\nname = \"b.example\"\nca = \"bad\"\n",
        ),
    ] {
        let directory = directory(configuration);
        fs::write(directory.path().join("bad"), "nothing\n").unwrap();
        for command in [&["check"][..], &ON_ANY_PORT] {
            let (code, stdout, stderr) = run(&directory, &[command, &["--config", "forebay.toml"]].concat());
            assert_eq!((code, &*stdout), (Some(2), ""), "{command:?}: {stderr}");
            let expected = format!("forebay: forebay.toml:{place}: ");
            let said = stderr.lines().find(|line| line.starts_with("forebay: ")).unwrap();
            assert!(said.starts_with(&expected) && said.contains("bad"), "{command:?}: {stderr}");
        }
    }
}

/// An operator who mends one file after the other restarts forebay as often.
#[test]
fn all_bad_files_are_told_at_once() {
    let directory = directory(
        "[server.tls]\ncertificate = \"bad\"\nkey = \"bad\"\nclient_ca = \"worse\"\n[access]\nhtpasswd = \"bad\"\n\
         [push]\nkey_file = \"bad\"\n[[upstream]]\nname = \"a.example\"\nca = \"bad\"\nusername = \"me\"\n\
         password_file = \"empty\"\n[[upstream]]\nname = \"b.example\"\ndocker_config = \"empty\"\n\
         [[upstream]]\nname = \"c.example\"\nca = \"short\"\n",
    );
    for (name, content) in [("bad", "nothing\n"), ("worse", "nothing\n"), ("empty", ""), ("short", SHORT_KEY)] {
        fs::write(directory.path().join(name), content).unwrap();
    }
    let starts = [
        "2:1: server.tls.certificate",
        "3:1: server.tls.key",
        "4:1: server.tls.client_ca",
        "6:1: access.htpasswd",
        "8:1: push.key_file",
        "11:1: upstream[0].ca",
        "13:1: upstream[0].password_file",
        "16:1: upstream[1].docker_config",
        "19:1: upstream[2].ca",
    ];
    // A start goes on without a certificate that cannot be used, with a warning.
    for (command, starts) in [(&["check"][..], &starts[..]), (&ON_ANY_PORT, &starts[..8])] {
        let (code, _, stderr) = run(&directory, &[command, &["--config", "forebay.toml"]].concat());
        assert_eq!(code, Some(2), "{stderr}");
        let told: Vec<_> = stderr.lines().filter_map(|line| line.strip_prefix("forebay: forebay.toml:")).collect();
        let is_told = |(line, start): (&&str, &&str)| line.starts_with(&format!("{start}: "));
        assert!(told.len() == starts.len() && told.iter().zip(starts).all(is_told), "{command:?}: {stderr}");
    }
    let (_, stdout, _) = run(&directory, &["check", "--json", "--config", "forebay.toml"]);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["errors"].as_array().map(Vec::len), Some(starts.len()), "{report}");
}

/// `openssl req -x509 -newkey rsa:1024 -subj /CN=registry.lan -addext subjectAltName=DNS:registry.lan -days 36500`.
const SHORT_KEY: &str = "\
-----BEGIN CERTIFICATE-----
MIICJTCCAY6gAwIBAgIUbTNhGluAVwTTX98JtIyQqPgcTscwDQYJKoZIhvcNAQEL
BQAwFzEVMBMGA1UEAwwMcmVnaXN0cnkubGFuMCAXDTI2MTEyOTE0NTQwM1oYDzIx
MjYxMTA1MTQ1NDAzWjAXMRUwEwYDVQQDDAxyZWdpc3RyeS5sYW4wgZ8wDQYJKoZI
hvcNAQEBBQADgY0AMIGJAoGBAOqxizIs8VU8K0C5efJbGL7L5PUBlFHQR4bHWpyF
k/q3Q+Jtqr4erEb+lm88Rvnzcz0flD1bZSIWiUcSpX+iiwGdM4KlY5dvUsFTZECL
mh9GTr2I29BojRzYUMLb5rYOK9OGxsGMgkJcQsbc/R7uKqpWlQ+CgPjx1UJWZFU7
KaaVAgMBAAGjbDBqMB0GA1UdDgQWBBSVkWlkh2bm9zoQlZfzSe2iAMiiGDAfBgNV
HSMEGDAWgBSVkWlkh2bm9zoQlZfzSe2iAMiiGDAPBgNVHRMBAf8EBTADAQH/MBcG
A1UdEQQQMA6CDHJlZ2lzdHJ5LmxhbjANBgkqhkiG9w0BAQsFAAOBgQDQEfKxEwl+
7AxOJcIQHAouoPBEaTp7gy1zNaO5ANGfBvwxWcy2bZ4C/v20MXONFAbSsgW8QmUH
IIDNNhxBYIVBC1jg2KNx2qJfxdLQa6g60qSv4nDRxKcJhd3Q/f1jT4M8tfoEkrjf
nr3hyFB7rR977kuLkRHQTuStTx8fm3Cd6w==
-----END CERTIFICATE-----
";

/// The error of a handshake would not say what to do.
#[test]
fn a_certificate_that_cannot_be_used_is_explained_by_check() {
    let named = |names: Vec<String>| {
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "registry.lan");
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    };
    let (nameless, good) = (named(vec![]), named(vec!["registry.lan".to_owned()]));
    for (content, code, said) in [
        (SHORT_KEY.to_owned(), Some(2), Some("own.crt cannot be used: its RSA key has 1024 bits")),
        (nameless.clone(), Some(2), Some("own.crt cannot be used: it names registry.lan as its common name")),
        (format!("{good}{nameless}"), Some(0), Some("registry.lan: certificate 2 of ")),
        (good, Some(0), None),
    ] {
        let directory = directory("[[upstream]]\nname = \"registry.lan\"\nca = \"own.crt\"\n");
        fs::write(directory.path().join("own.crt"), &content).unwrap();
        let (found, stdout, stderr) = run(&directory, &["check", "--config", "forebay.toml"]);
        assert_eq!(found, code, "{stdout}{stderr}");
        let report = run(&directory, &["check", "--json", "--config", "forebay.toml"]).1;
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        let is_refused = code == Some(2);
        assert_eq!(report["ok"], !is_refused, "{report}");
        assert_eq!(is_refused, report["errors"][0]["key"] == "upstream[0].ca", "{report}");
        assert_eq!(said.is_some(), report["notes"].to_string().contains(said.unwrap_or("own.crt")), "{report}");
        match said {
            Some(said) => {
                assert!(stdout.starts_with("registry.lan: certificate ") && stdout.contains(said), "{stdout}")
            }
            None => assert_eq!(stdout, "forebay.toml: ok, 1 upstream\n"),
        }
    }
}

/// A user who was removed may not push; that is no reason to keep others from pulling.
#[test]
fn check_reports_a_push_user_without_a_password() {
    let directory = directory("[access]\nhtpasswd = \"users\"\npush_users = [\"ann\", \"gone\"]\n");
    fs::write(directory.path().join("users"), format!("ann:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
    let (code, _, stderr) = run(&directory, &["check", "--config", "forebay.toml"]);
    let said = stderr.lines().last().unwrap_or_default();
    assert_eq!(code, Some(2), "{stderr}");
    assert!(
        said.starts_with("forebay: forebay.toml:3:1: access.push_users: \"gone\" is no user of ")
            && said.contains("users"),
        "{said}"
    );
}

#[test]
fn an_invalid_password_file_exits_2_with_the_reason() {
    let upstream = |key: &str| format!("[[upstream]]\nname = \"a.example\"\n{key} = \"bad\"\n");
    for (configuration, content, why) in [
        (upstream("username = \"me\"\npassword_file"), vec![], "it is empty"),
        (upstream("username = \"me\"\npassword_file"), b"\xef\xbb\xbfpw".to_vec(), "byte order mark"),
        (upstream("username = \"me\"\npassword_file"), vec![b'p'; 65_537], "longer than 65536 bytes"),
        (upstream("docker_config"), b"{".to_vec(), "EOF"),
        (upstream("ca"), vec![b'x'; 5 << 20], "longer than"),
        ("[access]\nhtpasswd = \"bad\"\n".to_owned(), vec![b'#'; 5 << 20], "longer than"),
        ("[access]\nhtpasswd = \"bad\"\n".to_owned(), b"\xef\xbb\xbf# staff".to_vec(), "byte order mark"),
        ("[push]\nkey_file = \"bad\"\n".to_owned(), vec![b'x'; 65_537], "longer than"),
    ] {
        let directory = directory(&configuration);
        fs::write(directory.path().join("bad"), content).unwrap();
        for command in [&["check"][..], &ON_ANY_PORT] {
            let (code, _, stderr) = run(&directory, &[command, &["--config", "forebay.toml"]].concat());
            let said = stderr.lines().last().unwrap();
            assert_eq!(code, Some(2), "{configuration}: {stderr}");
            assert!(said.contains("bad") && said.contains(why), "{configuration}: {said}");
        }
    }
}

/// It would be left out, and everything asked directly.
#[test]
fn a_proxy_that_is_none_is_exit_code_2_with_its_variable() {
    let directory = directory("[[upstream]]\nname = \"a.example\"\n");
    for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        for command in [&["check"][..], &ON_ANY_PORT] {
            let arguments = [command, &["--config", "forebay.toml"]].concat();
            let output = forebay(&directory).env(variable, "http://me:hunter2@:port").args(arguments).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{variable}: {stderr}");
            assert!(stderr.contains(variable) && !stderr.contains("hunter2"), "{stderr}");
        }
        let report = forebay(&directory).env(variable, "http://:port").args(["check", "--json"]).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
        assert!(report["errors"][0]["problem"].as_str().unwrap().contains(variable), "{report}");
    }
}

/// A port without a listener refuses at once, so no network is needed.
#[test]
fn check_online_fails_when_an_upstream_does_not_answer() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let directory = directory(&format!("[[upstream]]\nname = \"down.example\"\nurls = [\"http://{nobody}\"]\n"));
    let (code, stdout, stderr) = run(&directory, &["check", "--online", "--config", "forebay.toml"]);
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(stdout.contains("down.example: failed: "), "{stdout}");
    assert!(stderr.contains("1 of 1 upstreams failed"), "{stderr}");
}
