//! Invalid configurations: the error names file, line and key.

use super::*;

#[test]
fn a_bad_flag_is_named_as_a_flag() {
    let same: SocketAddr = "127.0.0.1:5000".parse().unwrap();
    let error = Config::load(None, Overrides { admin: Some(same), ..overrides() }).unwrap_err();
    assert!(error.to_string().starts_with("--admin: 127.0.0.1:5000 is where the registry listens"), "{error}");
    let error = Config::load(None, Overrides { max_size: Some(0), ..overrides() }).unwrap_err();
    assert!(error.to_string().starts_with("--max-size: "), "{error}");
}

/// Text, the line and key that must be named, and what must be said.
const REFUSED: &[(&str, usize, &str, &str)] = &[
    // What the parser finds.
    ("[server]\nlisten = [\"127.0.0.1:5000\"", 2, "server.listen", "this list has no end"),
    ("[server]\n\nlisen = []", 3, "server.lisen", "did you mean listen?"),
    ("[serve]\nlisten = []", 1, "serve", "did you mean [server]?"),
    (
        "[[upstream]]\nname = \"a.b\"\n[[upstream]]\nname = \"c.d\"\nurl = \"x\"",
        5,
        "upstream[1].url",
        "did you mean urls?",
    ),
    ("[server]\nclear_http = \"yes\"", 2, "server.clear_http", "write clear_http = true, without quotes"),
    ("[server]\nlisten = [1]", 2, "server.listen[0]", "write \"1\", in quotes"),
    ("[server]\nmax_connections = -1", 2, "server.max_connections", "must be 0 or more, not -1"),
    ("[server]\ndrain_timeout = \"soon\"", 2, "server.drain_timeout", "must be a duration such as \"30s\""),
    (
        "[server]\ntrusted_networks = [\"10.0.0.0/8\", \"10.0.0.1/8\"]",
        2,
        "server.trusted_networks[1]",
        "write 10.0.0.0/8",
    ),
    ("[server]\ntrusted_networks = [\"cluster\"]", 2, "server.trusted_networks[0]", "must be a network such as"),
    ("[store]\nregion = \"x\"", 1, "store", "needs url: url = \"s3://bucket/prefix\""),
    ("[store]\nurl = \"https://s3.example/a\"", 2, "store.url", "must be like \"s3://bucket/prefix\""),
    ("[store]\nurl = \"s3://a\"\nendpoint = \"s3.example\"", 3, "store.endpoint", "must be the URL of a server"),
    ("[store]\nurl = \"s3://a\"\nendpoint = \"http://a:b@c\"", 3, "store.endpoint", "must be the URL of a server"),
    ("[store]\nurl = \"s3://a\"\nregion = \"a b\"", 3, "store.region", "must be the name of a region"),
    ("[store]\nurl = \"s3://a\"\ncredentials = \"x\"", 3, "store.credentials", "must be \"environment\" or"),
    ("[store]\nurl = \"s3://a\"\naccess_key_id_file = \"x\"", 1, "store", "needs secret_access_key_file beside"),
    (
        "[store]\nurl = \"gs://a\"\naccess_key_id_file = \"x\"\nsecret_access_key_file = \"y\"",
        3,
        "store.access_key_id_file",
        "is for \"s3://\" alone",
    ),
    (
        "[store]\nurl = \"s3://a\"\ncredentials = \"instance\"\naccess_key_id_file = \"x\"\nsecret_access_key_file = \"y\"",
        3,
        "store.credentials",
        "must not be \"instance\" with access_key_id_file",
    ),
    ("[server]\ndrain_timeout = 30", 2, "server.drain_timeout", "30 of what? write \"30s\""),
    ("[cache]\ntag_ttl = \"200 years\"", 2, "cache.tag_ttl", "100 years"),
    ("[cache]\nmax_size = \"much\"", 2, "cache.max_size", "must be a size such as \"50 GiB\""),
    ("[cache]\nmax_size = -1", 2, "cache.max_size", "must be a size such as \"50 GiB\""),
    ("[cache]\nmax_size = 1.5", 2, "cache.max_size", "1.5 of what? write \"1.5 GiB\""),
    ("[cache]\nmin_free = \"9 EiB\"", 2, "cache.min_free", "at most 1 EiB"),
    ("[access]\nanonymous = \"push\"", 2, "access.anonymous", "must be \"pull\" or \"none\", not \"push\""),
    ("[server]\n[server.tls]\nkey = \"tls.key\"", 2, "server.tls", "needs a certificate in a file"),
    ("[[upstream]]\nurls = []", 1, "upstream[0]", "needs the name of the registry"),
    ("[cache]\nmax_size = 1\nmax_size = 2", 3, "cache.max_size", "this key is set already, at line 2"),
    ("[[upstream]]\nname = \"a.b\"\n[[upstream]]\nname = 'c.d", 4, "upstream[1].name", "the quote is not closed"),
    (
        "[[upstream]]\nname = \"a.b\"\n[[upstream]]\nname = \"c.d\"\nname = \"e.f\"",
        5,
        "upstream[1].name",
        "this key is set already, at line 4",
    ),
    // Rules.
    ("[[rule]]\ndeny = true", 1, "rule[0]", "needs a pattern"),
    ("[[rule]]\nmatch = \"\"\ndeny = true", 2, "rule[0].match", "must not be empty; \"*\" matches everything"),
    ("[[rule]]\nmatch = \"a b\"\ndeny = true", 2, "rule[0].match", "has ' ' in it"),
    ("[[rule]]\nmatch = \"docker.io\"\ndeny = true", 2, "rule[0].match", "write \"docker.io/*\""),
    ("[[rule]]\nmatch = \"*\"\n[[rule]]\nmatch = \"x\"\ndeny = true", 1, "rule[0]", "sets no key beside match"),
    ("[[rule]]\nmatch = \"*\"\nminimun_age = \"7d\"", 3, "rule[0].minimun_age", "did you mean minimum_age?"),
    ("[[rule]]\nmatch = \"*\"\nminimum_age = 7", 3, "rule[0].minimum_age", "7 of what?"),
    (
        "[[rule]]\nmatch = \"*\"\nminimum_age_first = \"no\"",
        3,
        "rule[0].minimum_age_first",
        "must be \"deny\" or \"allow\"",
    ),
    (
        "[[rule]]\nmatch = \"*\"\nimmutable = true\nminimum_age = \"7d\"",
        4,
        "rule[0].minimum_age",
        "contradicts immutable",
    ),
    ("[[rule]]\nmatch = \"*\"\nfreeze = true\nimmutable = true", 4, "rule[0].immutable", "keep one of them"),
    (
        "[[upstream]]\nname = \"a.b\"\n[[upstream.rule]]\nmatch = \"*\"\n[[upstream.rule]]\nmatch = \"?\"\ndeny = true",
        3,
        "upstream[0].rule[0]",
        "sets no key beside match",
    ),
    // A cluster.
    ("[cluster]\nkey_file = \"k\"", 1, "cluster", "needs peers"),
    ("[cluster]\npeers = [\"https://a:5000\"]", 1, "cluster", "needs key_file, a file that all members have"),
    (
        "[cluster]\nkey_file = \"k\"\npeers = [\"a:5000\"]",
        3,
        "cluster.peers[0]",
        "must be like \"dns:forebay.mirror.svc:5000\"",
    ),
    (
        "[cluster]\nkey_file = \"k\"\npeers = [\"https://a:5000\", \"https://b:5000\"]\nadvertise = \"a:5000\"",
        4,
        "cluster.advertise",
        "must be like \"https://node2:5000\"",
    ),
    (
        "[cluster]\nkey_file = \"k\"\npeers = [\"https://a:5000\", \"https://b:5000\"]\nadvertise = \"https://c:5000\"",
        4,
        "cluster.advertise",
        "https://c:5000 is not in peers",
    ),
    (
        "[cluster]\nkey_file = \"k\"\npeers = [\"dns:forebay.lan:5000\"]\nadvertise = \"http://mirror1.lan:5000\"",
        4,
        "cluster.advertise",
        "write this machine's, like \"http://10.0.0.7:5000\"",
    ),
    (
        "[cluster]\nkey_file = \"k\"\npeers = [\"dns:forebay.lan:5000\"]\nadvertise = \"http://10.0.0.7:5001\"",
        4,
        "cluster.advertise",
        "http://10.0.0.7:5001 is no peer",
    ),
    (
        "[cluster]\nkey_file = \"k\"\npeers = [\"dns:forebay.lan:5000\"]\n[server.tls]\ncertificate = \"c\"\nkey = \"k\"",
        1,
        "cluster",
        "needs server_name",
    ),
    (
        "[cluster]\nkey_file = \"k\"\npeers = [\"https://a:5000\", \"https://b:5000\"]\nzone = \"eu west\"",
        4,
        "cluster.zone",
        "must be 1 to 64 letters, digits",
    ),
    (
        "[cluster]\nkey_file = \"k\"\npeers = [\"https://a:5000\", \"https://b:5000\"]\nserver_name = \"a b\"",
        4,
        "cluster.server_name",
        "must be the name in the peers' certificates",
    ),
    (
        "[cluster]\nkey_file = \"k\"\npeers = [\"https://a:5000\", \"https://b:5000\"]\ntimeout = \"10ms\"",
        4,
        "cluster.timeout",
        "must be from 100ms to 1m",
    ),
    // What makes no sense by itself.
    ("state_directory = \"\"", 1, "state_directory", "must not be empty"),
    ("state_directory = \"/cache/keys\"", 1, "state_directory", "must not be in the cache directory"),
    ("[server]\nlisten = []", 2, "server.listen", "at least one"),
    ("[server]\nlisten = [\n  \"127.0.0.1:1\",\n  \"mirror.lan:5000\",\n]", 4, "server.listen[1]", "is a name"),
    ("[server]\nlisten = \"5000\"", 2, "server.listen", "write \":5000\" for all addresses"),
    ("[server]\nlisten = [\":7\", \"10.0.0.1:7\"]", 2, "server.listen", "same port of the same machine"),
    ("[server]\nlisten = [\"127.0.0.1:7\", \"127.0.0.1:7\"]", 2, "server.listen", "twice"),
    ("[server]\nmax_connections = 0", 2, "server.max_connections", "at least 1"),
    ("[server]\nclear_http = false", 2, "server.clear_http", "nothing would be served"),
    ("[admin]\nlisten = \"5001\"", 2, "admin.listen", "write \":5001\""),
    ("[admin]\nlisten = \"127.0.0.1:5000\"", 2, "admin.listen", "an address of its own"),
    ("[admin]\nlisten = \":5000\"", 2, "admin.listen", "where the registry listens (127.0.0.1:5000)"),
    ("[cache]\nmax_size = 0", 2, "cache.max_size", "more than 0"),
    ("[cache]\nmin_free = \"1 EiB\"", 2, "cache.min_free", "must be less than the file system"),
    ("[access]\npush_users = \"ci\"", 2, "access.push_users", "access.htpasswd is not set"),
    ("[access]\npush_users = [\"ci\"]", 2, "access.push_users[0]", "access.htpasswd is not set"),
    ("[access]\npush_users = [\"\"]", 2, "access.push_users[0]", "must not be empty"),
    ("[access]\npush_users = [\"certificate:*\"]", 2, "access.push_users[0]", "server.tls.client_ca is not set"),
    ("[access]\npush_users = [\"certificate:ci\"]", 2, "access.push_users[0]", "must be a user of access.htpasswd"),
    ("[access]\nhtpasswd = \"htpasswd\"\npush_users = [\"ci\", \"ci\"]", 3, "access.push_users[1]", "twice"),
    ("[access]\nanonymous = \"none\"", 2, "access.anonymous", "no client could pull"),
    // Files.
    ("[server.tls]\ncertificate = \"no.crt\"\nkey = \"tls.key\"", 2, "server.tls.certificate", "no.crt: No such file"),
    ("[server.tls]\ncertificate = \"tls.crt\"\nkey = \"no.key\"", 3, "server.tls.key", "no.key: No such file"),
    (
        "[server.tls]\ncertificate=\"tls.crt\"\nkey=\"tls.key\"\nclient_ca = \".\"",
        4,
        "server.tls.client_ca",
        "not a regular file",
    ),
    ("[access]\nhtpasswd = \"none\"", 2, "access.htpasswd", "No such file"),
    ("[[upstream]]\nname = \"a.b\"\nca = \"no\"", 3, "upstream[0].ca", "No such file"),
    (
        "[[upstream]]\nname = \"a.b\"\nusername = \"u\"\npassword_file = \"no\"",
        4,
        "upstream[0].password_file",
        "No such file",
    ),
    ("[[upstream]]\nname = \"a.b\"\ndocker_config = \"no\"", 3, "upstream[0].docker_config", "No such file"),
    // One upstream.
    ("[[upstream]]\nname = \"\"", 2, "upstream[0].name", "HOST or HOST:PORT"),
    ("[[upstream]]\nname = \"https://a.b\"", 2, "upstream[0].name", "HOST or HOST:PORT"),
    ("[[upstream]]\nname = \"a.b/c\"", 2, "upstream[0].name", "HOST or HOST:PORT"),
    ("[[upstream]]\nname = \"..\"", 2, "upstream[0].name", "HOST or HOST:PORT"),
    ("[[upstream]]\nname = \"V2\"", 2, "upstream[0].name", "reserved"),
    ("[[upstream]]\nname = \"none\"", 2, "upstream[0].name", "reserved"),
    ("[[upstream]]\nname = \"a.b\"\naliases = [\"ok\", \"a b\"]", 3, "upstream[0].aliases[1]", "HOST or HOST:PORT"),
    ("[[upstream]]\nname = \"a.b\"\nconnections = 0", 3, "upstream[0].connections", "1 to 16"),
    ("[[upstream]]\nname = \"a.b\"\nconnections = 17", 3, "upstream[0].connections", "1 to 16"),
    ("[[upstream]]\nname = \"a.b\"\nconnect_timeout = 0", 3, "upstream[0].connect_timeout", "must be more than 0"),
    ("[[upstream]]\nname = \"a.b\"\nresponse_timeout = \"0s\"", 3, "upstream[0].response_timeout", "more than 0"),
    ("[[upstream]]\nname = \"a.b\"\nidle_timeout = 30", 3, "upstream[0].idle_timeout", "30 of what?"),
    ("[cache]\nverify_every = 7", 2, "cache.verify_every", "7 of what? write \"7s\""),
    ("[cache]\nverify_every = \"-1d\"", 2, "cache.verify_every", "must be a duration"),
    ("[cache]\nverify_every = true", 2, "cache.verify_every", "must be a duration"),
    ("[cache]\nprefetch = 17", 2, "cache.prefetch", "0 to 16"),
    ("[[upstream]]\nname = \"a.b\"\nurls = []", 3, "upstream[0].urls", "at least one URL"),
    ("[[upstream]]\nname = \"a.b\"\nurls = [\"a.b\"]", 3, "upstream[0].urls[0]", "write \"https://a.b\""),
    ("[[upstream]]\nname = \"a.b\"\nurls = [\"https://a.b\", \"ftp://a.b\"]", 3, "upstream[0].urls[1]", "not ftp:"),
    ("[[upstream]]\nname = \"a.b\"\nurls = [\"https://a.b?x=1\"]", 3, "upstream[0].urls[0]", "query"),
    ("[[upstream]]\nname = \"a.b\"\nurls = [\"https://a.b#x\"]", 3, "upstream[0].urls[0]", "fragment"),
    ("[[upstream]]\nname = \"a.b\"\nurls = [\"https://a.b/v2/\"]", 3, "upstream[0].urls[0]", "forebay adds it"),
    ("[[upstream]]\nname = \"a.b\"\nurls = [\"https://u@a.b\"]", 3, "upstream[0].urls[0]", "password_file"),
    ("[[upstream]]\nname = \"a.b\"\nhosts = [\"http://x/\"]", 3, "upstream[0].hosts[0]", "must be a name"),
    ("[server]\nallowed_hosts = [\"a.lan\", \"*:5000\"]", 2, "server.allowed_hosts[1]", "not any name"),
    ("[admin]\nallowed_hosts = [\"*.lan\"]", 2, "admin.allowed_hosts[0]", "must be a name"),
    ("[[upstream]]\nname = \"a.b\"\nhosts = [\"x\", \"*:http\"]", 3, "upstream[0].hosts[1]", "must be a name"),
    (
        "[[upstream]]\nname = \"a.b\"\nrealms = [\"https://auth.b/token\"]",
        3,
        "upstream[0].realms[0]",
        "HOST or HOST:PORT",
    ),
    ("[[upstream]]\nname = \"a.b\"\nrealms = [\"*.b\"]", 3, "upstream[0].realms[0]", "HOST or HOST:PORT"),
    ("[[upstream]]\nname = \"a.b\"\nusername = \"u\"", 3, "upstream[0].username", "needs password_file"),
    (
        "[[upstream]]\nname = \"a.b\"\npassword_file = \"hub.password\"",
        3,
        "upstream[0].password_file",
        "needs username",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\nusername = \"u:v\"\npassword_file = \"hub.password\"",
        3,
        "upstream[0].username",
        "colon",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\nusername = \"u\"\npassword_file = \"hub.password\"\ncredential_helper = \"x\"",
        5,
        "upstream[0].credential_helper",
        "already come from username",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\ndocker_config = \"config.json\"\ncredential_helper = \"x\"",
        3,
        "upstream[0].docker_config",
        "already come from credential_helper",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\ncredential_helper = \"../x\"",
        3,
        "upstream[0].credential_helper",
        "docker-credential-",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\nurls = [\"https://a.b\", \"http://c.d\"]\ndocker_config = \"config.json\"",
        3,
        "upstream[0].urls",
        "must not mix https and http",
    ),
    // Pushes, and whose credentials decide.
    ("[push]\nkey_file = \"missing.key\"", 2, "push.key_file", "cannot read"),
    ("[push]\nkey = \"x\"", 2, "push.key", "did you mean key_file?"),
    ("[[upstream]]\nname = \"a.b\"\npush = \"yes\"", 3, "upstream[0].push", "write push = true, without quotes"),
    (
        "[[upstream]]\nname = \"a.b\"\naccess = \"all\"",
        3,
        "upstream[0].access",
        "must be \"shared\" or \"client\", not \"all\"",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\naccess = \"client\"\ncredential_helper = \"x\"",
        3,
        "upstream[0].access",
        "only the client's own credentials are used",
    ),
    ("[[upstream]]\nname = \"a.b\"\naccess_ttl = \"1m\"", 3, "upstream[0].access_ttl", "needs access = \"client\""),
    (
        "[[upstream]]\nname = \"a.b\"\naccess = \"client\"\naccess_grace = \"1s\"",
        4,
        "upstream[0].access_grace",
        "must be at least access_ttl",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\naccess = \"client\"\nurls = [\"https://a.b\", \"http://a.b\"]",
        4,
        "upstream[0].urls",
        "must not mix https and http",
    ),
    ("[access]\naccess_ttl = \"1x\"", 2, "access.access_ttl", "must be a duration"),
    // Two upstreams.
    ("[[upstream]]\nname = \"a.b\"\n[[upstream]]\nname = \"A.B\"", 4, "upstream[1].name", "already a name of a.b"),
    ("[[upstream]]\nname = \"a.b\"\n[[upstream]]\nname = \"a.b:443\"", 4, "upstream[1].name", "already a name of a.b"),
    (
        "[[upstream]]\nname = \"a.b\"\n[[upstream]]\nname = \"c.d\"\naliases = [\"x\", \"a.b\"]",
        5,
        "upstream[1].aliases[1]",
        "already a name of a.b",
    ),
    (
        "[[upstream]]\nname = \"docker.io\"\n[[upstream]]\nname = \"index.docker.io\"",
        4,
        "upstream[1].name",
        "already a name of docker.io",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\naliases = [\"a.b\"]",
        3,
        "upstream[0].aliases[0]",
        "already a name of this upstream",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\nhosts = [\"m.lan\"]\n[[upstream]]\nname = \"c.d\"\nhosts = [\"M.lan\"]",
        6,
        "upstream[1].hosts[0]",
        "already belongs to a.b",
    ),
    (
        "[[upstream]]\nname = \"a.b\"\ndefault = true\n[[upstream]]\nname = \"c.d\"\ndefault = true",
        6,
        "upstream[1].default",
        "a.b is the default already",
    ),
];

#[test]
fn what_is_wrong_is_named_with_file_line_and_key() {
    let directory = directory();
    for (text, line, key, said) in REFUSED {
        let error = parse_in(directory.path(), text).expect_err(text);
        let seen = error.to_string();
        assert_eq!(error.key(), Some(*key), "{text}\n{seen}");
        assert_eq!(error.position().map(|position| position.line), Some(*line), "{text}\n{seen}");
        assert!(error.problem().contains(said), "{text}\n{seen}");
        let place = format!("{}:{line}:", directory.path().join("forebay.toml").display());
        assert!(seen.starts_with(&place), "{text}\n{seen}");
    }
}

#[test]
fn urls_may_mix_schemes_where_there_is_no_password_to_lose() {
    for text in [
        "urls = [\"https://a.b\", \"http://c.d\"]",
        "urls = [\"http://a.b\", \"http://c.d\"]\ncredential_helper = \"x\"",
        "urls = [\"https://a.b\", \"https://c.d\"]\ncredential_helper = \"x\"",
    ] {
        assert!(parse(&format!("[[upstream]]\nname = \"a.b\"\n{text}")).is_ok(), "{text}");
    }
}

#[test]
fn a_column_counts_characters() {
    let error = parse("[server]\n'é' = 1").unwrap_err();
    assert_eq!(error.position().map(|position| (position.line, position.column)), Some((2, 1)));
    let error = parse("server = { listen = [\"é\", \"x\"] }").unwrap_err();
    assert_eq!(error.key(), Some("server.listen[0]"));
    let error = parse("access.anonymous = \"pull\" # é\nserver.listen = [\"127.0.0.1:1\", \"é\"]").unwrap_err();
    assert_eq!(error.position().map(|position| (position.line, position.column)), Some((2, 33)));
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some(Path::new("/nowhere/forebay.toml")), overrides()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/nowhere/forebay.toml: cannot read the configuration file: No such file or directory (os error 2)"
    );
}

/// A password that was written into a URL by mistake must not go into a log.
#[test]
fn a_password_is_not_repeated() {
    let url = "https://me:hunter2@a.b";
    for line in [
        format!("urls = [\"{url}\"]"),
        format!("urls = [[\"{url}\"]]"),
        format!("urls = {url}"),
        format!("urls = “{url}”"),
        format!("urls = \"{url}\", \"{url}\""),
        format!("urls {url}"),
        format!("urls: {url}"),
        format!("aliases = \"{url}\""),
        format!("realms = \"{url}\""),
        format!("hosts = \"{url}\""),
        "aliases = \"me:hunter2@a.b\"".to_owned(),
        "realms = \"me:hunter2@a.b\"".to_owned(),
        "hosts = \"me:hunter2@a.b\"".to_owned(),
        "password = hunter2".to_owned(),
        "password = \"hunter2\"".to_owned(),
        "password = “hunter2”".to_owned(),
        "password: hunter2".to_owned(),
        "password hunter2".to_owned(),
        "token = \"hunter2".to_owned(),
        format!("[server]\nlisten = \"{url}\""),
        format!("[rule]\nmatch = \"{url}\""),
    ] {
        let error = parse(&format!("[[upstream]]\nname = \"a.b\"\n{line}\n")).expect_err(&line);
        assert!(!error.to_string().contains("hunter2"), "{line}: {error}");
        assert!(error.mistakes().iter().all(|mistake| !mistake.problem().contains("hunter2")), "{line}: {error}");
    }
}

/// Files that no person wrote as a configuration.
#[test]
fn hostile_files_are_refused_in_few_short_lines() {
    let text = |repeated: &str| repeated.repeat((10 << 10) / repeated.len());
    for text in [
        text("x\n"),
        text("=\n"),
        format!("a = [{}]", text(",")),
        text("a = [\n"),
        text("[[upstream]]\n"),
        text("[server]\n"),
        text("\""),
        text("\0"),
        text("k"),
        format!("a{} = 1", text(".a")),
        format!("[{}]", text("a.")),
        format!("a = {}", text("[")),
        format!("a = {}", text("{a=")),
        format!("a = [{}]", text("1,")),
        format!("[server]\n{} = 1", text("k")),
        format!("[server]\nlisten = [1]\n{}", (0..1_000).map(|key| format!("k{key} = 1\n")).collect::<String>()),
        "[server]\n\"\\u001b[31m\\nforebay: fine\" = 1".to_owned(),
        "\u{feff}\u{202e}[server]\nlisten = 1".to_owned(),
    ] {
        let head: String = text.chars().take(40).collect();
        let error = parse(&text).expect_err(&head).to_string();
        assert!(error.lines().count() <= 100, "{head:?}: {error}");
        let is_short = |line: &str| line.len() <= 20_000 && !line.contains(|c: char| c.is_control());
        assert!(error.lines().all(is_short), "{head:?}: {error}");
    }
}
